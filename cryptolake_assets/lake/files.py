"""Small files beside the tables, on whatever file system the warehouse is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def open_filesystem(location: str) -> tuple[FileSystem, str]:
    """The file system of a location (`file://` and a path, `s3://…`) and the path on it."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if location.startswith("file://"):
        return LocalFileSystem(), location.removeprefix("file://")
    filesystem, path = FileSystem.from_uri(location)
    return filesystem, path


def read_text(location: str) -> str | None:
    """The file's text; None when there is none."""
    filesystem, path = open_filesystem(location)
    try:
        with filesystem.open_input_file(path) as file:
            return str(file.read().decode())
    except FileNotFoundError:
        return None


def write_text(location: str, text: str) -> None:
    """Replaces the file: a reader sees the old text or the new one. One writer at a time."""
    filesystem, path = open_filesystem(location)
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    draft = f"{path}.draft"
    with filesystem.open_output_stream(draft) as file:
        file.write(text.encode())
    filesystem.move(draft, path)
