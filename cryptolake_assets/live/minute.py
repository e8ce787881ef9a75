"""One minute of a symbol's trades as running aggregates: the bar that Silver will publish of them. Pure.

The aggregates are those of `model.measures.BAR_MEASURES`, in integers: prices and quantities in units of 10^-8, their
products in units of 10^-16.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from cryptolake_assets.model.columns import decimal_digits
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.measures import BAR_MEASURES, Aggregate, Function, Measure
from cryptolake_assets.model.windows import moment_of
from cryptolake_assets.quality.minute_bars import MARKET
from cryptolake_assets.quality.rules import MISSING_TRADE_RULES
from cryptolake_assets.quality.trade_rules import OUT_OF_RANGE, Judge

Topic = tuple[str, str]  # exchange and symbol
MinuteKey = tuple[int, Topic]  # open time (µs since 1970, UTC)

# The operands of the aggregates, of a trade with its price and quantity.
_OPERANDS: Final[Mapping[str, Callable[[TradeEvent, int, int], int]]] = {
    "price": lambda _, price, __: price,
    "qty": lambda _, __, qty: qty,
    "quote": lambda _, price, qty: price * qty,
    "first_trade_id": lambda trade, _, __: trade.first_trade_id,
    "last_trade_id": lambda trade, _, __: trade.last_trade_id,
    "last_trade_id - first_trade_id + 1": lambda trade, _, __: trade.last_trade_id - trade.first_trade_id + 1,
}


def _aggregates() -> Iterator[tuple[Measure, Aggregate]]:
    return ((measure, measure.aggregate) for measure in BAR_MEASURES if measure.aggregate is not None)


_STEPS: Final = tuple(
    (number, aggregate.function, _OPERANDS[aggregate.operand], aggregate.by_takers)
    for number, (_, aggregate) in enumerate(_aggregates())
)
_START: Final = [0 if function is Function.TOTAL else None for _, function, _, _ in _STEPS]
_COLUMNS: Final = tuple((measure.name, (decimal_digits(measure.type) or (0, 0))[1]) for measure, _ in _aggregates())


def units_of(text: str) -> int:
    """Return a decimal of at most 8 places, such as `0.5`, in units of 10^-8."""
    whole, _, places = text.partition(".")
    return int(whole + places.ljust(8, "0"))


@dataclass(slots=True)
class IdSet:
    """Ids as disjoint ranges, in order: consecutive ones take one range."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # included

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.starts, number)
        return at > 0 and self.ends[at - 1] >= number

    def add(self, number: int) -> bool:
        """Add an id; return whether it is new."""
        if number in self:
            return False
        at = bisect_right(self.starts, number)
        extends = at > 0 and self.ends[at - 1] == number - 1
        precedes = at < len(self.starts) and self.starts[at] == number + 1
        if extends and precedes:
            self.ends[at - 1] = self.ends.pop(at)
            del self.starts[at]
        elif extends:
            self.ends[at - 1] = number
        elif precedes:
            self.starts[at] = number
        else:
            self.starts.insert(at, number)
            self.ends.insert(at, number)
        return True


@dataclass(slots=True)
class StreamMinute:
    """The aggregates of one stream's valid trades in a minute, without duplicates.

    Copies of a trade are taken to be equal, except that a valid one replaces an invalid one.
    """

    ids: IdSet = field(default_factory=IdSet)
    values: list[Any] = field(default_factory=_START.copy)
    first: tuple[int, int] | None = None  # event time and id of the first trade
    last: tuple[int, int] | None = None
    dropped: set[int] = field(default_factory=set)  # order-book trades that a rule keeps out
    copies: int = 0  # trades with a known id
    out_of_range: int = 0  # trades whose time the rules reject; Silver may judge them by another time

    @property
    def is_empty(self) -> bool:
        return not self.ids.starts

    def add(self, trade: TradeEvent, judge: Judge) -> bool:
        """Add a trade; return whether it changed the minute's bar."""
        price, qty = units_of(trade.price), units_of(trade.qty)
        rule = judge(trade, price, qty)
        if rule is not None:
            self.out_of_range += rule == OUT_OF_RANGE
            return rule in MISSING_TRADE_RULES and trade.trade_type == MARKET and self._drop(trade.trade_id)
        if trade.trade_type != MARKET:
            return False
        if not self.ids.add(trade.trade_id):
            self.copies += 1
            return False
        self.dropped.discard(trade.trade_id)
        position = trade.event_time, trade.trade_id
        is_first, is_last = self.first is None or position < self.first, self.last is None or position > self.last
        if is_first:
            self.first = position
        if is_last:
            self.last = position
        values = self.values
        for number, function, operand, by_takers in _STEPS:
            if by_takers and trade.side != "buy":
                continue
            value = operand(trade, price, qty)
            if function is Function.TOTAL:
                values[number] += value
            elif function is Function.FIRST:
                if is_first:
                    values[number] = value
            elif function is Function.LAST:
                if is_last:
                    values[number] = value
            elif values[number] is None or (
                value < values[number] if function is Function.LOWEST else value > values[number]
            ):
                values[number] = value
        return True

    def _drop(self, trade_id: int) -> bool:
        if trade_id in self.dropped or trade_id in self.ids:
            return False
        self.dropped.add(trade_id)
        return True

    def aggregates(self, exchange: str, symbol: str, stream: str, start_us: int) -> dict[str, Any]:
        """Return the row of `quality.minute_bars.MinuteAggregates`."""
        return {
            "exchange": exchange,
            "symbol": symbol,
            "stream": stream,
            "window_start": moment_of(start_us),
            **{
                name: Decimal(f"{value}E-{places}") if places else value
                for (name, places), value in zip(_COLUMNS, self.values, strict=True)
            },
            "trades_dropped": len(self.dropped),
        }
