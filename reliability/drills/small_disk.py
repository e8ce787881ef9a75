"""A small file system for the home of a drill, which a fault can fill: an image, mounted if this user may."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

OWN_DISK: Final = "own_disk"  # capability of a platform whose home is such a file system
SIZE_BYTES: Final = 3 * 1024**3  # `cryptolake up` requires 1 GiB
FILLER: Final = "filler"
_BLOCK: Final = bytes(1024**2)


def mount(home: Path) -> bool:
    """Mount an empty file system at the directory; return False, with nothing changed, if that is not possible."""
    image = _image(home)
    home.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    if _succeeds("mkfs.ext4", "-q", "-F", "-m", "0", str(image)) and _succeeds("mount", "-o", "loop", image, home):
        return True
    image.unlink()
    home.rmdir()
    return False


def release(home: Path) -> None:
    """Unmount the directory, if it is mounted, and delete the image."""
    if home.is_mount() and _succeeds("umount", "--lazy", home):
        _image(home).unlink()


@contextmanager
def filled(home: Path) -> Iterator[None]:
    """Fill the file system until the block ends."""
    path = home / FILLER
    try:
        with path.open("wb", buffering=0) as file:
            fill(file.fileno(), _BLOCK)
            yield
    finally:
        path.unlink(missing_ok=True)


def fill(descriptor: int, block: bytes) -> None:
    """Write blocks until no space is left, the last ones smaller."""
    while block:
        try:
            os.write(descriptor, block)
        except OSError:
            block = block[: len(block) // 2]


def _image(home: Path) -> Path:
    return home.with_name(f"{home.name}.img")


def _succeeds(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
