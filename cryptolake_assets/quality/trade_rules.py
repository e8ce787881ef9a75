"""The quality rules of `quality.rules` for one trade in Python, for readers that judge each trade as it arrives. Pure.

A property test holds them equal to the SQL of `rules.broken_rule`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptolake_assets.model.events import UNKNOWN_TRADE_TYPE, TradeEvent
from cryptolake_assets.model.windows import epoch_us
from cryptolake_assets.quality.rules import LARGE_QTY, LARGEST_QUOTE, RuleContext

OUT_OF_RANGE: Final = "event_time_out_of_range"
UNITS: Final = 10**8  # of prices and quantities, as integers

Judge = Callable[[TradeEvent, int, int], str | None]


def judge_of(context: RuleContext, *, any_symbol: bool = False) -> Judge:
    """Return a function of a trade, its price and its quantity (in units of 10^-8): the first broken rule, or None.

    `any_symbol`: without the rule `unknown_symbol`.
    """
    exchanges, known, quarantined = frozenset(context.exchanges), frozenset(context.symbols), set(context.quarantined)
    earliest_us, latest_us = epoch_us(context.earliest), epoch_us(context.latest)
    large_qty, largest_quote = LARGE_QTY * UNITS, float(LARGEST_QUOTE)

    def broken_rule(trade: TradeEvent, price: int, qty: int) -> str | None:
        if trade.exchange not in exchanges:
            return "other_exchange"
        if not any_symbol and (trade.exchange, trade.symbol) not in known:
            return "unknown_symbol"
        if (price <= 0 or qty <= 0) and not (price == qty == 0 and trade.trade_type == UNKNOWN_TRADE_TYPE):
            if price <= 0:
                return "price_not_positive"
            return "qty_negative" if qty < 0 else "qty_zero"
        if qty >= large_qty and (price / UNITS) * (qty / UNITS) >= largest_quote:
            return "quote_out_of_range"
        if not earliest_us <= trade.event_time <= latest_us:
            return OUT_OF_RANGE
        if quarantined and (trade.exchange, trade.symbol, trade.stream, trade.trade_id) in quarantined:
            return OUT_OF_RANGE
        return None

    return broken_rule
