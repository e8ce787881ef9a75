"""The exchange's public archive: names of its daily files, and their download with checksum, progress and resume.

A file is at `<base>/data/{futures/um,futures/cm,spot}/daily/<kind>/<SYMBOL>/<name>.zip`; klines are one folder deeper
(`…/1m/`). Its sha256 is in `<name>.zip.CHECKSUM` next to it (`<hex>  <name>.zip`). The archive sometimes re-issues a
file under the same name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from functools import partial
from pathlib import Path

import httpx
import structlog
from tenacity import RetryCallState, Retrying

from cryptolake_assets.errors import ArchiveChecksumError, ArchiveMissingError, ExchangeError
from cryptolake_assets.http.http_client import HttpClient, HttpResponse, RetryPolicy
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FamilyTables
from cryptolake_assets.model.markets import Family, Venue, venue_of

log = structlog.get_logger(__name__)

AGG_TRADES = "aggTrades"
KLINES = "klines"

_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S+)\s*", re.ASCII)
_DEFAULT_POLICY = RetryPolicy(attempts=8)  # an overloaded archive answers 503 for seconds, without Retry-After

# Called with (bytes downloaded, total bytes; None if the server does not state the total).
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class ArchiveFile:
    """The archive file of one symbol and UTC day: aggregate trades, or klines if `interval` is set (`1m`)."""

    symbol: str
    day: date
    interval: str = ""
    family: Family = Family.FUTURES

    @property
    def venue(self) -> Venue:
        return venue_of(self.symbol, self.family)

    @property
    def tables(self) -> FamilyTables:
        """The tables of its family."""
        return FAMILY_TABLES[self.family]

    @property
    def start_ms(self) -> int:
        """Start of the UTC day, epoch milliseconds."""
        return round(datetime.combine(self.day, time(), UTC).timestamp() * 1000)

    @property
    def name(self) -> str:
        return f"{self.symbol}-{self.interval or AGG_TRADES}-{self.day.isoformat()}.zip"

    @property
    def path(self) -> str:
        """Path below the archive's base URL."""
        folder = f"{KLINES}/{self.symbol}/{self.interval}" if self.interval else f"{AGG_TRADES}/{self.symbol}"
        return f"{self.venue.archive_path}/daily/{folder}/{self.name}"


def parse_checksum(text: str, name: str) -> str:
    """Return the sha256 (lower-case hex) of the file `name` from the text of its `.CHECKSUM` file.

    Raises `ArchiveChecksumError` for any other text.
    """
    found = _CHECKSUM.fullmatch(text)
    if found is None or found[2] != name:
        raise ArchiveChecksumError(
            f"archive: {name}.CHECKSUM does not contain the sha256 of {name}, but {text[:100]!r}. The file was not "
            "loaded. Check that CRYPTOLAKE_ARCHIVE_URL is the archive's address."
        )
    return found[1].lower()


def sha256_of(path: Path) -> str:
    """Return the sha256 of the file's bytes, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArchiveClient(HttpClient):
    """Blocking client of the archive.

    `checksum` and `fetch` raise `ArchiveMissingError` for a file that the archive does not have, and `ExchangeError`
    if the archive cannot be reached.
    """

    def __init__(self, base_url: str, timeout_s: float = 30.0, policy: RetryPolicy | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        super().__init__(self._base_url, timeout_s, policy or _DEFAULT_POLICY, follow_redirects=True)

    def url(self, file: ArchiveFile) -> str:
        return f"{self._base_url}{file.path}"

    def checksum(self, file: ArchiveFile) -> str:
        """Return the sha256 that the archive currently publishes."""
        response = self.get(HttpRequest(f"{file.path}.CHECKSUM"))
        self._check(file, response)
        return parse_checksum(response.body.decode(errors="replace"), file.name)

    def fetch(self, file: ArchiveFile, sha256: str, directory: Path, progress: Progress | None = None) -> Path:
        """Download the file into `directory`, verify it and return its path. `sha256` is the expected checksum.

        Resumes a partial download unless the archive's file has changed since. If the content does not match the
        checksum, deletes the partial file and raises `ArchiveChecksumError`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / file.name
        if target.exists() and sha256_of(target) == sha256:
            return target
        part = _PartialFile(directory, file.name)
        self._download(file, part, progress or (lambda _done, _total: None))
        found = sha256_of(part.path)
        # The archive publishes a file and its checksum separately: a re-issue may have happened in between.
        if found != sha256 and found != self.checksum(file):
            part.delete()
            raise ArchiveChecksumError(
                f"archive: {file.name} does not match its checksum: sha256 {found}, expected {sha256}. The file was "
                "rejected; previously loaded data is unchanged. Load it again; if the error repeats, the archive's "
                "file is damaged: wait for a re-issued one."
            )
        part.complete(target)
        return target

    def _download(self, file: ArchiveFile, part: _PartialFile, progress: Progress) -> None:
        resumed_from = part.size()
        if resumed_from:
            log.info("archive_download_resumed", file=file.name, bytes_stored=resumed_from)
        retrying = Retrying(**self.policy.arguments(_StopWithoutProgress(part, self.policy.attempts)))
        response = retrying(self._continue, file, part, progress)
        self._check(file, response, f" {part.size()} bytes are stored; the next call resumes the download.")
        log.info("archive_downloaded", file=file.name, bytes=part.size(), bytes_resumed=resumed_from)

    def _continue(self, file: ArchiveFile, part: _PartialFile, progress: Progress) -> HttpResponse:
        """Make one request: for the missing bytes, or for the full file if no download can be resumed."""
        headers = {"Accept-Encoding": "identity"}
        if part.size() and part.version():
            headers |= {"Range": f"bytes={part.size()}-", "If-Range": part.version()}
        return self.stream(HttpRequest(file.path, headers=headers), partial(_receive, part, progress))

    def _check(self, file: ArchiveFile, response: HttpResponse, hint: str = "") -> None:
        """Raise `ArchiveMissingError` or `ExchangeError` for a failed response."""
        if response.failure is None:
            return
        if response.status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise ArchiveMissingError(
                f"archive: {self._base_url} has no {file.path}. Files are published some hours after the day has "
                f"ended, and only for symbols listed on that day. Check the symbol {file.symbol} and the day "
                f"{file.day}."
            )
        if response.is_transient:
            raise ExchangeError(
                f"archive: {response.url} could not be fetched ({response.failure}).{hint} Check that the archive is "
                "reachable (CRYPTOLAKE_ARCHIVE_URL), then load the day again."
            )
        raise ExchangeError(
            f"archive: the request for {response.url} was rejected ({response.failure}). Check CRYPTOLAKE_ARCHIVE_URL "
            "and the settings of any HTTP proxy."
        )


class _PartialFile:
    """A partial download, and the version of the archive's file that it belongs to."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / f"{name}.part"
        self._version = directory / f"{name}.part.version"

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> str:
        """Return the version; empty if unknown, so that the download cannot be resumed."""
        with suppress(OSError):
            return self._version.read_text(encoding="ascii")
        return ""

    def begin(self, version: str) -> None:
        self.path.unlink(missing_ok=True)
        self._version.write_text(version, encoding="ascii")
        self.path.touch()

    def complete(self, target: Path) -> None:
        self.path.replace(target)
        self._version.unlink(missing_ok=True)

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)


class _StopWithoutProgress:
    """Stop after `attempts` consecutive attempts without progress, so that a slow, unreliable link still finishes."""

    def __init__(self, part: _PartialFile, attempts: int) -> None:
        self._part, self._attempts = part, attempts
        self._size, self._failed = part.size(), 0

    def __call__(self, _state: RetryCallState) -> bool:
        size = self._part.size()
        self._failed = 1 if size > self._size else self._failed + 1
        self._size = size
        return self._failed >= self._attempts


def _receive(part: _PartialFile, progress: Progress, response: HttpResponse, stream: httpx.Response) -> HttpResponse:
    """Append the body to the partial file if it continues there; otherwise start the file again."""
    received, is_same_version = part.size(), _version(stream) == part.version()
    if response.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        if is_same_version and stream.headers.get("Content-Range") == f"bytes */{received}":
            return replace(response, failure=None)
        part.delete()
        return response.with_transient_failure("the partial file does not match the archive's file any more")
    if response.status == httpx.codes.PARTIAL_CONTENT:
        # Not every server honors If-Range.
        if not (is_same_version and _starts_at(stream, received)):
            part.delete()
            return response.with_transient_failure("the archive's file changed during the download")
    elif response.failure is not None:
        return response
    else:
        received = 0
        part.begin(_version(stream))
    length = stream.headers.get("Content-Length", "")
    total = received + int(length) if length.isascii() and length.isdigit() else None
    progress(received, total)
    with part.path.open("ab") as out:
        # Write each chunk as it arrives: buffered bytes would be lost when the connection breaks.
        for data in stream.iter_raw():
            out.write(data)
            received += len(data)
            progress(received, total)
    if total is not None and received != total:
        return response.with_transient_failure(f"received {received} of {total} bytes")
    return replace(response, failure=None)


def _version(response: httpx.Response) -> str:
    """Return the file's version: its strong ETag, else Last-Modified. Weak ETags do not identify the bytes."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _starts_at(response: httpx.Response, offset: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")
