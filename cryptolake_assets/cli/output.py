"""Print results without loss: decimals in fixed point, times as RFC 3339 in UTC, text unchanged."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_ROWS = 1_000
WIDE = 100_000


class OutputFormat(StrEnum):
    """Format of a printed result."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def to_stderr() -> Console:
    """Return the console for all output except results."""
    return Console(stderr=True, highlight=False)


def progress_bar(console: Console, **options: Any) -> Progress:
    """Return a progress bar in bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, **options)


def print_wide(*tables: RenderableType, width: int) -> None:
    """Print tables that may exceed the terminal, up to `width` columns: truncated names are useless."""
    console = Console(highlight=False)
    console.width = max(console.width, width)
    for item in tables:
        console.print(item, crop=False, no_wrap=True)


def print_table(table: pa.Table, form: OutputFormat, out: TextIO | None = None) -> None:
    """Print an Arrow table to `out` (standard output). `TABLE` shows the first `MAX_TABLE_ROWS` rows."""
    out = out or sys.stdout
    if form is OutputFormat.CSV:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows([text(value) for value in row] for row in rows(table))
    elif form is OutputFormat.JSON:
        names = table.column_names
        lines = (json.dumps(dict(zip(names, map(plain, row), strict=True)), ensure_ascii=False) for row in rows(table))
        out.write("[" + ",\n ".join(lines) + "]\n")
    else:
        _print_aligned(table, out)


def rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows as Python values; truncate nanoseconds to microseconds, the resolution of Python's datetime."""
    import pyarrow as pa

    fields = [
        field.with_type(pa.timestamp("us", field.type.tz))
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns"
        else field
        for field in table.schema
    ]
    table = table.cast(pa.schema(fields), safe=False)
    for batch in table.to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def plain(value: Any) -> Any:
    """Return `value` as JSON can represent it without loss: decimals and times as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return _time_text(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def text(value: Any, null: str = "") -> str:
    """Return `value` as the text of a cell."""
    value = plain(value)
    if value is None:
        return null
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _time_text(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _print_aligned(table: pa.Table, out: TextIO) -> None:
    import pyarrow as pa

    aligned = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_decimal(field.type) or pa.types.is_floating(field.type)
        aligned.add_column(Text(field.name), justify="right" if number else "left", no_wrap=True)
    for row in rows(table.slice(0, MAX_TABLE_ROWS)):
        aligned.add_row(*(Text(text(value, "NULL")) for value in row))
    # Long lines instead of truncated cells.
    Console(file=out, width=WIDE, highlight=False).print(aligned, crop=False, no_wrap=True)
    count = table.num_rows
    more = f"; the first {MAX_TABLE_ROWS} are shown, --format csv prints all" if count > MAX_TABLE_ROWS else ""
    out.write(f"{count} row{'s' * (count != 1)}{more}\n")
