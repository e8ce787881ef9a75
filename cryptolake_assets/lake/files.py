"""Read and write small files next to the tables, on the local disk or an S3 store."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem, S3FileSystem

_S3 = ("s3://", "s3a://")


def open_filesystem(settings: Settings, location: str) -> tuple[FileSystem, str]:
    """Return the file system of a location (`file://` and a path, `s3://…`) and the path on it."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if location.startswith("file://"):
        return LocalFileSystem(), location.removeprefix("file://")
    for scheme in _S3:
        if location.startswith(scheme):
            return s3_filesystem(settings), location.removeprefix(scheme)
    filesystem, path = FileSystem.from_uri(location)
    return filesystem, path


def s3_filesystem(settings: Settings) -> S3FileSystem:
    """Return the configured S3 store; without keys, credentials come from AWS's default chain."""
    from pyarrow.fs import S3FileSystem

    arguments: dict[str, object] = {
        "region": settings.s3_region,
        "force_virtual_addressing": not settings.s3_path_style,
    }
    if settings.minio_endpoint:
        endpoint = urlsplit(settings.minio_endpoint)
        arguments |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if settings.minio_root_user:
        arguments |= {
            "access_key": settings.minio_root_user,
            "secret_key": settings.minio_root_password.get_secret_value(),
            "session_token": settings.s3_session_token.get_secret_value() or None,
        }
    return S3FileSystem(**arguments)


def read_text(settings: Settings, location: str) -> str | None:
    """Return the file's text; None if it does not exist."""
    filesystem, path = open_filesystem(settings, location)
    try:
        with filesystem.open_input_file(path) as file:
            return str(file.read().decode())
    except FileNotFoundError:
        return None


def write_text(settings: Settings, location: str, text: str) -> None:
    """Replace the file atomically: a reader sees the old text or the new one; the last of several writers wins."""
    filesystem, path = open_filesystem(settings, location)
    if location.startswith(_S3):  # an object appears only when complete
        with filesystem.open_output_stream(path) as file:
            file.write(text.encode())
        return
    directory, _, name = path.rpartition("/")
    filesystem.create_dir(directory, recursive=True)
    draft = f"{directory}/.{name}.{uuid.uuid4().hex}.draft"
    with filesystem.open_output_stream(draft) as file:
        file.write(text.encode())
    filesystem.move(draft, path)
