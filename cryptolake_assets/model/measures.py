"""The columns of bars and daily stats: type, description and computation of each, defined only here.

A measure is an aggregate (over a minute's trades or a day's bars), or derived from other measures of its row by exact
arithmetic in Python, or set by the refresh. The table schemas (`bar_tables`) and both engines' queries
(`transform.engines`) are built from these lists, so a new statistic is one new entry here.

SQL is the same for every engine except for the fragments of `Dialect`. Aggregates over trades are defined by function
and operand instead of SQL, so that Spark can also compute them in two steps of 64-bit numbers
(`transform.engines.spark_fast`). Values that engines would round differently (ratios, logarithms) are not computed in
SQL: both engines return sums and closes, and one Python function computes the value.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Any

from cryptolake_assets.model.columns import (
    EXCHANGE,
    FRACTION,
    LOG_RETURN,
    PRICE,
    QUANTITY,
    QUOTE_VOLUME,
    SYMBOL,
    TIME,
    UPDATED_AT_DOC,
    VOLUME,
    Column,
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Dialect:
    """The engine-specific SQL fragments.

    Over trades (`price`, `qty`, `event_time`, `trade_id`): `minute` is the open time of a trade's minute, `order` a
    sortable key for (event_time, trade_id) (a column in Spark's query), `quote` price x qty without rounding or
    overflow. Over bars: `closes` is the list of closes ordered by time.
    """

    name: str
    minute: str
    order: str
    quote: str
    closes: str


DUCKDB = Dialect(
    name="duckdb",
    # In DuckDB, date_trunc on a timestamptz costs more than the rest of the query.
    minute="make_timestamptz(epoch_us(event_time) // 60000000 * 60000000)",
    order="(epoch_us(event_time)::HUGEINT * 18446744073709551616 + trade_id)",
    # DuckDB multiplies up to 18 digits in 64 bits, which overflows; older files store quantities with 18 digits.
    quote=f"(CAST(price AS decimal(19,8)) * CAST(qty AS {QUANTITY}))",
    closes="list(close ORDER BY window_start)",
)

SPARK = Dialect(
    name="spark",
    # date_trunc would look up the time zone for every trade.
    minute="timestamp_micros(unix_micros(event_time) div 60000000 * 60000000)",
    order="position",
    quote="(price * qty)",
    closes="transform(array_sort(collect_list(struct(window_start, close))), bar -> bar.close)",
)


class Function(StrEnum):
    """Aggregate function over a minute's trades; first and last are by (event_time, trade_id)."""

    FIRST = "first"
    LAST = "last"
    LOWEST = "lowest"
    HIGHEST = "highest"
    TOTAL = "total"


@dataclass(frozen=True)
class Aggregate:
    """A function of an operand: `price`, `qty`, `quote` (their product) or an SQL expression of integers.

    `by_takers` limits a total to trades with a buying taker.
    """

    function: Function
    operand: str
    by_takers: bool = False

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The trade columns that the aggregate reads."""
        operand = "price * qty" if self.operand == "quote" else self.operand
        order = ("event_time", "trade_id") if self.function in (Function.FIRST, Function.LAST) else ()
        return (*_names_in(operand), *order, *(("side",) if self.by_takers else ()))

    def sql(self, dialect: Dialect) -> str:
        operand = dialect.quote if self.operand == "quote" else self.operand
        if self.by_takers:
            return f"coalesce(sum({operand}) FILTER (WHERE side = 'buy'), 0)"
        return {
            Function.FIRST: f"min_by({operand}, {dialect.order})",
            Function.LAST: f"max_by({operand}, {dialect.order})",
            Function.LOWEST: f"min({operand})",
            Function.HIGHEST: f"max({operand})",
            Function.TOTAL: f"sum({operand})",
        }[self.function]


@dataclass(frozen=True)
class Measure(Column):
    """One column of the result; see the module docstring.

    `aggregate` computes it from trades, or `sql` from bars (with `{closes}` for a dialect's fragment); `derive`
    computes it from the row of aggregates. A measure with none of them is a key or set by the refresh. A measure that
    is not `published` is an aggregate used only to derive others. `inputs` lists inputs that the SQL does not name:
    the measures it is derived from, or source columns.
    """

    aggregate: Aggregate | None = None
    sql: str | None = None
    derive: Callable[[Row], Any] | None = None
    published: bool = True

    inputs: tuple[str, ...] = ()


def ratio(numerator: Decimal, denominator: Decimal) -> Decimal:
    """Return numerator / denominator with 8 decimals, rounded half up, in integers; numerator >= 0, denominator > 0."""
    top, bottom = _scaled(numerator) * 10**8, _scaled(denominator)
    return Decimal(f"{(2 * top + bottom) // (2 * bottom)}E-8")


def realised_volatility(closes: Sequence[Decimal]) -> float:
    """Return the square root of the sum of squared log returns of consecutive closes (> 0); 0.0 for fewer than two.

    Accurate to about 15 digits even for moves of one unit in 10^18, and identical for all engines.
    """
    returns = (_log_return(earlier, later) for earlier, later in pairwise(closes))
    return math.sqrt(math.fsum(step * step for step in returns))


def _log_return(earlier: Decimal, later: Decimal) -> float:
    """Return ln(later / earlier). Near 1 the quotient loses the move's digits; far from 1 the difference does."""
    quotient = float(later) / float(earlier)
    return math.log1p(float(later - earlier) / float(earlier)) if 0.5 < quotient < 2 else math.log(quotient)


_EXACT = Context(prec=80)  # the default context would round to 28 digits


def _scaled(value: Decimal) -> int:
    """Return value * 10^16 as an integer."""
    return int(value.scaleb(16, _EXACT))


def _vwap(row: Row) -> Decimal:
    return ratio(row["quote_volume"], row["volume"])


def _daily_vwap(row: Row) -> Decimal:
    return ratio(row["total_quote_volume"], row["total_volume"])


def _taker_buy_ratio(row: Row) -> Decimal:
    return ratio(row["taker_buy_volume"], row["total_volume"])


def _volatility(row: Row) -> float:
    return realised_volatility(row["closes"])


# Columns of `silver.*_ohlcv_1m`, over the valid MARKET trades of one (exchange, symbol, minute), deduplicated.
BAR_MEASURES = (
    Measure("exchange", "string", EXCHANGE.doc, inputs=("exchange",)),
    Measure("symbol", "string", SYMBOL.doc, inputs=("symbol",)),
    Measure("window_start", TIME, "start of the minute", inputs=("event_time",)),
    Measure("open", PRICE, "price of the first trade by (event_time, trade_id)", Aggregate(Function.FIRST, "price")),
    Measure("high", PRICE, "highest price", Aggregate(Function.HIGHEST, "price")),
    Measure("low", PRICE, "lowest price", Aggregate(Function.LOWEST, "price")),
    Measure("close", PRICE, "price of the last trade by (event_time, trade_id)", Aggregate(Function.LAST, "price")),
    Measure("volume", VOLUME, "traded volume, base currency", Aggregate(Function.TOTAL, "qty")),
    Measure("quote_volume", QUOTE_VOLUME, "traded volume, quote currency", Aggregate(Function.TOTAL, "quote")),
    Measure("vwap", PRICE, "quote_volume / volume, rounded half up", derive=_vwap, inputs=("quote_volume", "volume")),
    Measure(
        "trades", "long", "number of single trades", Aggregate(Function.TOTAL, "last_trade_id - first_trade_id + 1")
    ),
    Measure(
        "taker_buy_volume",
        VOLUME,
        "volume bought by takers, base currency",
        Aggregate(Function.TOTAL, "qty", by_takers=True),
    ),
    Measure(
        "taker_buy_quote_volume",
        QUOTE_VOLUME,
        "volume bought by takers, quote currency",
        Aggregate(Function.TOTAL, "quote", by_takers=True),
    ),
    Measure("first_trade_id", "long", "lowest single-trade id", Aggregate(Function.LOWEST, "first_trade_id")),
    Measure("last_trade_id", "long", "highest single-trade id", Aggregate(Function.HIGHEST, "last_trade_id")),
    Measure("is_complete", "boolean", "true if every trade of the minute is proven to be in the bar"),
    Measure("updated_at", TIME, UPDATED_AT_DOC),
    Measure(
        "trades_dropped",
        "long",
        "number of order-book trades excluded from the bar by a quality rule",
        inputs=("price", "qty", "trade_type"),
    ),
    Measure(
        "evidence",
        "string",
        "proof of completeness: ids, barrier or klines; null if the bar is incomplete or from an earlier release",
    ),
    Measure(
        "stream",
        "string",
        "stream of the bar's trades: trade or aggTrade; null in bars of earlier releases",
        inputs=("stream",),
    ),
)

# Columns of `gold.*_daily_stats`, over the bars of one (exchange, symbol, UTC day).
DAILY_MEASURES = (
    Measure("exchange", "string", EXCHANGE.doc, inputs=("exchange",)),
    Measure("symbol", "string", SYMBOL.doc, inputs=("symbol",)),
    Measure("trade_date", "date", "UTC day", inputs=("window_start",)),
    Measure("open", PRICE, "price of the first trade of the day", sql="min_by(open, window_start)"),
    Measure("high", PRICE, "highest price", sql="max(high)"),
    Measure("low", PRICE, "lowest price", sql="min(low)"),
    Measure("close", PRICE, "price of the last trade of the day", sql="max_by(close, window_start)"),
    Measure("total_volume", VOLUME, "traded volume, base currency", sql="sum(volume)"),
    Measure("total_quote_volume", QUOTE_VOLUME, "traded volume, quote currency", sql="sum(quote_volume)"),
    Measure("price_range", PRICE, "high - low", sql="max(high) - min(low)"),
    Measure("trades", "long", "number of single trades", sql="sum(trades)"),
    Measure(
        "vwap",
        PRICE,
        "total_quote_volume / total_volume, rounded half up",
        derive=_daily_vwap,
        inputs=("total_quote_volume", "total_volume"),
    ),
    Measure(
        "taker_buy_ratio",
        PRICE,
        "taker_buy_volume / total_volume, rounded half up",
        derive=_taker_buy_ratio,
        inputs=("taker_buy_volume", "total_volume"),
        own_unit=FRACTION,
    ),
    Measure(
        "realised_volatility",
        "double",
        "square root of the sum of squared log returns of minute closes",
        derive=_volatility,
        inputs=("closes",),
        own_unit=LOG_RETURN,
    ),
    Measure("minutes_with_trades", "long", "number of minutes with a bar", sql="count(*)", inputs=("window_start",)),
    Measure("is_complete", "boolean", "true if every trade of the day is proven to be in its bars"),
    Measure("updated_at", TIME, UPDATED_AT_DOC),
    Measure(
        "trades_dropped",
        "long",
        "number of order-book trades excluded from the day's bars by a quality rule",
        sql="coalesce(sum(trades_dropped), 0)",
    ),
    Measure(
        "taker_buy_volume",
        VOLUME,
        "volume bought by takers, base currency",
        sql="sum(taker_buy_volume)",
        published=False,
    ),
    Measure(
        "bars_complete",
        "boolean",
        "true if every bar of the day is complete",
        sql="bool_and(is_complete)",
        published=False,
    ),
    Measure(
        "closes",
        f"list<{PRICE}>",
        "closes of the day's bars, ordered by time",
        sql="{closes}",
        published=False,
        inputs=("close", "window_start"),
    ),
)


def columns(measures: Sequence[Measure]) -> tuple[Column, ...]:
    """Return the published measures as table columns."""
    return tuple(
        Column(measure.name, measure.type, measure.doc, own_unit=measure.own_unit)
        for measure in measures
        if measure.published
    )


def lineage(measures: Sequence[Measure], source: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return, per published measure, its input columns of the `source` table, in that table's order.

    Measures that the refresh sets from other data are omitted.
    """
    by_name = {measure.name: measure for measure in measures}

    def found(measure: Measure) -> set[str]:
        names = {*(measure.aggregate.input_columns if measure.aggregate else ()), *_names_in(measure.sql or "")}
        for name in measure.inputs:
            names |= found(by_name[name]) if measure.derive is not None else {name}
        return names & set(source)

    inputs = {measure.name: found(measure) for measure in measures if measure.published}
    return {name: tuple(column for column in source if column in names) for name, names in inputs.items() if names}


def definition_hash(measures: Sequence[Measure]) -> str:
    """Return a hash that changes when a measure is added or redefined: the code version of its table."""
    definitions = [
        (measure.name, measure.type, str(measure.aggregate), measure.sql, getattr(measure.derive, "__name__", None))
        for measure in measures
    ]
    return hashlib.sha256(repr(definitions).encode()).hexdigest()[:12]


def select_list(measures: Sequence[Measure], dialect: Dialect) -> str:
    """Return the aggregates as a SELECT list, each cast to its own type."""
    return named(measures, lambda measure: _sql(measure, dialect))


def named(measures: Sequence[Measure], sql: Callable[[Measure], str | None]) -> str:
    """Return a SELECT list of the measures for which `sql` returns an expression, each cast to its own type."""
    expressions = ((measure, sql(measure)) for measure in measures)
    return ",\n  ".join(f"{_cast(text, measure.type)} AS {measure.name}" for measure, text in expressions if text)


def _sql(measure: Measure, dialect: Dialect) -> str | None:
    if measure.aggregate is not None:
        return measure.aggregate.sql(dialect)
    return measure.sql.format(closes=dialect.closes) if measure.sql is not None else None


def _names_in(sql: str) -> list[str]:
    return re.findall(r"[a-z_]+", sql)


def _cast(expression: str, kind: str) -> str:
    if kind.startswith("list"):
        return expression
    sql_type = {"long": "bigint"}.get(kind, kind)
    return f"CAST({expression} AS {sql_type})"


def rolled_up(bars: Sequence[Row]) -> dict[str, Any]:
    """Return the aggregates of the trades of several minutes, from their bars (at least one) in order of time."""
    found: dict[str, Any] = {}
    for measure in BAR_MEASURES:
        if measure.aggregate is not None:
            found[measure.name] = _OVER_BARS[measure.aggregate.function]([bar[measure.name] for bar in bars])
    return with_derived(BAR_MEASURES, found)


def _total(values: Sequence[Any]) -> Any:
    if isinstance(values[0], int):
        return sum(values)
    finest = min(values, key=lambda value: value.as_tuple().exponent)
    return Decimal(f"{sum(map(_scaled, values))}E-16").quantize(finest, context=_EXACT)


_OVER_BARS: Mapping[Function, Callable[[Sequence[Any]], Any]] = {
    Function.FIRST: lambda values: values[0],
    Function.LAST: lambda values: values[-1],
    Function.LOWEST: min,
    Function.HIGHEST: max,
    Function.TOTAL: _total,
}


def with_derived(measures: Sequence[Measure], row: Row) -> dict[str, Any]:
    """Return the row of aggregates with its derived measures added."""
    return {**row, **{measure.name: measure.derive(row) for measure in measures if measure.derive is not None}}
