"""Daily stats from one-minute bars: the aggregation, and what follows from its sums. Pure; an engine runs the SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from cryptolake_assets.lake.tables import GOLD_DAILY
from cryptolake_assets.transform.ohlcv import ratio

if TYPE_CHECKING:
    import pyarrow as pa


def daily_sql(source: str) -> str:
    """Spark SQL over `source` (a FROM clause that yields the bars of one UTC day): one row per symbol.

    The log returns are added up in order of time, so that the double is the same in every run.
    """
    closes = "transform(array_sort(collect_list(struct(window_start, close))), bar -> ln(CAST(bar.close AS double)))"
    return f"""
WITH days AS (
  SELECT symbol,
    min_by(open, window_start) AS open, max(high) AS high, min(low) AS low, max_by(close, window_start) AS close,
    CAST(sum(volume) AS decimal(38,8)) AS total_volume,
    CAST(sum(quote_volume) AS decimal(38,16)) AS total_quote_volume,
    CAST(max(high) - min(low) AS decimal(18,8)) AS price_range,
    sum(trades) AS trades,
    CAST(sum(taker_buy_volume) AS decimal(38,8)) AS taker_buy_volume,
    count(*) AS minutes_with_trades,
    {closes} AS log_closes
  FROM {source} GROUP BY symbol
)
SELECT * EXCEPT (log_closes),
  sqrt(aggregate(
    zip_with(slice(log_closes, 2, size(log_closes)), slice(log_closes, 1, greatest(size(log_closes) - 1, 0)),
             (later, earlier) -> later - earlier),
    CAST(0 AS double), (total, step) -> total + coalesce(step * step, 0))) AS realised_volatility
FROM days
"""


def daily_stats_from_aggregates(aggregates: pa.Table, day: date, is_complete: Callable[[str], bool]) -> pa.Table:
    """`daily_sql`'s result as rows of `gold.futures_daily_stats`, `updated_at` empty."""
    import pyarrow as pa

    rows = aggregates.to_pylist()
    for row in rows:
        row["trade_date"] = day
        row["vwap"] = ratio(row["total_quote_volume"], row["total_volume"])
        row["taker_buy_ratio"] = ratio(row["taker_buy_volume"], row["total_volume"])
        row["is_complete"] = is_complete(row["symbol"])
        row["updated_at"] = None
    schema = GOLD_DAILY.arrow_schema()
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)
