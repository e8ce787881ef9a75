"""Measure a table: live files by partition, manifests, snapshots, and files on disk. Uses PyIceberg; no Spark."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestEntry, ManifestFile
    from pyiceberg.table import Table


Partition = tuple[Any, ...]  # Iceberg's partition values: hours, days or months since 1970


@dataclass(frozen=True)
class LiveFile:
    """A data file of the current snapshot.

    `snapshot_id` is the commit that added the file.
    """

    partition: Partition
    size_bytes: int
    snapshot_id: int | None


@dataclass(frozen=True)
class TableState:
    """The figures of a table.

    `small_files` counts files that compaction could join: below the configured limit, and not the only such file of
    their partition. `disk_*` counts everything in the table's directory: data, metadata, and files that no snapshot
    needs; None if the directory was not listed.
    """

    table: str
    files: int
    size_bytes: int
    small_files: int
    manifests: int
    snapshots: int
    disk_files: int | None = None
    disk_bytes: int | None = None


def manifests(table: Table) -> list[ManifestFile]:
    """Return the manifests of the current snapshot."""
    snapshot = table.current_snapshot()
    return list(snapshot.manifests(table.io)) if snapshot else []


def overlapping(
    table: Table, candidates: Iterable[ManifestFile], partitions: Iterable[Partition]
) -> list[ManifestFile]:
    """Return the manifests that may have files of the partitions (hours, days or months since 1970)."""
    if len(table.spec().fields) != 1:
        return list(candidates)
    ordered = sorted(partition[0] for partition in partitions if len(partition) == 1)
    return [
        manifest
        for manifest in candidates
        if manifest.partition_spec_id != table.spec().spec_id or _may_hold(manifest, ordered)
    ]


def _may_hold(manifest: ManifestFile, ordered: Sequence[int]) -> bool:
    """Return whether one of the numbers lies within the manifest's partition summary (4 bytes each, little-endian)."""
    summary = manifest.partitions[0] if manifest.partitions else None
    if summary is None or summary.lower_bound is None or summary.upper_bound is None:
        return True
    lower, upper = (int.from_bytes(one, "little", signed=True) for one in (summary.lower_bound, summary.upper_bound))
    first = bisect_left(ordered, lower)
    return first < len(ordered) and ordered[first] <= upper


def partition_of(entry: ManifestEntry) -> Partition:
    partition = entry.data_file.partition
    return tuple(partition[index] for index in range(len(partition)))


def live_entries(table: Table, manifest: ManifestFile) -> list[ManifestEntry]:
    """Return the manifest's entries of live files."""
    return manifest.fetch_manifest_entry(table.io, discard_deleted=True)


def live_files(table: Table, of: Iterable[ManifestFile] | None = None) -> list[LiveFile]:
    """Return the live data files of these manifests (None: of the current snapshot)."""
    return [
        LiveFile(
            partition=partition_of(entry),
            size_bytes=entry.data_file.file_size_in_bytes,
            snapshot_id=entry.snapshot_id,
        )
        for manifest in (manifests(table) if of is None else of)
        for entry in live_entries(table, manifest)
    ]


def count_small(files: Iterable[LiveFile], limit_bytes: int) -> int:
    """Count the files below the limit that are not the only such file of their partition."""
    by_partition = Counter(file.partition for file in files if file.size_bytes < limit_bytes)
    return sum(number for number in by_partition.values() if number > 1)


def sizes_on_disk(table: Table) -> list[int]:
    """Return the sizes of all files in the table's directory. Cost: a listing of all of its files."""
    from pyarrow.fs import FileSelector, FileType
    from pyiceberg.io.pyarrow import PyArrowFileIO

    files = table.io if isinstance(table.io, PyArrowFileIO) else PyArrowFileIO(table.io.properties)
    scheme, netloc, path = PyArrowFileIO.parse_location(table.location(), table.io.properties)
    selector = FileSelector(path, recursive=True, allow_not_found=True)
    infos = files.fs_by_scheme(scheme, netloc).get_file_info(selector)
    return [info.size for info in infos if info.type is FileType.File]
