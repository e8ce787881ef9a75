"""Symbol selection by name, pattern or volume rank. Pure.

BTCUSDT         this symbol
*USDC  1000?*   all trading symbols that match (`*` and `?` as in file names)
top:50          the 50 symbols quoted in USDT with the highest 24-hour quote volume
top:20:USDC     the same for 20 symbols quoted in USDC

Selections of several markets are separated by semicolons and begin with the market: `usdm:BTCUSDT,ETHUSDT;spot:top:20`.
A selection without a market is that of the platform's first market.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Protocol

from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.symbols import in_capitals, is_symbol

TRADING: Final = "TRADING"
_WILDCARDS: Final = re.compile(r"[*?]")
_TOP: Final = re.compile(r"TOP:([1-9][0-9]{0,3})(?::([^:]+))?")
_DEFAULT_QUOTE: Final = "USDT"
# Hysteresis: a tracked symbol stays while it ranks in the first N + N/5, because ranks near N change often.
_HYSTERESIS_DIVISOR: Final = 5


class ListedSymbol(Protocol):
    """A symbol listed by the exchange."""

    @property
    def symbol(self) -> str: ...

    @property
    def quote_asset(self) -> str: ...

    @property
    def status(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TopSymbols:
    """The top `number` symbols by volume among those quoted in `quote_asset`."""

    number: int
    quote_asset: str


@dataclass(frozen=True, slots=True)
class SymbolSelection:
    """A selection parsed by `parse_selection`."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    busiest: tuple[TopSymbols, ...] = ()

    @property
    def needs_listing(self) -> bool:
        """Return whether resolving it needs the exchange's listing (it has patterns or ranks)."""
        return bool(self.patterns or self.busiest)

    def resolve(
        self,
        listed: Sequence[ListedSymbol],
        volumes: Mapping[str, Decimal],
        tracked: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Return the selected symbols: names first, then patterns, then ranks.

        `volumes` are 24-hour quote volumes; `tracked` are the currently tracked symbols. Names are included even
        if they are not listed.
        """
        trading = [entry for entry in listed if entry.status == TRADING]
        found = list(self.names)
        for pattern in self.patterns:
            found += sorted(entry.symbol for entry in trading if fnmatchcase(entry.symbol, pattern))
        for top in self.busiest:
            found += _busiest(top, trading, volumes, tracked)
        return tuple(dict.fromkeys(found))


def split_items(text: str) -> tuple[str, ...]:
    """Return the items of a selection of several markets, each with its market: `spot:BTCUSDT`.

    A market's prefix applies to the items after it, up to a semicolon or the end of the line. Items without a market
    come first and have no prefix; items are in upper case (ASCII only).
    """
    without: list[str] = []
    items: list[str] = []
    for group in re.split(r"[;\n]", text):
        market: Market | None = None
        for part in group.split(","):
            found, item = _market_of(part.strip())
            market = found or market
            if item:
                (without if market is None else items).append(item if market is None else f"{market}:{item}")
    return tuple(dict.fromkeys([*without, *items]))


def items_of(items: Sequence[str], market: Market, *, is_first: bool) -> tuple[str, ...]:
    """Return a market's items among those of `split_items`, without its prefix; `is_first`: also those without one."""
    parts = [_market_of(item) for item in items]
    return tuple(dict.fromkeys(item for found, item in parts if found is market or (is_first and found is None)))


def markets_in(items: Sequence[str]) -> frozenset[Market]:
    """Return the markets that the items of `split_items` name."""
    return frozenset(market for market, _ in map(_market_of, items) if market is not None)


@lru_cache(4_096)
def _market_of(item: str) -> tuple[Market | None, str]:
    """Split an item into its market, if its prefix names one, and the item in upper case."""
    prefix, colon, rest = item.partition(":")
    if colon and prefix.strip().lower() in set(Market):
        return Market(prefix.strip().lower()), in_capitals(rest.strip())
    return None, in_capitals(item)


def parse_selection(items: Sequence[str]) -> SymbolSelection:
    """Parse selection items. Raises `ValueError` for an item that is not a name, pattern or rank."""
    names, patterns, busiest = [], [], []
    for item in items:
        if is_symbol(item):
            names.append(item)
        elif _is_pattern(item):
            patterns.append(item)
        elif (top := _TOP.fullmatch(item)) and is_symbol(top[2] or _DEFAULT_QUOTE):
            busiest.append(TopSymbols(int(top[1]), top[2] or _DEFAULT_QUOTE))
        else:
            raise ValueError(f"{item!r} is not a symbol such as BTCUSDT, a pattern such as *USDC, or top:50")
    return SymbolSelection(tuple(dict.fromkeys(names)), tuple(patterns), tuple(busiest))


def check_items(items: Sequence[str]) -> None:
    """Raise `ValueError` if an item of any market is not a name, pattern or rank."""
    for market in Market:
        parse_selection(items_of(items, market, is_first=True))


@lru_cache(4)  # the producer polls its symbols file every second
def items_of_text(text: str) -> tuple[str, ...]:
    """Return the items of a symbols file. Raises `ValueError`."""
    items = split_items(text)
    check_items(items)
    return items


def _is_pattern(item: str) -> bool:
    """Return whether the item has wildcards and otherwise only characters of symbols."""
    literal = _WILDCARDS.sub("", item)
    return literal != item and (not literal or is_symbol(literal) or set(literal) == {"."})


def _busiest(
    top: TopSymbols, trading: Sequence[ListedSymbol], volumes: Mapping[str, Decimal], tracked: Collection[str]
) -> list[str]:
    candidates = [entry.symbol for entry in trading if entry.quote_asset == top.quote_asset]
    ranked = sorted((symbol for symbol in candidates if symbol in volumes), key=lambda one: (-volumes[one], one))
    edge = ranked[top.number : top.number + -(-top.number // _HYSTERESIS_DIVISOR)]
    retained = [symbol for symbol in edge if symbol in tracked]
    first = ranked[: top.number]
    # Each retained symbol replaces the lowest-ranked new one.
    for symbol in retained:
        new = next((one for one in reversed(first) if one not in tracked), None)
        if new is None:
            break
        first[first.index(new)] = symbol
    return first
