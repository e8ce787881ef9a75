"""Quality rules of stage 2, applied to trades in Silver. Pure SQL text, the same for every engine.

A trade that breaks a rule stays in Bronze, is stored in its family's quarantine with the rule's name, and never reaches
a bar. The first matching rule gives the name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptolake_assets.model.events import UNKNOWN_TRADE_TYPE
from cryptolake_assets.model.symbols import is_symbol

if TYPE_CHECKING:
    import pyarrow as pa

FUTURE_TOLERANCE_MS = 60_000  # maximum time of a trade ahead of the exchange clock


Instrument = tuple[str, str]  # exchange, symbol


@dataclass(frozen=True)
class RuleContext:
    """Inputs of the rules: the family's exchanges, the known symbols of each, and the valid time range.

    `quarantined` are the trades (exchange, symbol, stream, trade_id) of the evaluated hours that were out of range on
    arrival: they stay quarantined, because otherwise a bar would change once the clock has passed them.
    """

    exchanges: tuple[str, ...]
    symbols: tuple[Instrument, ...]
    earliest: datetime
    latest: datetime
    quarantined: tuple[tuple[str, str, str, int], ...] = ()


RULES = (
    "other_exchange",
    "unknown_symbol",
    "price_not_positive",
    "qty_negative",
    "qty_zero",
    "quote_out_of_range",
    "event_time_out_of_range",
)

LARGE_QTY = 10**5
# Minimum price x quantity that is rejected: ten million such trades would overflow the quote volume of a minute or day.
LARGEST_QUOTE = "1e15"

# An id without a trade, as futures' single-trade streams report it. It breaks no rule and, like every trade outside the
# order book, makes no bar.
_NO_TRADE = f"(trade_type = '{UNKNOWN_TRADE_TYPE}' AND price = 0 AND qty = 0)"

# Rules that keep an order-book trade of a known symbol and minute out of its bar, which is then incomplete.
MISSING_TRADE_RULES = ("price_not_positive", "qty_negative", "qty_zero", "quote_out_of_range")


QUARANTINED_TRADES = "quarantined_trades"  # relation of `quarantined_table` in an engine, if there are any


def quarantined_table(context: RuleContext) -> pa.Table:
    """Return the distinct quarantined trades, for an engine to join with."""
    import pyarrow as pa

    schema = pa.schema({"exchange": pa.string(), "symbol": pa.string(), "stream": pa.string(), "trade_id": pa.int64()})
    rows = [dict(zip(schema.names, trade, strict=True)) for trade in sorted(set(context.quarantined))]
    return pa.Table.from_pylist(rows, schema)


def judgeable(context: RuleContext, trades: str) -> str:
    """Return the FROM clause `trades` extended by the columns that the predicates need."""
    if not context.quarantined:
        return trades
    return f"""(SELECT trades.*, known.trade_id IS NOT NULL AS was_quarantined FROM {trades} AS trades
      LEFT JOIN {QUARANTINED_TRADES} AS known ON trades.exchange = known.exchange AND trades.symbol = known.symbol
        AND trades.stream = known.stream AND trades.trade_id = known.trade_id)"""


def predicates(context: RuleContext) -> dict[str, str]:
    """Return a SQL predicate over `judgeable` trades for each rule name; true where the rule is broken."""
    quarantined = " OR was_quarantined" if context.quarantined else ""
    return {
        "other_exchange": f"exchange NOT IN ({', '.join(map(sql_string, context.exchanges))})",
        "unknown_symbol": f"NOT ({_is_known(context.symbols)})",
        "price_not_positive": f"price <= 0 AND NOT {_NO_TRADE}",
        "qty_negative": "qty < 0",
        "qty_zero": f"qty = 0 AND NOT {_NO_TRADE}",
        # Prices are below 10^10, so only a large quantity can reach it. No decimal type fits every product.
        "quote_out_of_range": (
            f"qty >= {LARGE_QTY} AND CAST(price AS double) * CAST(qty AS double) >= CAST('{LARGEST_QUOTE}' AS double)"
        ),
        "event_time_out_of_range": (
            f"event_time < {sql_time(context.earliest)} OR event_time > {sql_time(context.latest)}{quarantined}"
        ),
    }


def _is_known(symbols: Iterable[Instrument]) -> str:
    """Return a SQL predicate that is true for trades of the symbols."""
    by_exchange: defaultdict[str, list[str]] = defaultdict(list)
    for exchange, symbol in symbols:
        by_exchange[exchange].append(sql_string(symbol))
    return (
        " OR ".join(
            f"exchange = {sql_string(exchange)} AND symbol IN ({', '.join(names)})"
            for exchange, names in by_exchange.items()
        )
        or "false"
    )


def broken_rule(context: RuleContext) -> str:
    """Return a SQL expression for the name of the first rule that a trade breaks, or NULL."""
    cases = " ".join(f"WHEN {predicate} THEN '{rule}'" for rule, predicate in predicates(context).items())
    return f"CASE {cases} END"


def rule_number(context: RuleContext) -> str:
    """Return a SQL expression for the position in `RULES` of the first rule that a trade breaks, from 1; 0 if none."""
    cases = " ".join(
        f"WHEN {predicate} THEN {number}" for number, predicate in enumerate(predicates(context).values(), 1)
    )
    return f"CASE {cases} ELSE 0 END"


def missing_rule_numbers() -> str:
    """Return the positions in `RULES` of `MISSING_TRADE_RULES`, from 1, separated by commas."""
    return ", ".join(str(number) for number, rule in enumerate(RULES, 1) if rule in MISSING_TRADE_RULES)


def sound(context: RuleContext) -> str:
    """Return a SQL predicate that is true for trades that break no rule."""
    return " AND ".join(f"NOT ({predicate})" for predicate in predicates(context).values())


def sql_string(value: str) -> str:
    """Return a SQL string literal with the same value in all engines. Raises `ValueError` if there is none."""
    if "\\" in value:
        raise ValueError(
            f"sql: {value!r} has no literal common to all engines: only Spark treats a backslash as an escape"
        )
    return "'" + value.replace("'", "''") + "'"


def sql_time(value: datetime) -> str:
    """Return a SQL literal of a UTC time for Spark and DuckDB."""
    return f"TIMESTAMP '{value.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f')}+00:00'"


def known_symbols(*sources: Iterable[Instrument]) -> tuple[Instrument, ...]:
    """Return the sorted union of the sources' symbols, without invalid symbols."""
    return tuple(sorted({item for source in sources for item in source if is_symbol(item[1])}))
