"""Find the data files that were added to Bronze after a sequence number, or that overlap a time interval.

The sequence number of an Iceberg snapshot grows with every commit, and every live manifest entry keeps the data
sequence number of the commit that added its file (Iceberg table spec, "Sequence Numbers"). The live entries above a
cursor are therefore exactly the files that a reader has not read, after any expiry, compaction or manifest rewrite.
Compaction keeps the sequence number of its input, so compacted files are not new data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.errors import DeleteFilesError, SnapshotExpiredError
from cryptolake_assets.lake.duck import scan
from cryptolake_assets.model.columns import decimal_digits
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import EPOCH, HOUR, moment_of

if TYPE_CHECKING:
    import duckdb
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

TRUNCATED_BOUND_BYTES = 16  # a text bound of this length may be truncated (Iceberg's metrics mode `truncate(16)`)


@dataclass(frozen=True)
class BronzeFile:
    """A live data file of a table partitioned by the hour of `event_time`, with the time range of its rows.

    `constants` are the text columns that hold one value in the entire file, from the file's bounds in the manifest;
    `largest_qty` is the largest absolute quantity in units of 10^-8, from the same bounds; None if unknown.
    """

    path: str
    hour: datetime
    rows: int
    sequence: int
    earliest: datetime
    latest: datetime
    constants: Mapping[str, str]
    largest_qty: int | None = None


def current_sequence(table: Table) -> int:
    """Return the sequence number of the current snapshot; 0 if the table is empty."""
    snapshot = table.current_snapshot()
    return (snapshot.sequence_number or 0) if snapshot else 0


def added_files(table: Table, after_sequence: int) -> list[BronzeFile]:
    """Return the live files above `after_sequence`.

    Cost: the manifest list, and the manifests written since.
    """
    snapshot = table.current_snapshot()
    if snapshot is None:
        return []
    return [
        file
        for manifest in snapshot.manifests(table.io)
        if manifest.sequence_number > after_sequence
        for file in _live_files(table, manifest)
        if file.sequence > after_sequence
    ]


def files_between(table: Table, snapshot_id: int, first: datetime, last: datetime) -> list[BronzeFile]:
    """Return the snapshot's live files that may hold trades of first <= event_time < last.

    Cost: the manifest list, and the manifests whose partitions overlap the interval; not the history. Raises
    `SnapshotExpiredError` if the snapshot no longer exists.
    """
    snapshot = table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise SnapshotExpiredError(
            f"bronze: snapshot {snapshot_id} no longer exists. Run the refresh again; it reads the current snapshot."
        )
    return [
        file
        for manifest in snapshot.manifests(table.io)
        if _may_overlap(manifest, first, last)
        for file in _live_files(table, manifest)
        if file.earliest < last and file.latest >= first
    ]


def newest_hour(table: Table) -> datetime | None:
    """Return the latest hour that holds a trade, from the manifest list alone; None if the table is empty."""
    snapshot = table.current_snapshot()
    hours = [
        _hour(_number(manifest.partitions[0].upper_bound))
        for manifest in (snapshot.manifests(table.io) if snapshot else ())
        if manifest.partitions and manifest.partitions[0].upper_bound is not None
    ]
    return max(hours, default=None)


def constants_of(files: Iterable[BronzeFile], columns: Iterable[str]) -> dict[str, str]:
    """Return the text columns that hold one value in all files, with that value. Readers can skip these columns.

    Values with a backslash are excluded, because engines read such literals differently.
    """
    all_constants = [file.constants for file in files]
    values = {name: {constants.get(name) for constants in all_constants} for name in columns}
    return {
        name: value
        for name, found in values.items()
        if len(found) == 1 and (value := next(iter(found))) is not None and "\\" not in value
    }


def scan_trades(connection: duckdb.DuckDBPyConnection, files: Sequence[BronzeFile]) -> str:
    """Return a FROM clause that reads these files of `bronze.*_trades` in DuckDB.

    DuckDB takes the types from the first file, and files written before a column was widened have the narrower type.
    The file with the largest quantity comes first, because its type holds all others.
    """
    widest_first = sorted(files, key=lambda file: -_UNBOUNDED_QTY if file.largest_qty is None else -file.largest_qty)
    columns_of_trades = FUTURES.trades  # the same in every family
    return scan(connection, [local_path(file.path) for file in widest_first], columns_of_trades)


_UNBOUNDED_QTY = 2**127  # larger than any quantity; stands for a file without bounds


def quantities_fit(files: Iterable[BronzeFile], kind: str) -> bool:
    """Return whether a decimal type with 8 fractional digits holds every quantity of the files."""
    digits, scale = decimal_digits(kind) or (0, 0)
    return all(file.largest_qty is not None and file.largest_qty < 10 ** (digits + scale) for file in files)


def _may_overlap(manifest: ManifestFile, first: datetime, last: datetime) -> bool:
    """Return whether the manifest's partitions may overlap [first, last).

    The partition summary holds the lowest and the highest hour since 1970, 4 bytes each.
    """
    if not manifest.partitions:
        return True
    lowest, highest = manifest.partitions[0].lower_bound, manifest.partitions[0].upper_bound
    if lowest is None or highest is None:
        return True
    return _hour(_number(lowest)) < last and _hour(_number(highest)) + HOUR > first


def _live_files(table: Table, manifest: ManifestFile) -> Iterator[BronzeFile]:
    from pyiceberg.manifest import DataFileContent
    from pyiceberg.types import StringType

    schema = table.schema()
    ids = {field.name: field.field_id for field in schema.fields}
    time_id, qty_id = ids["event_time"], ids.get("qty", 0)
    texts = {field.field_id: field.name for field in schema.fields if isinstance(field.field_type, StringType)}
    for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
        file = entry.data_file
        if file.content is not DataFileContent.DATA:
            raise DeleteFilesError(
                f"{'.'.join(table.name())}: {file.file_path} has row-level deletes, which this project does not "
                "support. Rewrite the table without them: `CALL cryptolake.system.rewrite_data_files(...)` in Spark."
            )
        hour = _hour(file.partition[0])
        lower, upper = file.lower_bounds or {}, file.upper_bounds or {}
        yield BronzeFile(
            path=file.file_path,
            hour=hour,
            rows=file.record_count,
            sequence=entry.sequence_number or 0,
            earliest=moment_of(_number(lower[time_id])) if time_id in lower else hour,
            latest=moment_of(_number(upper[time_id])) if time_id in upper else hour + HOUR,
            largest_qty=_largest(lower.get(qty_id), upper.get(qty_id)),
            constants={
                name: lower[number].decode()
                for number, name in texts.items()
                if _is_constant(lower.get(number), upper.get(number), (file.null_value_counts or {}).get(number))
            },
        )


def _is_constant(lower: bytes | None, upper: bytes | None, nulls: int | None) -> bool:
    """Return whether the bounds prove a single value; text bounds of 16 bytes may be truncated."""
    return lower is not None and lower == upper and nulls == 0 and len(lower) < TRUNCATED_BOUND_BYTES


def _largest(lower: bytes | None, upper: bytes | None) -> int | None:
    """Return the larger absolute value of two bounds of a decimal column, in its units."""
    if lower is None or upper is None:
        return None
    return max(abs(int.from_bytes(bound, "big", signed=True)) for bound in (lower, upper))


def _hour(number: int) -> datetime:
    return EPOCH + timedelta(hours=number)


def _number(bound: bytes) -> int:
    """Decode a bound of an int, long or timestamp column (Iceberg table spec, "Binary single-value serialization")."""
    return int.from_bytes(bound, "little", signed=True)


def oldest_sequence_by_hour(files: Iterable[BronzeFile]) -> dict[datetime, int]:
    """Return the lowest sequence number among the files of each hour."""
    oldest: dict[datetime, int] = {}
    for file in files:
        oldest[file.hour] = min(file.sequence, oldest.get(file.hour, file.sequence))
    return oldest


def local_path(uri: str) -> str:
    """Return a data file's path for DuckDB and PyArrow: strip `file://`, keep other schemes."""
    return uri.removeprefix("file://") if uri.startswith("file:///") else uri.removeprefix("file:")
