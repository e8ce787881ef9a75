"""Measure a table: live files by partition, manifests, snapshots, and files on disk.

Uses PyIceberg to read Iceberg's metadata and one listing of the table's directory; no Spark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.marts import marts_tables
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

MANIFEST_TARGET = "commit.manifest.target-size-bytes"
MANIFEST_TARGET_DEFAULT_BYTES = 8 * 1024 * 1024  # Iceberg's default


@dataclass(frozen=True)
class LiveFile:
    """A data file of the current snapshot.

    `partition` holds Iceberg's partition values (hours, days or months since 1970); `snapshot_id` is the commit that
    added the file.
    """

    partition: tuple[Any, ...]
    size_bytes: int
    snapshot_id: int | None


@dataclass(frozen=True)
class TableState:
    """The figures of a table.

    `small_files` counts files that compaction could join: below the configured limit, and not the only such file of
    their partition. `disk_*` counts everything in the table's directory: data, metadata, and files that no snapshot
    needs.
    """

    table: str
    files: int
    size_bytes: int
    small_files: int
    manifests: int
    snapshots: int
    disk_files: int
    disk_bytes: int


def manifests(table: Table) -> list[ManifestFile]:
    """Return the manifests of the current snapshot."""
    snapshot = table.current_snapshot()
    return list(snapshot.manifests(table.io)) if snapshot else []


def live_files(table: Table) -> list[LiveFile]:
    """Return the data files of the current snapshot. Cost: all of its manifests."""
    return [
        LiveFile(
            partition=tuple(entry.data_file.partition[index] for index in range(len(table.spec().fields))),
            size_bytes=entry.data_file.file_size_in_bytes,
            snapshot_id=entry.snapshot_id,
        )
        for manifest in manifests(table)
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    ]


def small_manifests(table: Table) -> int:
    """Count the manifests that a rewrite could join: shorter than half of the table's target, or without live files."""
    target = int(table.properties.get(MANIFEST_TARGET, MANIFEST_TARGET_DEFAULT_BYTES))
    return sum(
        manifest.manifest_length < target // 2 or not (manifest.has_added_files() or manifest.has_existing_files())
        for manifest in manifests(table)
    )


def count_small(files: Iterable[LiveFile], limit_bytes: int) -> int:
    """Count the files below the limit that are not the only such file of their partition."""
    by_partition = Counter(file.partition for file in files if file.size_bytes < limit_bytes)
    return sum(number for number in by_partition.values() if number > 1)


def small_files(settings: Settings) -> dict[str, int]:
    """Return the number of small files per table, by full name."""
    return {
        spec.full_name: count_small(live_files(load_table(settings, spec)), settings.small_file_bytes)
        for spec in (*TABLES, *marts_tables(settings))
    }


def state_of(table: Table, small_file_bytes: int) -> TableState:
    """Return the table's current figures."""
    files = live_files(table)
    on_disk = _sizes_on_disk(table)
    return TableState(
        table=".".join(table.name()),
        files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        small_files=count_small(files, small_file_bytes),
        manifests=len(manifests(table)),
        snapshots=len(table.metadata.snapshots),
        disk_files=len(on_disk),
        disk_bytes=sum(on_disk),
    )


def _sizes_on_disk(table: Table) -> list[int]:
    from pyarrow.fs import FileSelector, FileType
    from pyiceberg.io.pyarrow import PyArrowFileIO

    files = table.io if isinstance(table.io, PyArrowFileIO) else PyArrowFileIO(table.io.properties)
    scheme, netloc, path = PyArrowFileIO.parse_location(table.location(), table.io.properties)
    selector = FileSelector(path, recursive=True, allow_not_found=True)
    infos = files.fs_by_scheme(scheme, netloc).get_file_info(selector)
    return [info.size for info in infos if info.type is FileType.File]
