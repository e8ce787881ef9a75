"""Download the pinned jars of the broker and of Spark with Ivy; verify their checksums. Each is fetched only once.

`jars.lock` lists all jars. They are fetched without their dependencies, so no other jar is ever loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

import structlog
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from cryptolake_assets.errors import DownloadError
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.truststore import network_options
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

LOCK_FILE = Path(__file__).with_name("jars.lock")
KAFKA = "kafka"
SPARK = "spark"
STORE = "store"  # Spark's clients of S3 and PostgreSQL; fetched only if the settings use one of them
ATTEMPTS = 3
RETRY_WAIT_S = 3.0
_FAILED_JAR = re.compile(r"^:: ([^ #]+#[^ ;]+;[^ :]+): (.+)")  # Ivy's line about a jar that it could not fetch
_ERROR_LINE = re.compile(r"error\b|exception", re.IGNORECASE)


@dataclass(frozen=True)
class Jar:
    """One line of the lock file: a Maven coordinate with the expected checksum and size."""

    group: str
    organisation: str
    name: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.jar"

    @property
    def coordinate(self) -> str:
        return f"{self.organisation}:{self.name}:{self.version}"


def parse_lock(text: str) -> tuple[Jar, ...]:
    """Return the jars of a lock file's text. Raises `DownloadError` naming the first malformed line."""
    jars = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            group, coordinate, sha256, size = line.split()
            organisation, name, version = coordinate.split(":")
            if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:
                raise ValueError("not a sha256")
            jars.append(Jar(group, organisation, name, version, sha256, int(size)))
        except ValueError as error:
            raise DownloadError(
                f"jars: line {number} of jars.lock is not `group coordinate sha256 size` ({error}): {line!r}. "
                "Restore the file from the repository."
            ) from None
    return tuple(jars)


@lru_cache(maxsize=1)
def locked_jars() -> tuple[Jar, ...]:
    """Return all pinned jars."""
    return parse_lock(LOCK_FILE.read_text(encoding="utf-8"))


def spark_groups(settings: Settings) -> tuple[str, ...]:
    """Return the groups of jars that Spark needs with these settings."""
    on_postgres = not settings.iceberg_rest_uri and settings.catalog_uri.get_secret_value()
    return (SPARK, STORE) if settings.uses_s3 or on_postgres else (SPARK,)


def needed_jars(settings: Settings) -> tuple[Jar, ...]:
    """Return the pinned jars that the platform needs with these settings."""
    return tuple(jar for jar in locked_jars() if jar.group in (KAFKA, *spark_groups(settings)))


def jar_dir(settings: Settings, group: str) -> Path:
    """Return the directory of a group's jars; it exists after `ensure_jars`."""
    return settings.lib_dir / "jars" / group


def describe(jars: Iterable[Jar]) -> str:
    """Return number and size in readable form, such as `52 jars, 117 MB`."""
    jars = tuple(jars)
    return f"{len(jars)} jar{'s' * (len(jars) != 1)}, {size_text(sum(jar.size_bytes for jar in jars))}"


def size_text(size_bytes: int) -> str:
    """Return a size in readable form: `48 MB`, `4 kB`."""
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes >= 1_000_000 else f"{size_bytes / 1e3:.0f} kB"


def ensure_jars(settings: Settings, console: Console | None = None, jars: tuple[Jar, ...] | None = None) -> list[Jar]:
    """Fetch jars that are missing or differ from the lock file; return the fetched jars.

    If nothing changed since the last full check, only file times and sizes are compared.
    Raises `DownloadError` naming the jar and the cause.
    """
    jars = needed_jars(settings) if jars is None else jars
    console = console or Console(stderr=True)
    store = JarStore(settings.lib_dir, jars)
    if store.is_checked():
        return []
    store.root.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.lib_dir / "jars.filelock"):
        missing = store.missing()
        if missing:
            console.print(f"Downloading {describe(missing)}, to {store.root}", highlight=False, soft_wrap=True)
            _fetch(settings.lib_dir, store, missing, console)
        store.mark_checked()
    return missing


class JarStore:
    """The fetched jars in `lib_dir`, and the stamp file of their last full check."""

    def __init__(self, lib_dir: Path, jars: tuple[Jar, ...]) -> None:
        self.root = lib_dir / "jars"
        self.jars = jars
        self._stamp = self.root / "checked.json"

    def path(self, jar: Jar) -> Path:
        return self.root / jar.group / jar.file_name

    def is_checked(self) -> bool:
        """Return whether every file is unchanged since its last check."""
        try:
            return self._file_stats().items() <= self._checked().items()
        except OSError:
            return False

    def mark_checked(self) -> None:
        # Other settings, such as those of a cluster, need other jars of the same directory: their checks stay.
        self._stamp.write_text(json.dumps({**self._checked(), **self._file_stats()}))

    def _checked(self) -> dict[str, list[object]]:
        try:
            return dict(json.loads(self._stamp.read_text()))
        except (OSError, ValueError):
            return {}

    def missing(self) -> list[Jar]:
        """Return the jars whose file is absent or has a wrong checksum; remove wrong and unknown files."""
        expected = {self.path(jar) for jar in (*self.jars, *locked_jars())}
        for extra in {*self.root.glob("*/*.jar")} - expected:
            extra.unlink()
        return [jar for jar in self.jars if not self._is_intact(jar)]

    def install(self, jar: Jar, file: Path) -> None:
        """Move a fetched file into place. Raises `DownloadError` if it is missing or its checksum is wrong."""
        if not file.is_file():
            raise DownloadError(f"jars: {jar.coordinate} was not downloaded. Run `make setup` again.")
        found = sha256_of(file)
        if found != jar.sha256:
            size_bytes = file.stat().st_size
            file.unlink()
            raise DownloadError(
                f"jars: {jar.coordinate} has sha256 {found} ({size_bytes} bytes), but {jar.sha256} "
                f"({jar.size_bytes} bytes) is pinned; the file was deleted. Run `make setup` again; if the error "
                "persists, a proxy or a repository mirror changes the file."
            )
        target = self.path(jar)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)

    def _is_intact(self, jar: Jar) -> bool:
        path = self.path(jar)
        if not path.is_file():
            return False
        if path.stat().st_size == jar.size_bytes and sha256_of(path) == jar.sha256:
            return True
        log.warning("jar_checksum_mismatched", jar=jar.coordinate, path=str(path))
        path.unlink()
        return False

    def _file_stats(self) -> dict[str, list[object]]:
        stats: dict[str, list[object]] = {}
        for jar in self.jars:
            stat = self.path(jar).stat()
            stats[f"{jar.group}/{jar.file_name}"] = [jar.sha256, stat.st_size, stat.st_mtime_ns]
        return stats


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ivy_xml(jars: Iterable[Jar]) -> str:
    """Return an Ivy module file that depends on exactly `jars`, without transitive dependencies."""
    rows = "\n".join(
        f"    <dependency org={quoteattr(jar.organisation)} name={quoteattr(jar.name)} rev={quoteattr(jar.version)}"
        ' conf="default->default" transitive="false"/>'
        for jar in jars
    )
    return (
        '<ivy-module version="2.0">\n  <info organisation="cryptolake" module="jars"/>\n'
        f'  <configurations><conf name="default"/></configurations>\n  <dependencies>\n{rows}\n  </dependencies>\n'
        "</ivy-module>\n"
    )


def _fetch(lib_dir: Path, store: JarStore, jars: list[Jar], console: Console) -> None:
    # Ivy runs in its own directory with relative paths, because `[`, `(` and `$` are its pattern syntax.
    work_dir = lib_dir / "ivy"
    with _JarProgress(console, jars) as progress:
        for group in dict.fromkeys(jar.group for jar in jars):
            group_jars = [jar for jar in jars if jar.group == group]
            staging = work_dir / "staging"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            (work_dir / "ivy.xml").write_text(ivy_xml(group_jars), encoding="utf-8")
            _run_ivy(work_dir, network_options(lib_dir), group_jars, progress.fetched)
            for jar in group_jars:
                try:
                    store.install(jar, staging / jar.file_name)
                except DownloadError:
                    shutil.rmtree(work_dir, ignore_errors=True)  # also removes Ivy's cache with the wrong file
                    raise
                progress.fetched(jar)
    shutil.rmtree(work_dir, ignore_errors=True)


def _run_ivy(work_dir: Path, options: list[str], jars: list[Jar], fetched: Callable[[Jar], None]) -> None:
    import pyspark

    # The Ivy in pyspark's jar directory, with which Spark itself fetches packages.
    ivy_jar = next(Path(pyspark.__file__).parent.glob("jars/ivy-*.jar"), None)
    if ivy_jar is None:
        raise DownloadError("jars: pyspark's Ivy jar is missing. Run `make setup` again.")
    # With an empty user directory, Ivy ignores the settings in `~/.ivy2`; the path must be absolute.
    user_dir = (work_dir / "user").resolve()
    command = [
        *(str(find_java().executable), *options, f"-Divy.default.ivy.user.dir={user_dir}", "-jar", str(ivy_jar)),
        *("-ivy", "ivy.xml", "-cache", "cache", "-retrieve", "staging/[artifact]-[revision].[ext]"),
    ]
    by_module = {f"{jar.organisation}#{jar.name};{jar.version}": jar for jar in jars}
    for attempt in range(1, ATTEMPTS + 1):
        lines: deque[str] = deque(maxlen=400)
        with subprocess.Popen(
            command, cwd=work_dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            _follow(process.stdout, by_module, fetched, lines)
        if process.returncode == 0:
            return
        cause = failure_cause(lines)
        log.warning("jar_download_failed", attempt=attempt, attempts=ATTEMPTS, cause=cause)
        time.sleep(RETRY_WAIT_S * attempt)
    raise DownloadError(f"jars: {cause}")


def _follow(
    output: IO[str] | None, by_module: dict[str, Jar], fetched: Callable[[Jar], None], lines: deque[str]
) -> None:
    for line in output or ():
        lines.append(line.rstrip())
        if "[SUCCESSFUL ]" in line:
            jar = by_module.get(line.split("]", 1)[1].strip().split("!", 1)[0])
            if jar is not None:
                fetched(jar)


def failure_cause(lines: Iterable[str]) -> str:
    """Return Ivy's error with the next step, in one line."""
    lines = [line.strip() for line in lines]
    failed = [match for line in lines if (match := _FAILED_JAR.match(line))]
    names = ", ".join(dict.fromkeys(match[1] for match in failed)) or "the jars"
    reasons = [line for line in lines if _ERROR_LINE.search(line)] or [match[2] for match in failed]
    return (
        f"{names} could not be downloaded: {(reasons or ['Ivy failed without a message'])[0]}. Run `make setup` again. "
        "Behind a proxy, set https_proxy; in a network with its own CA, set SSL_CERT_FILE to its PEM bundle."
    )


class _JarProgress:
    """A progress bar on a terminal, else one line per jar."""

    def __init__(self, console: Console, jars: list[Jar]) -> None:
        self._console = console
        self._pending = dict.fromkeys(jars)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task("resolving", total=sum(jar.size_bytes for jar in jars))

    def __enter__(self) -> _JarProgress:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def fetched(self, jar: Jar) -> None:
        if jar not in self._pending:
            return
        del self._pending[jar]
        self._progress.update(self._task, advance=jar.size_bytes, description=jar.name)
        if not self._console.is_terminal:
            self._console.print(f"  {jar.file_name} ({size_text(jar.size_bytes)})", highlight=False)
