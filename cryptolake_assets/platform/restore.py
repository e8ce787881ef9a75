"""Restore a backup into a home, the original or another one: `cryptolake restore`.

All files are verified before the home changes. Its earlier data is moved aside, never deleted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec
import structlog
from rich.console import Console

from cryptolake_assets.errors import BackupError
from cryptolake_assets.lake.catalog import forget_catalogs
from cryptolake_assets.lake.relocation import relocate
from cryptolake_assets.platform import processes
from cryptolake_assets.platform.backup import (
    BLOCK_BYTES,
    CATALOG,
    FORMAT,
    MANIFEST,
    WAREHOUSE,
    FileCopy,
    Manifest,
    Progress,
    part_paths,
)
from cryptolake_assets.platform.lifecycle import lifecycle_lock, restore_dir
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Restored:
    """The restored backup, and the new paths of the home's earlier data."""

    manifest: Manifest
    moved_aside: list[Path]


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a backup. Raises `BackupError` if there is no readable one."""
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise BackupError(
            f"restore: {directory} is not a backup ({path.name}: {error.strerror}). Use a directory made by "
            "`cryptolake backup`."
        ) from None
    except msgspec.MsgspecError as error:
        raise BackupError(f"restore: {path} is damaged ({error}). Use another backup.") from None
    if manifest.format > FORMAT:
        raise BackupError(
            f"restore: {path} has format {manifest.format} of release {manifest.release}; this release reads "
            f"formats up to {FORMAT}. Install that release or a later one."
        )
    return manifest


def restore(
    settings: Settings,
    directory: Path,
    *,
    replace: bool = False,
    progress: Progress = lambda _name, _bytes: None,
    console: Console | None = None,
) -> Restored:
    """Restore the backup into the home. With `replace`, existing data is moved aside; without it, rejected.

    Raises `BackupError`, before anything changes, for a running platform, existing data or a damaged backup.
    """
    directory = directory.expanduser().resolve()
    manifest = read_manifest(directory)
    targets = part_paths(settings)
    _check_brokers(settings, manifest)
    _check_names(manifest.files, targets, directory)
    with lifecycle_lock(settings, console or Console(stderr=True, highlight=False)):
        if Supervisor(settings).is_running() or processes.instance_processes(settings.home):
            raise BackupError(f"restore: the platform of {settings.home} is running. Stop it with `cryptolake down`.")
        existing = [path for path in targets.values() if path.is_file() or (path.is_dir() and any(path.iterdir()))]
        if existing and not replace:
            raise BackupError(
                f"restore: the home already has data ({existing[0]}). Restore into another CRYPTOLAKE_HOME, or move "
                "the data aside with --replace."
            )
        try:
            moved = _install(settings, manifest, directory, targets, progress)
        except OSError as error:
            raise BackupError(
                f"restore: {error.filename or settings.home}: {error.strerror or error}. Correct the cause, then run "
                "it again."
            ) from error
    log.info("backup_restored", directory=str(directory), home=str(settings.home))
    return Restored(manifest, moved)


def _check_brokers(settings: Settings, manifest: Manifest) -> None:
    """Reject other brokers: offsets in the checkpoints are valid only for the broker of the backup."""
    if bool(manifest.brokers) != bool(settings.kafka_bootstrap_servers):
        brokers = f"the brokers {manifest.brokers}" if manifest.brokers else "the local broker, whose log it includes"
        raise BackupError(
            f"restore: the backup belongs to {brokers}. Set KAFKA_BOOTSTRAP_SERVERS to "
            f"{manifest.brokers or 'an empty value'}, then run it again."
        )


def _check_names(files: Iterable[FileCopy], targets: dict[str, Path], directory: Path) -> None:
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or file.part not in targets:
            raise BackupError(
                f"restore: {directory / MANIFEST} lists an invalid path, {file.path!r}. Use another backup."
            )


def _install(
    settings: Settings, manifest: Manifest, directory: Path, targets: dict[str, Path], progress: Progress
) -> list[Path]:
    """Copy next to the home's data, verify, relocate, then move into place. Return the paths of the earlier data."""
    staged = restore_dir(settings)
    partial = staged.with_suffix(".partial")
    for leftover in (partial, staged):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        for file in manifest.files:
            _copy_verified(directory / file.path, partial / file.path, file, progress)
        if manifest.warehouse != settings.warehouse_location:
            catalog_db = partial / CATALOG / settings.catalog_db.name
            relocate(partial / WAREHOUSE, catalog_db, manifest.warehouse, settings.warehouse_location)
        # While this directory exists, the files are complete and the home is not: `up` rejects it.
        os.sync()
        partial.rename(staged)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    moved = _move_aside(targets.values())
    for name, target in targets.items():
        if (staged / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rmdir()
            shutil.move(staged / name, target)
    shutil.rmtree(staged)
    forget_catalogs()
    return moved


def _copy_verified(source: Path, target: Path, file: FileCopy, progress: Progress) -> None:
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            while block := reader.read(BLOCK_BYTES):
                digest.update(block)
                writer.write(block)
                size += len(block)
                progress(file.path, len(block))
        target.chmod(source.stat().st_mode)
    except FileNotFoundError:
        raise BackupError(f"restore: {source} is missing from the backup. Use another backup.") from None
    if (size, digest.hexdigest()) != (file.bytes, file.sha256):
        raise BackupError(
            f"restore: {source} is damaged ({size} of {file.bytes} bytes, or a wrong checksum). Use another backup."
        )


def _move_aside(paths: Iterable[Path]) -> list[Path]:
    moved = []
    suffix = f".replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for path in paths:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            aside = path.with_name(path.name + suffix)
            path.rename(aside)
            moved.append(aside)
    return moved
