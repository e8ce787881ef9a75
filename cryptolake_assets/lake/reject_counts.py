"""Count the rows of a time range by reject reason, reading only the range's files and a few columns.

PyIceberg plans the files (partitions and statistics). They are read in small groups, so memory does not grow with the
tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake import filters, pages
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.model.columns import TIME, Column
from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import DataScan, FileScanTask, Table

FILES_AT_ONCE = 4
RECENT = timedelta(days=30)  # without a start, count this long before the newest row
COLUMNS = (
    Column("exchange", "string", "exchange and market, if known"),
    Column("reason", "string", "reason code, or rule name"),
    Column("symbol", "string", "the exchange's symbol, if known"),
    Column("rows", "long", "number of rows"),
    Column("first_at", TIME, "time of the first row"),
    Column("last_at", TIME, "time of the last row"),
)


@dataclass(frozen=True)
class RejectSource:
    """The rows to count, of a snapshot (None: the table is empty): their time column, and SQL over `columns`.

    `only_exchange` limits them to those with this `exchange`.
    """

    table: Table
    snapshot_id: int | None
    time: str
    columns: tuple[str, ...]
    reason: str
    exchange: str
    symbol: str = "NULL::VARCHAR"
    only_exchange: str | None = None

    def scan(self, start: datetime | None, end: datetime | None) -> DataScan:
        """Return the scan of the rows whose time is in [start, end]."""
        bounds = [filters.equal("exchange", self.only_exchange)] if self.only_exchange else []
        bounds += [filters.at_least(self.time, start)] if start else []
        bounds += [filters.at_most(self.time, end)] if end else []
        fields = (*self.columns, self.time)
        return self.table.scan(filters.all_of(*bounds), selected_fields=fields, snapshot_id=self.snapshot_id)


@dataclass(frozen=True)
class RejectCounts:
    """Counts (an Arrow table of `COLUMNS`, highest first) and the start of their range; None if unbounded."""

    rows: pa.Table
    start: datetime | None


def count_rejects(sources: Sequence[RejectSource], start: datetime | None, end: datetime | None) -> RejectCounts:
    """Count the rows of all sources whose time is in [start, end]. Blocks."""
    import pyarrow as pa

    sources = [source for source in sources if source.snapshot_id is not None]
    if start is None:
        planned = [(source, list(source.scan(start, end).plan_files())) for source in sources]
        newest = [_newest(source, tasks) for source, tasks in planned if tasks]
        known = [moment for moment in newest if moment is not None]
        start = max(known) - RECENT if known and len(known) == len(newest) else None
    counted = _schema().empty_table()
    for source in sources:
        scan = source.scan(start, end)
        tasks = list(scan.plan_files())
        for begin in range(0, len(tasks), FILES_AT_ONCE):
            found = pages.read_files(source.table, scan, tasks[begin : begin + FILES_AT_ONCE])
            counted = _summed(pa.concat_tables([counted, _counted(found, source)]))
    return RejectCounts(counted, start)


def _schema() -> pa.Schema:
    return TableSpec("", "", "", COLUMNS).arrow_schema()


def _newest(source: RejectSource, tasks: list[FileScanTask]) -> datetime | None:
    """Return an upper bound of the newest time from the files' statistics; None without statistics."""
    from pyiceberg.conversions import from_bytes
    from pyiceberg.utils.datetime import micros_to_timestamptz

    field = source.table.schema().find_field(source.time)
    kind: Any = field.field_type
    bounds = [(task.file.upper_bounds or {}).get(field.field_id) for task in tasks]
    known: list[Any] = [from_bytes(kind, bound) for bound in bounds if bound is not None]
    return micros_to_timestamptz(max(known)) if known and len(known) == len(bounds) else None


def _counted(found: pa.Table, source: RejectSource) -> pa.Table:
    sql = f"""SELECT {source.exchange} AS exchange, {source.reason} AS reason, {source.symbol} AS symbol,
      count(*) AS rows, min({source.time}) AS first_at, max({source.time}) AS last_at FROM found GROUP BY 1, 2, 3"""
    return _run(sql, found)


def _summed(found: pa.Table) -> pa.Table:
    sql = """SELECT exchange, reason, symbol, CAST(sum(rows) AS BIGINT) AS rows, min(first_at) AS first_at,
      max(last_at) AS last_at FROM found GROUP BY exchange, reason, symbol
      ORDER BY rows DESC, exchange, reason, symbol"""
    return _run(sql, found)


def _run(sql: str, found: pa.Table) -> pa.Table:
    with open_duckdb() as duck:
        duck.register("found", found)
        return duck.sql(sql).to_arrow_table().cast(_schema())
