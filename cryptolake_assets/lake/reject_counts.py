"""Count the rows of a time range by reject reason, reading only the range's files and three columns.

PyIceberg plans the files (partitions and statistics). They are read in small groups, so memory does not grow with the
table.
"""

from __future__ import annotations

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
    Column("reason", "string", "reason code, or rule name"),
    Column("symbol", "string", "the exchange's symbol, if known"),
    Column("rows", "long", "number of rows"),
    Column("first_at", TIME, "time of the first row"),
    Column("last_at", TIME, "time of the last row"),
)


@dataclass(frozen=True)
class RejectSource:
    """The rows to count: their time column, and SQL for the reason and the symbol over `columns`."""

    time: str
    columns: tuple[str, ...]
    reason: str
    symbol: str = "NULL::VARCHAR"


@dataclass(frozen=True)
class RejectCounts:
    """Counts (an Arrow table of `COLUMNS`, highest first) and the start of their range; None if unbounded."""

    rows: pa.Table
    start: datetime | None


def count_rejects(
    table: Table, snapshot_id: int | None, source: RejectSource, start: datetime | None, end: datetime | None
) -> RejectCounts:
    """Count rows of a snapshot (None: the table is empty) whose time is in [start, end]. Blocks."""
    import pyarrow as pa

    if snapshot_id is None:
        return RejectCounts(_schema().empty_table(), start)
    scan = _scan(table, snapshot_id, source, start, end)
    tasks = list(scan.plan_files())
    if start is None and (newest := _newest(table, tasks, source)) is not None:
        start = newest - RECENT
        scan = _scan(table, snapshot_id, source, start, end)
        tasks = list(scan.plan_files())
    counted = _schema().empty_table()
    for begin in range(0, len(tasks), FILES_AT_ONCE):
        found = pages.read_files(table, scan, tasks[begin : begin + FILES_AT_ONCE])
        counted = _summed(pa.concat_tables([counted, _counted(found, source)]))
    return RejectCounts(counted, start)


def _schema() -> pa.Schema:
    return TableSpec("", "", "", COLUMNS).arrow_schema()


def _scan(
    table: Table, snapshot_id: int, source: RejectSource, start: datetime | None, end: datetime | None
) -> DataScan:
    bounds = [filters.at_least(source.time, start)] if start else []
    bounds += [filters.at_most(source.time, end)] if end else []
    return table.scan(filters.all_of(*bounds), selected_fields=(*source.columns, source.time), snapshot_id=snapshot_id)


def _newest(table: Table, tasks: list[FileScanTask], source: RejectSource) -> datetime | None:
    """Return an upper bound of the newest time from the files' statistics; None without files or statistics."""
    from pyiceberg.conversions import from_bytes
    from pyiceberg.utils.datetime import micros_to_timestamptz

    field = table.schema().find_field(source.time)
    kind: Any = field.field_type
    bounds = [(task.file.upper_bounds or {}).get(field.field_id) for task in tasks]
    known: list[Any] = [from_bytes(kind, bound) for bound in bounds if bound is not None]
    return micros_to_timestamptz(max(known)) if known and len(known) == len(bounds) else None


def _counted(found: pa.Table, source: RejectSource) -> pa.Table:
    sql = f"""SELECT {source.reason} AS reason, {source.symbol} AS symbol, count(*) AS rows,
      min({source.time}) AS first_at, max({source.time}) AS last_at FROM found GROUP BY 1, 2"""
    return _run(sql, found)


def _summed(found: pa.Table) -> pa.Table:
    sql = """SELECT reason, symbol, CAST(sum(rows) AS BIGINT) AS rows, min(first_at) AS first_at,
      max(last_at) AS last_at FROM found GROUP BY reason, symbol ORDER BY rows DESC, reason, symbol"""
    return _run(sql, found)


def _run(sql: str, found: pa.Table) -> pa.Table:
    with open_duckdb() as duck:
        duck.register("found", found)
        return duck.sql(sql).to_arrow_table().cast(_schema())
