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
from cryptolake_assets.model.markets import Family, Venue, venue_of

log = structlog.get_logger(__name__)

AGG_TRADES = "aggTrades"
KLINES = "klines"

_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S+)\s*", re.ASCII)
_PATIENT = RetryPolicy(attempts=8)  # an overloaded archive answers 503 for seconds, without Retry-After

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
    """Return the sha256 (lower-case hex) that a `.CHECKSUM` file states for the file `name`.

    Raises `ArchiveChecksumError` for any other text.
    """
    found = _CHECKSUM.fullmatch(text)
    if found is None or found[2] != name:
        raise ArchiveChecksumError(
            f"archive: {name}.CHECKSUM does not state the sha256 of {name}; it says {text[:100]!r}. Check that "
            "CRYPTOLAKE_ARCHIVE_URL is the archive's; without a checksum the file is not loaded."
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
        super().__init__(self._base_url, timeout_s, policy or _PATIENT, follow_redirects=True)

    def url(self, file: ArchiveFile) -> str:
        return f"{self._base_url}{file.path}"

    def checksum(self, file: ArchiveFile) -> str:
        """Return the sha256 that the archive currently states."""
        response = self.get(HttpRequest(f"{file.path}.CHECKSUM"))
        self._judge(file, response)
        return parse_checksum(response.body.decode(errors="replace"), file.name)

    def fetch(self, file: ArchiveFile, sha256: str, directory: Path, progress: Progress | None = None) -> Path:
        """Download the file into `directory`, verify it and return its path. `sha256` is the expected checksum.

        Resumes a partial download unless the archive's file has changed since. If the content does not match the
        checksum, deletes the partial file and raises `ArchiveChecksumError`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        whole = directory / file.name
        if whole.exists() and sha256_of(whole) == sha256:
            return whole
        part = _Part(directory, file.name)
        self._download(file, part, progress or (lambda _done, _total: None))
        found = sha256_of(part.path)
        # The archive publishes a file and its checksum separately: a re-issue may have happened in between.
        if found != sha256 and found != self.checksum(file):
            part.delete()
            raise ArchiveChecksumError(
                f"archive: {file.name} does not fit its checksum: sha256 {found}, stated {sha256}. It is refused and "
                "what was loaded before stays. Load it again; if that goes on, the archive's file is damaged, and a "
                "re-issued one has to be waited for."
            )
        part.become(whole)
        return whole

    def _download(self, file: ArchiveFile, part: _Part, progress: Progress) -> None:
        begun = part.size()
        if begun:
            log.info("archive_download_resumed", file=file.name, bytes_there=begun)
        retrying = Retrying(**self.policy.arguments(_StopWithoutProgress(part, self.policy.attempts)))
        response = retrying(self._continue, file, part, progress)
        self._judge(file, response, f" {part.size()} bytes are there; the next call goes on.")
        log.info("archive_downloaded", file=file.name, bytes=part.size(), bytes_resumed=begun)

    def _continue(self, file: ArchiveFile, part: _Part, progress: Progress) -> HttpResponse:
        """Make one request: for the missing bytes, or for the whole file if no resumable part exists."""
        headers = {"Accept-Encoding": "identity"}
        if part.size() and part.version():
            headers |= {"Range": f"bytes={part.size()}-", "If-Range": part.version()}
        return self.stream(HttpRequest(file.path, headers=headers), partial(_receive, part, progress))

    def _judge(self, file: ArchiveFile, response: HttpResponse, more: str = "") -> None:
        if response.failure is None:
            return
        if response.status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise ArchiveMissingError(
                f"archive: {self._base_url} has no {file.path}. A day is published some hours after it has ended, and "
                f"a symbol has files only of days on which it was listed: check that {file.symbol} is a symbol, and "
                f"that {file.day} is not too new."
            )
        if response.may_pass:
            raise ExchangeError(
                f"archive: {response.url} could not be fetched ({response.failure}).{more} Check that the archive is "
                "reachable (CRYPTOLAKE_ARCHIVE_URL), then load the day again."
            )
        raise ExchangeError(
            f"archive: {response.url} was refused with {response.failure}. Check CRYPTOLAKE_ARCHIVE_URL, and whether a "
            "proxy stands in between."
        )


class _Part:
    """A partial download, and next to it the version of the archive's file that it belongs to."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / f"{name}.part"
        self._version = directory / f"{name}.part.version"

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> str:
        """Return the version; empty if unknown: the download cannot be resumed then."""
        with suppress(OSError):
            return self._version.read_text(encoding="ascii")
        return ""

    def begin(self, version: str) -> None:
        self.path.unlink(missing_ok=True)
        self._version.write_text(version, encoding="ascii")
        self.path.touch()

    def become(self, whole: Path) -> None:
        self.path.replace(whole)
        self._version.unlink(missing_ok=True)

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)


class _StopWithoutProgress:
    """Stops after `attempts` consecutive attempts without progress, so that a slow, unreliable link still finishes."""

    def __init__(self, part: _Part, attempts: int) -> None:
        self._part, self._attempts = part, attempts
        self._size, self._failed = part.size(), 0

    def __call__(self, _state: RetryCallState) -> bool:
        size = self._part.size()
        self._failed = 1 if size > self._size else self._failed + 1
        self._size = size
        return self._failed >= self._attempts


def _receive(part: _Part, progress: Progress, response: HttpResponse, stream: httpx.Response) -> HttpResponse:
    """Append the body to the part if it continues where the part ends; otherwise restart the part."""
    there, same = part.size(), _version(stream) == part.version()
    if response.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        if same and stream.headers.get("Content-Range") == f"bytes */{there}":
            return replace(response, failure=None)
        part.delete()
        return response.passing("the partial file is not a part of the archive's any more")
    if response.status == httpx.codes.PARTIAL_CONTENT:
        # Not every server honors If-Range.
        if not (same and _starts_at(stream, there)):
            part.delete()
            return response.passing("the archive's file is another one than when the download began")
    elif response.failure is not None:
        return response
    else:
        there = 0
        part.begin(_version(stream))
    length = stream.headers.get("Content-Length", "")
    total = there + int(length) if length.isascii() and length.isdigit() else None
    progress(there, total)
    with part.path.open("ab") as out:
        # Write each chunk as it arrives: buffered bytes would be lost when the connection breaks.
        for data in stream.iter_raw():
            out.write(data)
            there += len(data)
            progress(there, total)
    if total is not None and there != total:
        return response.passing(f"{there} of {total} bytes came")
    return replace(response, failure=None)


def _version(response: httpx.Response) -> str:
    """Return the file's version: its strong ETag, else Last-Modified. Weak ETags do not identify the bytes."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _starts_at(response: httpx.Response, offset: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")
