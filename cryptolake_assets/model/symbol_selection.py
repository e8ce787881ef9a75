"""Which symbols are tracked: by name, by pattern, or the busiest ones. Pure.

BTCUSDT         this one
*USDC  1000?*   all that are traded and match (`*` and `?` as in file names)
top:50          the 50 with the largest quote volume of 24 hours, of those quoted in USDT
top:20:USDC     the same, quoted in USDC
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Final, Protocol

from cryptolake_assets.model.symbols import is_symbol

TRADING: Final = "TRADING"
_WILDCARDS: Final = re.compile(r"[*?]")
_TOP: Final = re.compile(r"TOP:([1-9][0-9]{0,3})(?::([^:]+))?")
_DEFAULT_QUOTE: Final = "USDT"
_KEPT_SHARE: Final = 5
"""A tracked symbol stays until it is out of the first N and a fifth: ranks near the edge change all the time."""


class ListedSymbol(Protocol):
    """A symbol that the exchange lists."""

    @property
    def symbol(self) -> str: ...

    @property
    def quote_asset(self) -> str: ...

    @property
    def status(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TopSymbols:
    """The first `number` by volume, of those quoted in `quote_asset`."""

    number: int
    quote_asset: str


@dataclass(frozen=True, slots=True)
class SymbolSelection:
    """A selection that was read by `parse_selection`."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    busiest: tuple[TopSymbols, ...] = ()

    @property
    def needs_listing(self) -> bool:
        """Whether names alone do not say what is tracked."""
        return bool(self.patterns or self.busiest)

    def resolve(
        self,
        listed: Sequence[ListedSymbol],
        volumes: Mapping[str, Decimal],
        tracked: Collection[str] = (),
    ) -> tuple[str, ...]:
        """The symbols: names first, then patterns, then the busiest.

        `volumes` are quote volumes of 24 hours; `tracked` is what is tracked now. Names are taken as they are,
        whether they are listed or not.
        """
        trading = [entry for entry in listed if entry.status == TRADING]
        found = list(self.names)
        for pattern in self.patterns:
            found += sorted(entry.symbol for entry in trading if fnmatchcase(entry.symbol, pattern))
        for wanted in self.busiest:
            found += _busiest(wanted, trading, volumes, tracked)
        return tuple(dict.fromkeys(found))


def parse_selection(items: Sequence[str]) -> SymbolSelection:
    """Raises `ValueError` for an item that is none of the module's kinds."""
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


def _is_pattern(item: str) -> bool:
    """Return whether the item has wildcards, and otherwise only what a symbol may hold."""
    without = _WILDCARDS.sub("", item)
    return without != item and (not without or is_symbol(without) or set(without) == {"."})


def _busiest(
    wanted: TopSymbols, trading: Sequence[ListedSymbol], volumes: Mapping[str, Decimal], tracked: Collection[str]
) -> list[str]:
    candidates = [entry.symbol for entry in trading if entry.quote_asset == wanted.quote_asset]
    ranked = sorted((symbol for symbol in candidates if symbol in volumes), key=lambda one: (-volumes[one], one))
    edge = ranked[wanted.number : wanted.number + -(-wanted.number // _KEPT_SHARE)]
    kept = [symbol for symbol in edge if symbol in tracked]
    first = ranked[: wanted.number]
    # Each that is kept takes the place of the last that is new.
    for symbol in kept:
        new = next((one for one in reversed(first) if one not in tracked), None)
        if new is None:
            break
        first[first.index(new)] = symbol
    return first
