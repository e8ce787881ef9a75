"""One-minute bars: the aggregation, and what is derived from its sums. Pure; an engine runs the SQL.

The SQL returns one row per (symbol, stream, minute), also for minutes of which nothing was valid, so that every row
read is accounted for. Single trades and aggregates of trades have ids of different sequences and are never mixed: a
bar is made from one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake.tables import SILVER_OHLCV
from cryptolake_assets.transform.rules import RULES, RuleContext, broken_rule

if TYPE_CHECKING:
    import pyarrow as pa

STREAM_PREFERENCE = ("trade", "aggTrade")
"""Which stream makes the bar when both are equally complete: single trades equal the exchange's klines exactly."""

MINUTE_MS = 60_000


def bars_sql(source: str, context: RuleContext) -> str:
    """Spark SQL over `source` (a FROM clause that yields the contract's columns of the wanted minutes).

    Repeats of a trade are reduced to one, a sound copy before a broken one; (price, qty) are decimal(18,8), whose
    product and sums stay exact. Order inside a minute is (event_time, trade_id).
    """
    order = "struct(event_time, trade_id)"
    used = "FILTER (WHERE used)"
    per_rule = ",\n  ".join(f"count_if(rule = '{rule}') AS dropped_{rule}" for rule in RULES)
    return f"""
WITH judged AS (
  SELECT *, {broken_rule(context)} AS rule FROM {source}
), trades AS (
  SELECT exchange, symbol, stream, trade_id, count(*) AS copies,
    min(struct(rule IS NOT NULL AS is_broken, event_time, price, qty, side, first_trade_id, last_trade_id,
               trade_type, rule)) AS trade
  FROM judged GROUP BY exchange, symbol, stream, trade_id
), counted AS (
  SELECT symbol, stream, trade_id, copies, trade.*, NOT trade.is_broken AND trade.trade_type = 'MARKET' AS used
  FROM trades
)
SELECT symbol, stream, date_trunc('MINUTE', event_time) AS window_start,
  min_by(price, {order}) {used} AS open,
  max(price) {used} AS high,
  min(price) {used} AS low,
  max_by(price, {order}) {used} AS close,
  CAST(sum(qty) {used} AS decimal(38,8)) AS volume,
  CAST(sum(price * qty) {used} AS decimal(38,16)) AS quote_volume,
  sum(last_trade_id - first_trade_id + 1) {used} AS trades,
  CAST(coalesce(sum(qty) FILTER (WHERE used AND side = 'buy'), 0) AS decimal(38,8)) AS taker_buy_volume,
  CAST(coalesce(sum(price * qty) FILTER (WHERE used AND side = 'buy'), 0) AS decimal(38,16)) AS taker_buy_quote_volume,
  min(first_trade_id) {used} AS first_trade_id,
  max(last_trade_id) {used} AS last_trade_id,
  sum(copies) AS rows_in,
  count_if(used) AS rows_valid,
  sum(copies - 1) AS rows_duplicate,
  count_if(NOT is_broken AND trade_type <> 'MARKET') AS rows_other_type,
  {per_rule}
FROM counted GROUP BY symbol, stream, date_trunc('MINUTE', event_time)
"""


@dataclass
class RowCounts:
    """What became of the rows read; rows_in = rows_valid + rows_dropped + rows_duplicate + rows_other_type."""

    rows_in: int = 0
    rows_valid: int = 0
    rows_duplicate: int = 0
    rows_other_type: int = 0
    dropped_by_rule: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped_by_rule.values())


def count_rows(aggregates: pa.Table) -> RowCounts:
    """Adds up the accounting columns of `bars_sql`'s result."""
    import pyarrow.compute as pc

    def total(column: str) -> int:
        return int(pc.sum(aggregates[column]).as_py() or 0)

    return RowCounts(
        rows_in=total("rows_in"),
        rows_valid=total("rows_valid"),
        rows_duplicate=total("rows_duplicate"),
        rows_other_type=total("rows_other_type"),
        dropped_by_rule={rule: total(f"dropped_{rule}") for rule in RULES},
    )


IsComplete = Callable[[str, str, int], bool]
"""(symbol, stream, open time in ms) → whether that minute is complete."""


def bars_from_aggregates(aggregates: pa.Table, is_complete: IsComplete) -> pa.Table:
    """`bars_sql`'s result as rows of `silver.futures_ohlcv_1m`, `updated_at` empty.

    Where both streams have the minute the complete one makes the bar, then the order of `STREAM_PREFERENCE`.
    """
    import pyarrow as pa

    chosen: dict[tuple[str, datetime], tuple[tuple[bool, int], dict[str, Any]]] = {}
    for row in aggregates.to_pylist():
        if not row["trades"]:
            continue
        row["is_complete"] = is_complete(row["symbol"], row["stream"], epoch_ms(row["window_start"]))
        row["vwap"] = ratio(row["quote_volume"], row["volume"])
        row["updated_at"] = None
        preference = STREAM_PREFERENCE.index(row["stream"]) if row["stream"] in STREAM_PREFERENCE else 9
        rank = (not row["is_complete"], preference)
        key = (row["symbol"], row["window_start"])
        if key not in chosen or rank < chosen[key][0]:
            chosen[key] = (rank, row)
    rows = [row for _, row in chosen.values()]
    schema = SILVER_OHLCV.arrow_schema()
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)


def ratio(numerator: Decimal, denominator: Decimal) -> Decimal:
    """numerator / denominator with 8 decimals, rounded half up, by integers; both are >= 0, the second > 0."""
    top, bottom = _scaled(numerator) * 10**8, _scaled(denominator)
    return Decimal(f"{(2 * top + bottom) // (2 * bottom)}E-8")


def _scaled(value: Decimal) -> int:
    """value * 10^16 as an integer. Not by `Decimal.scaleb`, which rounds to the context's 28 digits."""
    _, digits, exponent = value.as_tuple()
    power: int = 10 ** (16 + int(exponent))
    return int("".join(map(str, digits))) * power


def epoch_ms(value: datetime) -> int:
    """Epoch milliseconds of an aware time."""
    return round(value.timestamp() * 1000)
