"""Change rows of a table that its writer keeps in few files: a write reads and replaces only the files that it touches.

Rows that will hardly change any more move to files of their own, so that the touched files stay small.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptolake_assets.lake.commit import data_files, swap_files
from cryptolake_assets.lake.pages import read_files

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask, Table

CLOSED_AFTER: Final = timedelta(days=2)  # rows that ended this long before the newest one are closed
CLOSED_ROWS: Final = 1_000  # closed rows move to a file of their own once they are this many


def read_touched(table: Table, condition: str | BooleanExpression) -> tuple[list[FileScanTask], pa.Table]:
    """Return the files that may have rows of the condition, and all rows of these files."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    tasks = list(table.scan(row_filter=condition).plan_files())
    if not tasks:
        empty: pa.Table = schema_to_pyarrow(table.schema(), include_field_ids=False).empty_table()
        return tasks, empty
    return tasks, read_files(table, table.scan(), tasks)


def replace_touched(table: Table, tasks: Iterable[FileScanTask], parts: Iterable[pa.Table]) -> None:
    """Replace the files by one file per part and partition. Raises PyIceberg's errors of lost races."""
    added = [file for part in parts for file in data_files(table, part)]
    swap_files(table, [task.file for task in tasks], added)


def closed_apart(rows: pa.Table, end: str, is_closed: pa.ChunkedArray | None = None) -> list[pa.Table]:
    """Return the closed rows and the others, or all rows together while few are closed.

    A row is closed if its time in the column `end` is old, and if `is_closed` is true for it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    newest: datetime | None = pc.max(rows[end]).as_py()
    if newest is None:
        return [rows]
    closed = pc.less(rows[end], pa.scalar(newest - CLOSED_AFTER, rows[end].type))
    if is_closed is not None:
        closed = pc.and_(closed, is_closed)
    if pc.sum(closed).as_py() < CLOSED_ROWS:
        return [rows]
    return [rows.filter(closed), rows.filter(pc.invert(closed))]
