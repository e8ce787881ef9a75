"""Write frames to capture files in the format of `reader`: compressed, rotated, recoverable after a crash.

An unfinished file is named `….ndjson.gz.part`, which readers ignore; it is renamed when complete. The next writer
recovers the unfinished files of a killed one, up to the last frame on disk.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cryptolake_assets.errors import CaptureError

log = structlog.get_logger(__name__)

SUFFIX = ".ndjson.gz"
PART = ".part"
FLUSH_S = 2.0  # maximum seconds of frames lost if the machine dies
_CHUNK_BYTES = 1 << 20


class CaptureWriter:
    """Writer of one recording: appends frames to files in a directory, with a new file every `rotate_s` seconds."""

    def __init__(self, directory: Path, name: str, rotate_s: float, wall: Callable[[], float] = time.time) -> None:
        """Create the directory and recover files of a killed writer. Raises `CaptureError` if it cannot be written."""
        self._directory, self._name, self._rotate_s, self._wall = directory, name, rotate_s, wall
        self._file: gzip.GzipFile | None = None
        self._path = directory
        self._opened_at = self._flushed_at = 0.0
        self.frames = 0
        self.skipped = 0  # frames that are not UTF-8, which the text format cannot hold
        self.files = 0
        self.size_bytes = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _write_error(directory, error) from error
        recover(directory)

    def write(self, received_at_us: int, raw: bytes) -> None:
        """Append one frame verbatim; line breaks, which JSON allows only between values, become spaces."""
        try:
            raw.decode()
        except UnicodeDecodeError:
            self.skipped += 1
            return
        if b"\n" in raw or b"\r" in raw:
            raw = raw.replace(b"\r", b" ").replace(b"\n", b" ")
        now = self._wall()
        file = self._file
        if file is None or now - self._opened_at >= self._rotate_s:
            file = self._open(now)
        try:
            file.write(b"%d %s\n" % (received_at_us, raw))
            if now - self._flushed_at >= FLUSH_S:
                file.flush(zlib.Z_SYNC_FLUSH)
                self._flushed_at = now
        except OSError as error:
            raise _write_error(self._path, error) from error
        self.frames += 1

    def close(self) -> None:
        """Complete the current file."""
        if self._file is None:
            return
        try:
            self._file.close()
            self.size_bytes += self._path.stat().st_size
            self._path.rename(self._path.with_name(self._path.name.removesuffix(PART)))
        except OSError as error:
            raise _write_error(self._path, error) from error
        self._file = None

    def _open(self, now: float) -> gzip.GzipFile:
        self.close()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = self._directory / f"{self._name}-{stamp}{SUFFIX}{PART}"
        try:
            file = gzip.GzipFile(self._path, "wb", compresslevel=6)
        except OSError as error:
            raise _write_error(self._path, error) from error
        self._file = file
        self._opened_at = self._flushed_at = now
        self.files += 1
        return file


def recover(directory: Path) -> list[Path]:
    """Recover the complete lines of the unfinished files of a killed writer; return the recovered files."""
    recovered = []
    for part in sorted(directory.glob(f"*{SUFFIX}{PART}")):
        content = _readable(part)
        lines = content[: content.rfind(b"\n") + 1]
        target = part.with_name(part.name.removesuffix(PART))
        if lines:
            draft = part.with_suffix(".recovering")
            draft.write_bytes(gzip.compress(lines, 6))
            draft.rename(target)
            recovered.append(target)
        part.unlink()
        log.warning("capture_recovered", file=str(target), frames=lines.count(b"\n"))
    return recovered


def _readable(path: Path) -> bytes:
    """Return the decompressible prefix of a possibly truncated file."""
    inflate = zlib.decompressobj(wbits=31)
    found = bytearray()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            try:
                found += inflate.decompress(chunk)
            except zlib.error:
                break
    return bytes(found)


def _write_error(path: Path, error: OSError) -> CaptureError:
    return CaptureError(f"capture: {path} cannot be written ({error}). Use a writable directory with free space.")
