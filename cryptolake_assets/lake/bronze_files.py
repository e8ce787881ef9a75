"""Which data files a table gained since a sequence number, and which hours they touch.

An Iceberg snapshot's sequence number grows with every commit, and every live manifest entry keeps the data sequence
number of the commit that added its file (Iceberg table spec, "Sequence Numbers"). The live entries above a cursor are
therefore exactly what a reader has not seen, whatever was expired, compacted or rewritten in between: compaction keeps
the sequence number its input had, so it is not taken for new data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyiceberg.table import Table

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AddedFile:
    """A live data file of a table that is partitioned by hour."""

    path: str
    hour: datetime
    rows: int
    sequence: int


def head_sequence(table: Table) -> int:
    """Sequence number of the current snapshot; 0 while the table is empty."""
    snapshot = table.current_snapshot()
    return (snapshot.sequence_number or 0) if snapshot else 0


def added_files(table: Table, after_sequence: int) -> list[AddedFile]:
    """Live files above `after_sequence`. Cost: the manifest list, and the manifests written since."""
    snapshot = table.current_snapshot()
    if snapshot is None:
        return []
    files: list[AddedFile] = []
    for manifest in snapshot.manifests(table.io):
        if manifest.sequence_number <= after_sequence:
            continue
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            sequence = entry.sequence_number or 0
            if sequence > after_sequence:
                file = entry.data_file
                hour = EPOCH + timedelta(hours=file.partition[0])
                files.append(AddedFile(file.file_path, hour, file.record_count, sequence))
    return files


def oldest_sequence_by_hour(files: Iterable[AddedFile]) -> dict[datetime, int]:
    """Per touched hour the lowest sequence number among its files."""
    oldest: dict[datetime, int] = {}
    for file in files:
        oldest[file.hour] = min(file.sequence, oldest.get(file.hour, file.sequence))
    return oldest


def local_path(uri: str) -> str:
    """A data file's path as DuckDB and PyArrow open it: `file://` is taken off, other schemes stay."""
    return uri.removeprefix("file://") if uri.startswith("file:///") else uri.removeprefix("file:")
