"""What bars and daily stats measure: each column's type, meaning and computation, said here and nowhere else.

A measure is an aggregate in SQL (over the trades of a minute, or over the bars of a day), or it follows from other
measures of its row by exact arithmetic in Python, or it is set by the refresh. The tables' schemas (`lake.tables`) and
both engines' queries (`transform.engines`) are made from these lists, so a new statistic is one new entry here.

SQL is the same for every engine but for the fragments of `Dialect`. Numbers that engines would round in their own ways
(ratios, logarithms) are never left to SQL: both engines hand over sums and closes, and one function makes the number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from cryptolake_assets.lake.columns import PRICE, QUOTE_VOLUME, TIME, VOLUME, Column

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Dialect:
    """The fragments in which the engines' SQL differs.

    Over trades (`price`, `qty` decimal(18,8), `event_time`, `trade_id`): `minute` is the open time of a trade's minute,
    `order` a sortable key for (event_time, trade_id) (Spark's query makes it a column), `quote` price x qty without
    rounding or overflow. Over bars: `closes` the list of closes in order of time.
    """

    name: str
    minute: str
    order: str
    quote: str
    closes: str


DUCKDB = Dialect(
    name="duckdb",
    # date_trunc on a time with zone costs DuckDB more than the rest of the query.
    minute="make_timestamptz(epoch_us(event_time) // 60000000 * 60000000)",
    order="(epoch_us(event_time)::HUGEINT * 18446744073709551616 + trade_id)",
    # decimal(18,8) x decimal(18,8) is computed in 64 bits and overflows.
    quote="(CAST(price AS decimal(19,8)) * CAST(qty AS decimal(19,8)))",
    closes="list(close ORDER BY window_start)",
)

SPARK = Dialect(
    name="spark",
    # date_trunc asks for the time zone of every trade.
    minute="timestamp_micros(unix_micros(event_time) div 60000000 * 60000000)",
    order="position",
    quote="(price * qty)",
    closes="transform(array_sort(collect_list(struct(window_start, close))), bar -> bar.close)",
)


@dataclass(frozen=True)
class Measure(Column):
    """One column of the result, see the module's text.

    `sql` is an aggregate with `{order}`, `{quote}` or `{closes}` for a dialect's fragments; `sql_in_units` takes its
    place in Spark's fast query, whose trades have price and quantity as whole units of 10^-8 too (`p`, `q`). `derive`
    makes the value from the row of aggregates. A measure with neither is a key or is set by the refresh. One that is
    not `published` is an aggregate that others are derived from.
    """

    sql: str | None = None
    sql_in_units: str | None = None
    derive: Callable[[Row], Any] | None = None
    published: bool = True


def ratio(numerator: Decimal, denominator: Decimal) -> Decimal:
    """numerator / denominator with 8 decimals, rounded half up, by integers; both are >= 0, the second > 0."""
    top, bottom = _scaled(numerator) * 10**8, _scaled(denominator)
    return Decimal(f"{(2 * top + bottom) // (2 * bottom)}E-8")


def realised_volatility(closes: Sequence[Decimal]) -> float:
    """Square root of the sum of squared log returns of consecutive closes (all > 0); 0.0 for fewer than two.

    Accurate to about 15 digits also for moves of one unit in 10^18, and the same whichever engine read the closes.
    """
    returns = (_log_return(earlier, later) for earlier, later in pairwise(closes))
    return math.sqrt(math.fsum(step * step for step in returns))


def _log_return(earlier: Decimal, later: Decimal) -> float:
    """ln(later / earlier). Near 1 the quotient has lost the move's digits, and far from it the difference has."""
    quotient = float(later) / float(earlier)
    return math.log1p(float(later - earlier) / float(earlier)) if 0.5 < quotient < 2 else math.log(quotient)


def _scaled(value: Decimal) -> int:
    """value * 10^16 as an integer. Not by `Decimal.scaleb`, which rounds to the context's 28 digits."""
    _, digits, exponent = value.as_tuple()
    power: int = 10 ** (16 + int(exponent))
    return int("".join(map(str, digits))) * power


def _units(value: str) -> str:
    """A number of units as a decimal."""
    return f"CAST({value} AS decimal(19,0)) * 0.00000001BD"


def _unit_product_sum(condition: str | None = None) -> str:
    """The exact sum of p x q in 64-bit numbers: both are cut into three limbs of six digits (`p2 p1 p0`), products of
    one power are added up, and the five sums make a decimal(38,16). Three million trades a minute cannot overflow."""
    powers = (
        ("p2 * q2", "100000000BD"),
        ("p2 * q1 + p1 * q2", "100BD"),
        ("p2 * q0 + p1 * q1 + p0 * q2", "0.0001BD"),
        ("p1 * q0 + p0 * q1", "0.0000000001BD"),
        ("p0 * q0", "0.0000000000000001BD"),
    )
    return " + ".join(
        f"CAST(CAST(sum({f'IF({condition}, {value}, 0)' if condition else value}) AS decimal(19,0))"
        f" * {unit} AS decimal(34,16))"
        for value, unit in powers
    )


def _vwap(row: Row) -> Decimal:
    return ratio(row["quote_volume"], row["volume"])


def _daily_vwap(row: Row) -> Decimal:
    return ratio(row["total_quote_volume"], row["total_volume"])


def _taker_buy_ratio(row: Row) -> Decimal:
    return ratio(row["taker_buy_volume"], row["total_volume"])


def _volatility(row: Row) -> float:
    return realised_volatility(row["closes"])


BAR_MEASURES = (
    Measure("symbol", "string", "the exchange's symbol"),
    Measure("window_start", TIME, "open time of the minute"),
    Measure(
        "open",
        PRICE,
        "price of the first trade by (event_time, trade_id)",
        "min_by(price, {order})",
        _units("min_by(p, {order})"),
    ),
    Measure("high", PRICE, "highest price", "max(price)", _units("max(p)")),
    Measure("low", PRICE, "lowest price", "min(price)", _units("min(p)")),
    Measure(
        "close",
        PRICE,
        "price of the last trade by (event_time, trade_id)",
        "max_by(price, {order})",
        _units("max_by(p, {order})"),
    ),
    Measure("volume", VOLUME, "base currency", "sum(qty)", _units("sum(q)")),
    Measure("quote_volume", QUOTE_VOLUME, "quote currency", "sum({quote})", _unit_product_sum()),
    Measure("vwap", PRICE, "quote_volume / volume, rounded half up", derive=_vwap),
    Measure("trades", "long", "single trades", "sum(last_trade_id - first_trade_id + 1)"),
    Measure(
        "taker_buy_volume",
        VOLUME,
        "base currency bought by takers",
        "coalesce(sum(qty) FILTER (WHERE side = 'buy'), 0)",
        _units("sum(IF(is_buy, q, 0))"),
    ),
    Measure(
        "taker_buy_quote_volume",
        QUOTE_VOLUME,
        "quote currency spent by buying takers",
        "coalesce(sum({quote}) FILTER (WHERE side = 'buy'), 0)",
        _unit_product_sum("is_buy"),
    ),
    Measure("first_trade_id", "long", "lowest single-trade id", "min(first_trade_id)"),
    Measure("last_trade_id", "long", "highest single-trade id", "max(last_trade_id)"),
    Measure("is_complete", "boolean", "coverage holds the whole minute and the watermark is past its end"),
    Measure("updated_at", TIME, "when the bar last changed; outside all equality"),
)
"""Columns of `silver.futures_ohlcv_1m`, over the sound MARKET trades of one (symbol, minute), repeats removed."""

DAILY_MEASURES = (
    Measure("symbol", "string", "the exchange's symbol"),
    Measure("trade_date", "date", "UTC day"),
    Measure("open", PRICE, "open of the first bar", "min_by(open, window_start)"),
    Measure("high", PRICE, "highest price", "max(high)"),
    Measure("low", PRICE, "lowest price", "min(low)"),
    Measure("close", PRICE, "close of the last bar", "max_by(close, window_start)"),
    Measure("total_volume", VOLUME, "base currency", "sum(volume)"),
    Measure("total_quote_volume", QUOTE_VOLUME, "quote currency", "sum(quote_volume)"),
    Measure("price_range", PRICE, "high - low", "max(high) - min(low)"),
    Measure("trades", "long", "single trades", "sum(trades)"),
    Measure("vwap", PRICE, "total_quote_volume / total_volume, rounded half up", derive=_daily_vwap),
    Measure("taker_buy_ratio", PRICE, "taker buy volume / volume, rounded half up", derive=_taker_buy_ratio),
    Measure(
        "realised_volatility",
        "double",
        "square root of the sum of squared log returns of minute closes",
        derive=_volatility,
    ),
    Measure("minutes_with_trades", "long", "bars of the day", "count(*)"),
    Measure("is_complete", "boolean", "coverage holds the whole day and the watermark is past its end"),
    Measure("updated_at", TIME, "when the row last changed; outside all equality"),
    Measure("taker_buy_volume", VOLUME, "base currency bought by takers", "sum(taker_buy_volume)", published=False),
    Measure("closes", f"list<{PRICE}>", "closes of the day's bars in order of time", "{closes}", published=False),
)
"""Columns of `gold.futures_daily_stats`, over the bars of one (symbol, UTC day)."""


def columns(measures: Sequence[Measure]) -> tuple[Column, ...]:
    """The published measures as a table's columns."""
    return tuple(Column(measure.name, measure.type, measure.doc) for measure in measures if measure.published)


def select_list(measures: Sequence[Measure], dialect: Dialect, *, in_units: bool = False) -> str:
    """The aggregates as a SELECT list, each in its own type, `expression AS name` by commas."""
    fragments = {"order": dialect.order, "quote": dialect.quote, "closes": dialect.closes}
    expressions = {
        measure: ((in_units and measure.sql_in_units) or measure.sql).format(**fragments)
        for measure in measures
        if measure.sql is not None
    }
    return ",\n  ".join(f"{_cast(sql, measure.type)} AS {measure.name}" for measure, sql in expressions.items())


def _cast(expression: str, kind: str) -> str:
    if kind.startswith("list"):
        return expression
    sql_type = {"long": "bigint"}.get(kind, kind)
    return f"CAST({expression} AS {sql_type})"


def with_derived(measures: Sequence[Measure], row: Row) -> dict[str, Any]:
    """The row of aggregates and its derived measures."""
    return {**row, **{measure.name: measure.derive(row) for measure in measures if measure.derive is not None}}
