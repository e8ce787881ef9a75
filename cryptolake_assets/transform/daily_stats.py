"""Daily stats from an engine's aggregates over one-minute bars. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from cryptolake_assets.lake.tables import GOLD_DAILY
from cryptolake_assets.model.measures import DAILY_MEASURES, with_derived

if TYPE_CHECKING:
    import pyarrow as pa


def daily_stats_from_aggregates(aggregates: pa.Table, day: date, is_complete: Callable[[str], bool]) -> pa.Table:
    """Rows of `symbol` and the aggregates of `DAILY_MEASURES` as rows of `gold.futures_daily_stats`, `updated_at`
    empty."""
    import pyarrow as pa

    rows = [
        {
            **with_derived(DAILY_MEASURES, aggregate),
            "trade_date": day,
            "is_complete": not aggregate["trades_dropped"] and is_complete(aggregate["symbol"]),
            "updated_at": None,
        }
        for aggregate in aggregates.to_pylist()
    ]
    schema = GOLD_DAILY.arrow_schema()
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)
