"""Turn the API's bars into messages for the chart, with exact text and only the changes. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

# Open time in s, open, high, low, close, volume, VWAP, trades, state; see `chart/chart.js`.
Row = tuple[int, str, str, str, str, str, str, int, str]

PRICES = ("open", "high", "low", "close")
LARGEST_FLOAT = 2.0**53  # browsers reject larger integers
MAX_CHANGED = 500  # maximum changed bars per message; more of them start a new series


def plain(number: str) -> str:
    """Return the number without trailing zeros after the decimal point."""
    return number.rstrip("0").rstrip(".") if "." in number else number


def exact(number: str | float | None) -> str:
    """Return a number of the API with all digits and no exponent; empty for None."""
    return "" if number is None else plain(number if isinstance(number, str) else f"{Decimal(repr(number)):f}")


def places(numbers: Iterable[str]) -> int:
    """Return the maximum number of decimals that any of the numbers needs."""
    return max((len(plain(number).partition(".")[2]) for number in numbers), default=0)


def fixed(number: str, decimals: int) -> str:
    """Return the number padded to this many decimals; it must not need more."""
    whole, _, rest = number.partition(".")
    return f"{whole}.{rest[:decimals].ljust(decimals, '0')}" if decimals else whole


def grouped(number: str) -> str:
    """Return the number with thousands separators: `63,943.9`."""
    sign = "-" if number.startswith("-") else ""
    whole, point, decimals = number.removeprefix("-").partition(".")
    return f"{sign}{int(whole or 0):,}{point}{decimals}"


def right_aligned(numbers: Sequence[str]) -> list[str]:
    """Pad the texts of a column of numbers on the left to one width.

    Tables sort by text; the padding puts non-negative numbers in order.
    """
    width = max(map(len, numbers), default=0)
    return [number.rjust(width) if number else number for number in numbers]


def texts_by_float(texts: Sequence[str]) -> dict[float, str] | None:
    """Return the texts of a column of numbers by their floats; None if two share a float or one is too large."""
    by_number = {float(text): text for text in texts if text}
    small = all(abs(number) < LARGEST_FLOAT for number in by_number)
    return by_number if small and len(by_number) == len({text for text in texts if text}) else None


def aligned(numbers: Sequence[str | None]) -> list[str]:
    """Return a column of numbers padded to the same number of decimals. Keeps every digit."""
    decimals = places(number for number in numbers if number is not None)
    return ["" if number is None else fixed(number, decimals) for number in numbers]


def price_places(bars: Sequence[dict[str, Any]]) -> int:
    """Return the number of decimals that the bars' prices need."""
    return places(bar[name] for bar in bars for name in PRICES)


def rows(bars: Iterable[dict[str, Any]]) -> list[Row]:
    """Return the API's bars as rows for the chart, in the same order. Each row depends only on its own bar."""
    return [
        (
            int(datetime.fromisoformat(bar["window_start"]).timestamp()),
            *(plain(bar[name]) for name in PRICES),
            plain(bar["volume"]),
            plain(bar["vwap"]),
            bar["trades"],
            bar["state"],
        )
        for bar in bars
    ]


@dataclass
class Feed:
    """State of a browser's chart: the bars sent, and those to send next.

    A chart outlives its feed if the dashboard restarts, so generation names are unique across feeds.
    """

    name: str = field(default_factory=lambda: secrets.token_hex(8))
    generation: int = 0
    _about: tuple[Any, ...] = ()
    _first: int | None = None
    _sent: dict[int, Row] = field(default_factory=dict)
    _changed: dict[int, Row] = field(default_factory=dict)
    _send_all: bool = True

    def rewind(self) -> None:
        """Send the full series in the next message, because the browser may have lost it."""
        self._send_all = True

    def message(self, about: tuple[Any, ...], bars: list[Row]) -> dict[str, Any]:
        """Return `generation`, `about`, `rows` and `changed` for the chart; `about` identifies the series of `bars`.

        `bars` are oldest first. Messages may be lost, so each has all changes since the full series was sent.
        """
        now = {bar[0]: bar for bar in bars}
        if about != self._about or not self._follows(now):
            self.generation += 1
            self._about, self._sent, self._changed, self._send_all = about, now, {}, True
            self._first = min(now, default=None)
        else:
            self._changed |= {time: bar for time, bar in now.items() if self._sent.get(time) != bar}
            self._sent = now
        series = bars if self._send_all else None
        self._send_all = False
        return {
            "generation": f"{self.name}-{self.generation}",
            "about": "/".join(map(str, self._about)),
            "rows": series,
            "changed": list(self._changed.values()),
        }

    def _follows(self, now: dict[int, Row]) -> bool:
        """Return whether changing some of the sent bars yields the new ones."""
        new = [time for time, bar in now.items() if self._sent.get(time) != bar]
        first = min(now, default=None)
        removed = any(time not in now for time in self._sent if first is None or time >= first)
        return not removed and len(self._changed) + len(new) <= MAX_CHANGED and (self._first is None) == (first is None)
