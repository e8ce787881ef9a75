"""Build daily stats from an engine's aggregates of one-minute bars. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import TYPE_CHECKING

from cryptolake_assets.model.measures import DAILY_MEASURES, with_derived
from cryptolake_assets.quality.rules import Instrument

if TYPE_CHECKING:
    import pyarrow as pa


# Columns that may differ between two rows of the same bars; rows of earlier releases have no count of dropped trades.
NOT_MEASURED = ("is_complete", "updated_at", "trades_dropped")


def daily_stats_from_aggregates(
    aggregates: pa.Table,
    day: date,
    dropped: Mapping[Instrument, int],
    is_covered: Callable[[Instrument], bool],
    present: pa.Table,
    schema: pa.Schema,
) -> pa.Table:
    """Return rows of the schema of their Gold table, with `updated_at` empty.

    `aggregates` has `exchange`, `symbol` and the aggregates of `DAILY_MEASURES`. `dropped` maps (exchange, symbol) to
    the day's dropped trades: a bar counts only those of its own stream, and a minute whose trades were all dropped has
    no bar.

    A day is complete if all of its bars are complete and coverage contains the full day, including minutes without
    trades. A complete `present` row with the same measures stays complete without coverage: coverage is temporarily
    withdrawn while an archive day is reloaded or a longer coverage row waits for Bronze.
    """
    import pyarrow as pa

    measured = [name for name in schema.names if name not in NOT_MEASURED]
    proven = {tuple(row[name] for name in measured) for row in present.to_pylist() if row["is_complete"]}
    rows = []
    for aggregate in aggregates.to_pylist():
        row = {**with_derived(DAILY_MEASURES, aggregate), "trade_date": day, "updated_at": None}
        symbol = row["exchange"], row["symbol"]
        row["trades_dropped"] = max(row["trades_dropped"], dropped.get(symbol, 0))
        row["is_complete"] = (
            row["bars_complete"]
            and not row["trades_dropped"]
            and (tuple(row[name] for name in measured) in proven or is_covered(symbol))
        )
        rows.append(row)
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)
