"""Online backup of a platform's home: `cryptolake backup`. `restore.py` restores it.

The platform keeps running. The copy order makes the backup consistent, because each part is at least as new as the
parts before it that refer to it: Dagster's storage and the follower's cursor (an older cursor causes duplicate work),
the stream's checkpoint, the catalog, the table files, Kafka's log. See docs/decisions/0037-backup.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from cryptolake_assets.errors import BackupError
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.maintenance.expiry import QUERY_ID
from cryptolake_assets.lake.maintenance.tasks import maintenance_lock
from cryptolake_assets.lake.stores import SQLITE_TIMEOUT_S
from cryptolake_assets.platform import kafka
from cryptolake_assets.settings import Settings, env_name

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table.metadata import TableMetadata

log = structlog.get_logger(__name__)

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
WAREHOUSE, CHECKPOINTS, FOLLOWER = "warehouse", "checkpoints", "follower"
DAGSTER, KAFKA, KEYS, CATALOG = "dagster", "kafka", "api_keys.json", "catalog"
ATTEMPTS: Final = 30
PAUSE_S: Final = 0.5
MAINTENANCE_WAIT_S: Final = 300.0
BLOCK_BYTES: Final = 1024 * 1024
EPOCH_ID: Final = "spark.sql.streaming.epochId"  # snapshot property: batch id that the streaming query committed

Progress = Callable[[str, int], None]  # called for each copied block with the file's name and the block's bytes


@dataclass(frozen=True)
class FileCopy:
    """A file of the backup: its path in the backup, size and checksum."""

    path: str
    bytes: int
    sha256: str

    @property
    def part(self) -> str:
        return self.path.partition("/")[0]


@dataclass(frozen=True)
class TableCopy:
    """A table in the backup. `snapshot_id` is None for an empty table."""

    name: str
    snapshot_id: int | None
    rows: int


@dataclass(frozen=True)
class Manifest:
    """The contents of a backup. `warehouse` is the prefix of all table paths. `brokers` is empty if the backup
    includes the log of the local broker."""

    format: int
    release: str
    created_at: str
    warehouse: str
    brokers: str
    tables: list[TableCopy]
    files: list[FileCopy]


def part_paths(settings: Settings) -> dict[str, Path]:
    """Return the local path of each part of a backup: a parent directory before its children, the catalog last.

    Raises `BackupError` if any part of the lake is not on a local disk.
    """
    _require_local(settings)
    return {
        WAREHOUSE: Path(local_path(settings.warehouse_location)),
        CHECKPOINTS: Path(local_path(settings.checkpoint_location)),
        FOLLOWER: Path(local_path(settings.follower_location())).parent,
        DAGSTER: settings.dagster_home,
        KAFKA: kafka.data_dir(settings),
        KEYS: settings.home / KEYS,
        CATALOG: settings.catalog_db.parent,
    }


def _require_local(settings: Settings) -> None:
    fields = ("iceberg_rest_uri", "catalog_uri", "dagster_database", "namespace_location")
    remote = [env_name(name) for name in fields if str(getattr(settings, name))]
    locations = (settings.warehouse_location, settings.checkpoint_location)
    if settings.uses_s3 or not all(one.startswith("file://") for one in locations):
        remote.append(f"an object store ({settings.warehouse_location})")
    if remote:
        raise BackupError(
            f"backup: only a lake on local disks can be copied; this one uses {', '.join(remote)}. "
            "Back up each part with its own tools, in the order that docs/backup.md gives."
        )


def backup(settings: Settings, directory: Path, progress: Progress = lambda _name, _bytes: None) -> Manifest:
    """Copy the home into a new directory, which appears only when complete, and return the manifest.

    Raises `BackupError` if the copy fails, `MaintenanceInUseError` while table maintenance runs.
    """
    directory = directory.expanduser().resolve()
    paths = part_paths(settings)
    if not settings.catalog_db.exists():
        raise BackupError(
            f"backup: {settings.home} has no lake. Set CRYPTOLAKE_HOME to the home to copy, or create a lake with "
            "`cryptolake up`."
        )
    if directory.is_relative_to(settings.home) or directory.is_relative_to(paths[WAREHOUSE]):
        raise BackupError(f"backup: {directory} is inside the home or the warehouse. Use another directory.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BackupError(f"backup: {directory} already exists. Use a new directory; a backup is never changed.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            manifest = _Backup(settings, partial, paths, progress).make()
            _write_manifest(partial / MANIFEST, manifest)
            # A directory under its final name is complete, even after a power failure.
            os.sync()
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise BackupError(
            f"backup: {error.filename or directory}: {error.strerror or error}. Correct the cause, then run it again."
        ) from error
    log.info("backup_made", directory=str(directory), files=len(manifest.files))
    return manifest


def _write_manifest(path: Path, manifest: Manifest) -> None:
    path.write_text(json.dumps(asdict(manifest), indent=1, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True)
class _Table:
    """A table of the copied catalog."""

    name: str
    location: str
    metadata: TableMetadata

    def as_copied(self) -> TableCopy:
        snapshot = self.metadata.current_snapshot()
        rows = snapshot.summary["total-records"] if snapshot and snapshot.summary else None
        return TableCopy(self.name, snapshot.snapshot_id if snapshot else None, int(rows or 0))

    def files(self) -> Iterator[str]:
        """Yield the locations of all files of the table's snapshots: metadata, manifests, statistics, data."""
        from pyiceberg.io.pyarrow import PyArrowFileIO

        io = PyArrowFileIO()
        yield self.location
        yield from (file.statistics_path for file in self.metadata.statistics)
        yield from (file.statistics_path for file in self.metadata.partition_statistics)
        manifests: dict[str, ManifestFile] = {}
        for snapshot in self.metadata.snapshots:
            yield snapshot.manifest_list
            manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(io)}
        for location, manifest in manifests.items():
            yield location
            for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
                yield entry.data_file.file_path


class _Backup:
    """One backup in progress."""

    def __init__(self, settings: Settings, directory: Path, paths: dict[str, Path], progress: Progress) -> None:
        self._settings = settings
        self._directory = directory
        self._paths = paths
        self._progress = progress
        self._files: dict[str, FileCopy] = {}

    def make(self) -> Manifest:
        created_at = datetime.now(UTC)
        self._copy_dagster()
        for cursor in sorted(self._paths[FOLLOWER].glob("*cursor.json")):
            self._copy(cursor, f"{FOLLOWER}/{cursor.name}")
        # Maintenance deletes files of older snapshots, which the copied catalog may still refer to.
        with maintenance_lock(self._settings, MAINTENANCE_WAIT_S):
            tables = self._copy_lake()
        if not self._settings.kafka_bootstrap_servers:
            self._copy_kafka()
        with suppress(FileNotFoundError):
            self._copy(self._paths[KEYS], KEYS)
        return Manifest(
            format=FORMAT,
            release=version("cryptolake"),
            created_at=created_at.isoformat(timespec="seconds"),
            warehouse=self._settings.warehouse_location,
            brokers=self._settings.kafka_bootstrap_servers,
            tables=[table.as_copied() for table in tables],
            files=[self._files[name] for name in sorted(self._files)],
        )

    def _copy(self, source: Path, name: str) -> None:
        """Copy a file up to its present length; bytes appended later are not copied."""
        target = self._directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with source.open("rb") as reader, target.open("wb") as writer:
            remaining = size = os.fstat(reader.fileno()).st_size
            while remaining and (block := reader.read(min(remaining, BLOCK_BYTES))):
                digest.update(block)
                writer.write(block)
                remaining -= len(block)
                self._progress(name, len(block))
        target.chmod(source.stat().st_mode & 0o700)
        self._files[name] = FileCopy(name, size - remaining, digest.hexdigest())

    def _copy_database(self, source: Path, name: str) -> None:
        """Copy a consistent state of an SQLite database, including its write-ahead log."""
        target = self._directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            raise FileNotFoundError(source)
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            copy = Path(scratch) / "copy.db"
            with (
                closing(sqlite3.connect(source, timeout=SQLITE_TIMEOUT_S)) as reader,
                closing(sqlite3.connect(copy)) as writer,
            ):
                writer.execute("PRAGMA synchronous=OFF")
                reader.backup(writer)
                writer.execute("PRAGMA journal_mode=DELETE")
            self._copy(copy, name)

    def _discard(self, part: str) -> None:
        """Remove the copied files of a part, or of a directory in it."""
        shutil.rmtree(self._directory / part, ignore_errors=True)
        self._files = {name: file for name, file in self._files.items() if not name.startswith(f"{part}/")}

    def _copy_dagster(self) -> None:
        """Copy runs, events, ticks with the sensors' cursors, and logs. Skip files that Dagster deletes."""
        for path in _regular_files(self._paths[DAGSTER]):
            name = f"{DAGSTER}/{path.relative_to(self._paths[DAGSTER])}"
            with suppress(FileNotFoundError):
                if path.suffix == ".db":
                    self._copy_database(path, name)
                elif not path.name.endswith((".db-wal", ".db-shm", ".db-journal")):
                    self._copy(path, name)

    def _copy_lake(self) -> list[_Table]:
        """Copy checkpoints, catalog and table files in a mutually consistent state.

        Retry checkpoints and catalog if a rewritten table drops its own old snapshots, or if the stream commits
        between the two copies. Table files are immutable, so a retry copies only new ones.
        """
        for _ in range(ATTEMPTS):
            self._discard(CHECKPOINTS)
            try:
                self._copy_checkpoints()
                self._copy_database(self._settings.catalog_db, f"{CATALOG}/{self._settings.catalog_db.name}")
                tables = [self._table(name, location) for name, location in self._locations()]
                if self._checkpoints_cover(tables):
                    self._copy_files(tables)
                    return tables
                cause = "the stream committed a batch during the copy"
            except FileNotFoundError as error:
                cause = f"{error.filename} was deleted"
            log.info("backup_retried", cause=cause)
            time.sleep(PAUSE_S)
        raise BackupError(
            f"backup: no consistent copy in {ATTEMPTS} attempts: tables changed during each copy, or files are "
            "missing. Stop the platform with `cryptolake down` and retry; if that fails, see `cryptolake health`."
        )

    def _copy_checkpoints(self) -> None:
        """Copy commits before offsets: Spark writes a batch's offsets first, so each copied commit has its offsets."""
        root = self._paths[CHECKPOINTS]
        for pattern in ("*/commits", "*"):
            for directory in sorted(root.glob(pattern)):
                for path in _regular_files(directory):
                    if (name := f"{CHECKPOINTS}/{path.relative_to(root)}") not in self._files:
                        self._copy(path, name)

    def _locations(self) -> list[tuple[str, str]]:
        """Return (name, metadata file) of each table in the copied catalog."""
        with closing(sqlite3.connect(self._directory / CATALOG / self._settings.catalog_db.name)) as connection:
            return connection.execute(
                "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables "
                "WHERE metadata_location IS NOT NULL ORDER BY 1"
            ).fetchall()

    def _table(self, name: str, location: str) -> _Table:
        """Copy a table's metadata file, which writers keep for about twenty commits, and read the copy."""
        from pyiceberg.io.pyarrow import PyArrowFileIO
        from pyiceberg.serializers import FromInputFile

        copied = self._copy_table_file(location)
        file = PyArrowFileIO().new_input(str(self._directory / copied))
        return _Table(name, location, FromInputFile.table_metadata(file))

    def _copy_files(self, tables: list[_Table]) -> None:
        """Copy the files of all snapshots of the tables, and remove unneeded files of an earlier attempt."""
        needed = {self._copy_table_file(path) for table in tables for path in table.files()}
        for table in tables:
            for entry in table.metadata.metadata_log:
                # Earlier metadata is optional: no reader needs it, and the next commits remove it.
                with suppress(FileNotFoundError):
                    needed.add(self._copy_table_file(entry.metadata_file))
        for name in [name for name in self._files if name.startswith(f"{WAREHOUSE}/") and name not in needed]:
            (self._directory / name).unlink()
            del self._files[name]

    def _copy_table_file(self, location: str) -> str:
        """Copy a table's file unless it is already copied, and return its name in the backup."""
        path = Path(local_path(location))
        if not path.is_relative_to(self._paths[WAREHOUSE]):
            raise BackupError(
                f"backup: table file {path} is outside the warehouse {self._paths[WAREHOUSE]}. Set "
                "CRYPTOLAKE_WAREHOUSE to the location of the tables."
            )
        name = f"{WAREHOUSE}/{path.relative_to(self._paths[WAREHOUSE])}"
        if name not in self._files:
            self._copy(path, name)
        return name

    def _checkpoints_cover(self, tables: list[_Table]) -> bool:
        """Return whether each query's checkpoint has the offsets of the newest batch in its table.

        Without them the query would plan that batch again with other offsets, and Iceberg's sink would skip it as
        already committed. The reverse, a checkpointed batch without its rows, is impossible: the catalog is copied
        later.
        """
        newest: dict[str, int] = {}
        for table in tables:
            for snapshot in table.metadata.snapshots:
                summary = snapshot.summary
                if summary and (query := summary[QUERY_ID]) and (batch := summary[EPOCH_ID]):
                    newest[query] = max(int(batch), newest.get(query, -1))
        for path in (self._directory / CHECKPOINTS).glob("*/metadata"):
            batch = newest.get(json.loads(path.read_text("utf-8"))["id"])
            if batch is not None and not (path.parent / "offsets" / str(batch)).exists():
                return False
        return True

    def _copy_kafka(self) -> None:
        """Copy the broker's log in a crash-consistent state; the broker recovers the log end when it starts.

        Copy the broker's checkpoint files first, so that they refer only to copied records. Skip the indexes of a
        partition's newest segment; the broker rebuilds them.
        """
        root = self._paths[KAFKA]
        if not root.is_dir():
            return
        for path in sorted(path for path in root.iterdir() if path.is_file() and not path.name.startswith(".")):
            with suppress(FileNotFoundError):
                self._copy(path, f"{KAFKA}/{path.name}")
        for partition in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.endswith("-delete")):
            for _ in range(ATTEMPTS):
                try:
                    self._copy_partition(partition)
                    break
                except FileNotFoundError:  # retention deleted a segment
                    self._discard(f"{KAFKA}/{partition.name}")
                    if not partition.exists():
                        break
            else:
                raise BackupError(f"backup: {partition} changed during each of {ATTEMPTS} copies. Run it again.")

    def _copy_partition(self, partition: Path) -> None:
        paths = list(_regular_files(partition))
        newest = max((path.stem for path in paths if path.suffix == ".log"), default="")
        for path in paths:
            if not (path.stem == newest and path.suffix in (".index", ".timeindex")):
                self._copy(path, f"{KAFKA}/{partition.name}/{path.name}")


def _regular_files(directory: Path) -> list[Path]:
    """Return the files below a directory, sorted; no sockets, no hidden files (drafts, locks, Hadoop checksums)."""
    found = []
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())
