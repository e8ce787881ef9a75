"""Write Bronze rows as one data file per hour, row group by row group: memory does not grow with the day.

The files keep the order of their input and have the same layout as compacted files. They belong to no snapshot until
a commit adds them.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, cast

from cryptolake_assets.lake.maintenance.compaction import ROW_GROUP_ROWS
from cryptolake_assets.model.family_tables import FUTURES

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

HOUR_US = 3_600_000_000
# In sorted rows the differences are small.
_DELTA_ENCODED = ("event_time", "ingest_ts", "trade_id", "first_trade_id", "last_trade_id")
_DICTIONARY_ENCODED = ("symbol", "price", "qty", "side", "exchange", "trade_type", "stream")


class HourFiles:
    """Writer of hourly files; `close()` returns them, `abort()` deletes them.

    Rows may be in any order; order by time needs the fewest files. A file is finished once a row two hours later
    arrives; an open file buffers about 10 MB. Later rows of its hour go to another file.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._schema = _file_schema(table)
        self._write_id = uuid.uuid4()
        self._waiting: dict[int, list[pa.Table]] = defaultdict(list)
        self._open: dict[int, _HourFile] = {}
        self._made: list[_HourFile] = []
        self._finished: list[DataFile] = []
        self.rows = 0

    def write(self, rows: pa.Table) -> None:
        """Add rows of the table of trades; text columns may be dictionary-encoded."""
        for hour, part in _by_hour(rows):
            waiting = self._waiting[hour]
            waiting.append(part)
            if sum(table.num_rows for table in waiting) >= ROW_GROUP_ROWS:
                self._flush(hour)
            for earlier in [other for other in {*self._waiting, *self._open} if other < hour - 1]:
                self._finish(earlier)
        self.rows += rows.num_rows

    def close(self) -> list[DataFile]:
        for hour in sorted({*self._waiting, *self._open}):
            self._finish(hour)
        return self._finished

    def abort(self) -> None:
        """Delete the written files; orphan removal deletes any that remain."""
        for file in self._made:
            file.abort()

    def _flush(self, hour: int) -> None:
        import pyarrow as pa

        if waiting := self._waiting.pop(hour, None):
            if hour not in self._open:
                name = f"00000-{len(self._made)}-{self._write_id}.parquet"
                self._open[hour] = _HourFile(self._table, hour, name)
                self._made.append(self._open[hour])
            self._open[hour].write(pa.concat_tables(waiting, promote_options="permissive"), self._schema)

    def _finish(self, hour: int) -> None:
        self._flush(hour)
        if file := self._open.pop(hour, None):
            self._finished.append(file.close())


class _HourFile:
    """One Parquet file of one hour (hours since 1970)."""

    def __init__(self, table: Table, hour: int, name: str) -> None:
        from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
        from pyiceberg.table.locations import load_location_provider

        self._table = table
        spec = table.spec()
        self._key = PartitionKey([PartitionFieldValue(spec.fields[0], hour)], spec, table.schema())
        locations = load_location_provider(table.location(), table.properties)
        self._path = locations.new_data_location(data_file_name=name, partition_key=self._key)
        self._output = table.io.new_output(self._path)
        self._stream = self._output.create(overwrite=True)
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table, schema: pa.Schema) -> None:
        """Write one row group or more."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Keep dictionary columns: writing a dictionary of one value is much faster than a million plain copies of it.
        columns = {name: rows[name] for name in schema.names}
        file_schema = pa.schema([schema.field(name).with_type(column.type) for name, column in columns.items()])
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                cast(IO[Any], self._stream),
                file_schema,
                compression="zstd",
                store_schema=False,
                store_decimal_as_integer=True,
                data_page_version="2.0",
                use_dictionary=list(_DICTIONARY_ENCODED),
                column_encoding=dict.fromkeys(_DELTA_ENCODED, "DELTA_BINARY_PACKED"),
            )
        self._writer.write_table(pa.table(columns, schema=file_schema), row_group_size=ROW_GROUP_ROWS)

    def close(self) -> DataFile:
        from pyiceberg.io.pyarrow import (
            compute_statistics_plan,
            data_file_statistics_from_parquet_metadata,
            parquet_path_to_id_mapping,
        )
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

        if self._writer is None:
            raise ValueError(f"{self._path}: no row was written. Write rows before closing the file")
        self._writer.close()
        self._stream.close()
        schema = self._table.schema()
        statistics = data_file_statistics_from_parquet_metadata(
            parquet_metadata=self._writer.writer.metadata,
            stats_columns=compute_statistics_plan(schema, self._table.properties),
            parquet_column_mapping=parquet_path_to_id_mapping(schema),
        )
        self._writer = None  # free its buffers
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self._path,
            file_format=FileFormat.PARQUET,
            partition=self._key.partition,
            file_size_in_bytes=len(self._output),
            sort_order_id=None,
            spec_id=self._table.metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )

    def abort(self) -> None:
        with suppress(Exception):
            self._stream.close()
        with suppress(OSError):
            self._table.io.delete(self._path)


def _file_schema(table: Table) -> pa.Schema:
    """Return the table's Arrow schema with Iceberg's field ids, in table order."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = schema_to_pyarrow(table.schema(), include_field_ids=True)
    names = FUTURES.trades.column_names  # the same in every family
    return cast("pa.Schema", schema.empty_table().select(list(names)).schema)


def _by_hour(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield each run of rows of one hour, in order: (hours since 1970, rows)."""
    import numpy as np
    import pyarrow as pa

    if not rows.num_rows:
        return
    hours = rows["event_time"].cast(pa.int64()).to_numpy() // HOUR_US
    edges = np.flatnonzero(np.diff(hours)) + 1
    bounds = [0, *edges.tolist(), len(hours)]
    for low, high in pairwise(bounds):
        yield int(hours[low]), rows.slice(low, high - low)
