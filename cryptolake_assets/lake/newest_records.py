"""Find the newest Kafka record of each partition in a table that the Bronze stream appends to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.io import FileIO
    from pyiceberg.table import Table

MAX_ROWS: Final = 5_000_000  # maximum rows of the files read, newest files first

_PARTITION, _OFFSET, _TIMESTAMP, _TOPIC = "kafka_partition", "kafka_offset", "kafka_timestamp", "kafka_topic"


def newest_records(table: Table, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
    """Return the highest offset of each partition, with that record's Kafka timestamp (ms since 1970, UTC).

    Reads files by the latest timestamp until all partitions are found. A record with an earlier timestamp than a record
    before it may be overlooked; the result is then too low. Blocks; raises the catalog's errors.
    """
    columns = [name for name in (_PARTITION, _OFFSET, _TIMESTAMP, _TOPIC) if name in table.schema().column_names]
    found: dict[int, tuple[int, int]] = {}
    rows_read = 0
    for latest_ms, rows, path in sorted(_files(table), reverse=True):
        is_older = bool(found) and latest_ms < min(timestamp_ms for _, timestamp_ms in found.values())
        if (is_older and found.keys() >= set(partitions)) or rows_read >= MAX_ROWS:
            break
        rows_read += rows
        for partition, newest in _newest(_read(table.io, path, columns), topic, partitions).items():
            found[partition] = max(newest, found.get(partition, newest))
    return found


def _files(table: Table) -> Iterator[tuple[int, int, str]]:
    """Yield the latest Kafka timestamp (ms), the number of rows and the path of each live file with Kafka records."""
    snapshot = table.current_snapshot()
    number = table.schema().find_field(_TIMESTAMP).field_id
    for manifest in snapshot.manifests(table.io) if snapshot else ():
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            bound = (entry.data_file.upper_bounds or {}).get(number)
            if bound is not None:  # without a bound, all rows are of the archive
                yield (
                    int.from_bytes(bound, "little", signed=True) // 1000,
                    entry.data_file.record_count,
                    entry.data_file.file_path,
                )


def _read(io: FileIO, path: str, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    with io.new_input(path).open() as source:
        return pq.ParquetFile(source).read(columns=columns)


def _newest(rows: pa.Table, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    of_topic = pc.field(_PARTITION).isin(pa.array(sorted(partitions), pa.int32()))
    if _TOPIC in rows.column_names:
        of_topic &= pc.field(_TOPIC) == topic
    rows = rows.filter(of_topic)
    highest = rows.group_by(_PARTITION).aggregate([(_OFFSET, "max")])
    newest = rows.join(highest, [_PARTITION, _OFFSET], [_PARTITION, f"{_OFFSET}_max"], join_type="inner")
    return {row[_PARTITION]: (row[_OFFSET], round(row[_TIMESTAMP].timestamp() * 1000)) for row in newest.to_pylist()}
