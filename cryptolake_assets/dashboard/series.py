"""From the API's bars to what a chart is given: exact text, and only what has changed. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

Row = tuple[int, str, str, str, str, str, str, int, bool]
"""Open time in s, open, high, low, close, volume, VWAP, trades, whether complete; see `chart/chart.js`."""

PRICES = ("open", "high", "low", "close")
LARGEST_FLOAT = 2.0**53
"""Browsers refuse larger whole numbers."""
MAX_CHANGED = 500
"""Changed bars that are sent along with every message; more of them begin a new series."""


def plain(number: str) -> str:
    """Without zeros behind the last digit."""
    return number.rstrip("0").rstrip(".") if "." in number else number


def exact(number: str | float | None) -> str:
    """A number of the API in every digit and without an exponent; empty for none."""
    return "" if number is None else plain(number if isinstance(number, str) else f"{Decimal(repr(number)):f}")


def places(numbers: Iterable[str]) -> int:
    """The most decimals that any of the numbers needs."""
    return max((len(plain(number).partition(".")[2]) for number in numbers), default=0)


def fixed(number: str, decimals: int) -> str:
    """The number with that many decimals, of which it needs no more."""
    whole, _, rest = number.partition(".")
    return f"{whole}.{rest[:decimals].ljust(decimals, '0')}" if decimals else whole


def upright(numbers: Sequence[str]) -> list[str]:
    """The texts of a column of numbers, filled up from the left to one width: sorted as text, as a table's heading does
    it, numbers that are not negative come in order."""
    width = max(map(len, numbers), default=0)
    return [number.rjust(width) if number else number for number in numbers]


def told_apart(texts: Sequence[str]) -> dict[float, str] | None:
    """The texts of a column of numbers by their floats; None where floats do not tell all of them apart."""
    by_number = {float(text): text for text in texts if text}
    small = all(abs(number) < LARGEST_FLOAT for number in by_number)
    return by_number if small and len(by_number) == len({text for text in texts if text}) else None


def aligned(numbers: Sequence[str | None]) -> list[str]:
    """A column of numbers with as many decimals as the one that needs most: exact, and easy to compare."""
    decimals = places(number for number in numbers if number is not None)
    return ["" if number is None else fixed(number, decimals) for number in numbers]


def price_places(bars: Sequence[dict[str, Any]]) -> int:
    """Decimals of the bars' prices."""
    return places(bar[name] for bar in bars for name in PRICES)


def rows(bars: Iterable[dict[str, Any]]) -> list[Row]:
    """Bars of the API, as rows for the chart, in the same order. A row hangs on its own bar alone."""
    return [
        (
            int(datetime.fromisoformat(bar["window_start"]).timestamp()),
            *(plain(bar[name]) for name in PRICES),
            plain(bar["volume"]),
            plain(bar["vwap"]),
            bar["trades"],
            bar["is_complete"],
        )
        for bar in bars
    ]


@dataclass
class Feed:
    """What a browser's chart has been given, and what it is to be given next.

    A chart outlives the feed that drew it, where the dashboard was started again: no two feeds name a generation alike.
    """

    name: str = field(default_factory=lambda: secrets.token_hex(8))
    generation: int = 0
    _about: tuple[Any, ...] = ()
    _first: int | None = None
    _sent: dict[int, Row] = field(default_factory=dict)
    _changed: dict[int, Row] = field(default_factory=dict)
    _whole: bool = True

    def rewind(self) -> None:
        """The next message holds the whole series: the browser may have lost it."""
        self._whole = True

    def message(self, about: tuple[Any, ...], bars: list[Row]) -> dict[str, Any]:
        """`generation`, `about`, `rows` and `changed` for the chart, of `bars` (oldest first) of what `about` names.

        Messages may be lost between two that arrive: each holds all that changed since the whole series was sent.
        """
        now = {bar[0]: bar for bar in bars}
        if about != self._about or not self._follows(now):
            self.generation += 1
            self._about, self._sent, self._changed, self._whole = about, now, {}, True
            self._first = min(now, default=None)
        else:
            self._changed |= {time: bar for time, bar in now.items() if self._sent.get(time) != bar}
            self._sent = now
        whole = bars if self._whole else None
        self._whole = False
        return {
            "generation": f"{self.name}-{self.generation}",
            "about": "/".join(map(str, self._about)),
            "rows": whole,
            "changed": list(self._changed.values()),
        }

    def _follows(self, now: dict[int, Row]) -> bool:
        """Whether the new bars can be had from those that were sent by changing some."""
        new = [time for time, bar in now.items() if self._sent.get(time) != bar]
        first = min(now, default=None)
        gone = any(time not in now for time in self._sent if first is None or time >= first)
        return not gone and len(self._changed) + len(new) <= MAX_CHANGED and (self._first is None) == (first is None)
