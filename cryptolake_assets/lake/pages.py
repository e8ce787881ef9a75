"""Read a table's rows in key order, one page at a time, from only the files that the page needs.

PyIceberg plans the files (partitions and statistics). They are ordered by their bounds of the key's first column and
read until no other file can hold a row of the page. Local and S3 warehouses are read alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from cryptolake_assets.errors import ResponseTooLargeError, SnapshotExpiredError
from cryptolake_assets.lake import filters
from cryptolake_assets.lake.duck import open_duckdb

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import DataScan, FileScanTask, Table

FIRST_FILES = 2  # files in the first batch; each further batch has twice as many


@dataclass(frozen=True)
class PageQuery:
    """A query of one table. `key` orders the rows and is unique among them, or made unique by `distinct`."""

    key: tuple[str, ...]
    where: BooleanExpression
    columns: tuple[str, ...]
    after: tuple[Any, ...] = ()  # only rows after this position; values of the key's first columns
    limit: int | None = None
    descending: bool = False
    distinct: bool = False


@dataclass(frozen=True)
class Page:
    """Rows in order (an Arrow table of the query's columns); `more` is true if further rows follow."""

    rows: pa.Table
    more: bool


def read_page(table: Table, snapshot_id: int | None, query: PageQuery, max_bytes: int) -> Page:
    """Read a page of a snapshot (None: the table is empty). Blocks.

    Raises `SnapshotExpiredError`, and `ResponseTooLargeError` when the rows in memory exceed `max_bytes`.
    """
    import pyarrow as pa

    schema = _schema(table, query.columns)
    if snapshot_id is None:
        return Page(schema.empty_table(), False)
    if table.snapshot_by_id(snapshot_id) is None:
        raise SnapshotExpiredError(
            f"{'.'.join(table.name())}: snapshot {snapshot_id} no longer exists. Read the current snapshot."
        )
    scan = table.scan(
        row_filter=_from_start(query), selected_fields=tuple({*query.columns, *query.key}), snapshot_id=snapshot_id
    )
    found = None
    for tasks, rest in _batches(_ordered(table, scan, query)):
        part = read_files(table, scan, tasks)
        found = part if found is None else pa.concat_tables([found, part])
        if query.limit is not None:
            found = _in_order(found, query, query.limit + 1)
        if found.nbytes > max_bytes:
            raise ResponseTooLargeError(
                f"the response is larger than {max_bytes >> 20} MiB. Request a shorter range, or pages with `limit`."
            )
        if query.limit is not None and found.num_rows > query.limit and _is_before(found, rest, query):
            break
    if found is None:
        return Page(schema.empty_table(), False)
    if query.limit is None:
        found = _in_order(found, query, None)
    more = query.limit is not None and found.num_rows > query.limit
    rows = found.slice(0, query.limit) if more else found
    return Page(rows.select(list(query.columns)).cast(schema), more)


def merge(pages: Sequence[Page], query: PageQuery) -> Page:
    """Return the page of several tables with the same columns, from each one's page of the query."""
    import pyarrow as pa

    if len(pages) == 1:
        return pages[0]
    limit = None if query.limit is None else query.limit + 1
    found = _in_order(pa.concat_tables([page.rows for page in pages]), query, limit)
    is_cut = query.limit is not None and found.num_rows > query.limit
    return Page(found.slice(0, query.limit), is_cut or any(page.more for page in pages))


def overlaid(page: Page, rows: pa.Table, query: PageQuery) -> Page:
    """Return the page with these rows of the query, which replace those with the same key.

    If more rows follow the page, rows after its last one are left to later pages.
    """
    import pyarrow as pa

    if not rows.num_rows:
        return page
    values, bound = {}, ""
    if page.more:
        last = page.rows.slice(page.rows.num_rows - 1).to_pylist()[0]
        values = {f"last_{name}": last[name] for name in query.key}
        side = ">=" if query.descending else "<="
        bound = f"WHERE ({', '.join(query.key)}) {side} ({', '.join(f'$last_{name}' for name in query.key)})"
    with open_duckdb() as duck:
        duck.register("page", page.rows)
        duck.register("fresh", rows)
        kept = duck.sql(f"SELECT * FROM page ANTI JOIN fresh USING ({', '.join(query.key)})").to_arrow_table()
        added = duck.sql(f"SELECT * FROM fresh {bound}", params=values or None).to_arrow_table()
    found = pa.concat_tables([kept.cast(page.rows.schema), added.cast(page.rows.schema)])
    limit = None if query.limit is None else query.limit + 1
    found = _in_order(found, query, limit)
    is_cut = query.limit is not None and found.num_rows > query.limit
    return Page(found.slice(0, query.limit) if is_cut else found, page.more or is_cut)


def _schema(table: Table, columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    full = schema_to_pyarrow(table.schema().select(*columns), include_field_ids=False)
    return pa.schema([full.field(name) for name in columns])


def _from_start(query: PageQuery) -> BooleanExpression:
    """Return the query's filter, bounded by the start position in the key's first column."""
    if not query.after:
        return query.where
    side = filters.at_most if query.descending else filters.at_least
    return filters.all_of(query.where, side(query.key[0], query.after[0]))


@dataclass(frozen=True)
class _Planned:
    task: FileScanTask
    nearest: Any  # first value of the key's first column in the query's order; None if unknown


def _ordered(table: Table, scan: DataScan, query: PageQuery) -> list[_Planned]:
    """Return the planned files in the order in which their rows begin; files without bounds come first."""
    from pyiceberg.conversions import from_bytes

    field = table.schema().find_field(query.key[0])
    kind: Any = field.field_type
    planned = []
    for task in scan.plan_files():
        bounds = (task.file.upper_bounds if query.descending else task.file.lower_bounds) or {}
        bound = bounds.get(field.field_id)
        planned.append(_Planned(task, None if bound is None else from_bytes(kind, bound)))
    known = sorted(
        (item for item in planned if item.nearest is not None), key=lambda item: item.nearest, reverse=query.descending
    )
    return [item for item in planned if item.nearest is None] + known


def _batches(planned: list[_Planned]) -> Iterator[tuple[list[FileScanTask], _Planned | None]]:
    """Yield growing batches of files, each with the first remaining file.

    Files without bounds are in the first batch.
    """
    unknown = sum(item.nearest is None for item in planned)
    begin, number = 0, unknown + FIRST_FILES
    while begin < len(planned):
        end = min(begin + number, len(planned))
        yield [item.task for item in planned[begin:end]], planned[end] if end < len(planned) else None
        begin, number = end, number * 2


def read_files(table: Table, scan: DataScan, tasks: list[FileScanTask]) -> pa.Table:
    """Return the rows that the scan selects from the files, with the table's types. Blocks."""
    from pyiceberg.io.pyarrow import ArrowScan

    rows = ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter, scan.case_sensitive).to_table(tasks)
    # Spark and PyIceberg write different Arrow text types; tables that are joined later need one.
    return rows.cast(_schema(table, rows.column_names))


def _in_order(rows: pa.Table, query: PageQuery, limit: int | None) -> pa.Table:
    """Return the rows after the start position, in order.

    With `distinct`, keep one row per key: the first by all of its columns, independent of the order of files and rows.
    """
    direction = "DESC" if query.descending else "ASC"
    order = ", ".join(f"{name} {direction} NULLS LAST" for name in query.key)
    if query.distinct:
        order += "".join(f", {name} NULLS LAST" for name in query.columns if name not in query.key)
    distinct = f"DISTINCT ON ({', '.join(query.key)})" if query.distinct else ""
    where, values = "", {}
    if query.after:
        names = query.key[: len(query.after)]
        values = {f"start_{number}": value for number, value in enumerate(query.after)}
        side = "<" if query.descending else ">"
        where = f"WHERE ({', '.join(names)}) {side} ({', '.join(f'${name}' for name in values)})"
    with open_duckdb() as duck:
        duck.register("found", rows)
        sql = f"SELECT {distinct} * FROM found {where} ORDER BY {order}" + (f" LIMIT {limit}" if limit else "")
        return duck.sql(sql, params=values or None).to_arrow_table().cast(rows.schema)


def _is_before(found: pa.Table, rest: _Planned | None, query: PageQuery) -> bool:
    """Return whether all rows of the remaining files come after the last row found."""
    from pyiceberg.utils.datetime import date_to_days, datetime_to_micros

    if rest is None:
        return True
    last = found.column(query.key[0])[found.num_rows - 1].as_py()
    if isinstance(last, datetime):
        last = datetime_to_micros(last)
    elif isinstance(last, date):
        last = date_to_days(last)
    return bool(last > rest.nearest) if query.descending else bool(last < rest.nearest)
