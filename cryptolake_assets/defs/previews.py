"""Previews of materialized rows as Markdown tables."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 8


def preview(rows: "pa.Table", columns: Sequence[str]) -> dg.MarkdownMetadataValue:
    """Return the given columns of the first and the last rows, at most `MAX_ROWS` rows in total."""
    selected = rows.select(list(columns))
    shown = selected.to_pylist()
    if selected.num_rows > MAX_ROWS:
        half = MAX_ROWS // 2
        gap: Mapping[str, Any] = dict.fromkeys(columns, "…")
        shown = [*selected.slice(0, half).to_pylist(), gap, *selected.slice(selected.num_rows - half).to_pylist()]
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_text(row[name]) for name in columns) for row in shown]
    return dg.MetadataValue.md("\n".join(lines) if shown else "no rows")


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    # Not str(): it formats small decimals as 0E-8.
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
