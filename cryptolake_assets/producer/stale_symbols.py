"""Which symbols are silent: subscribed, and yet nothing comes for far longer than their own rate explains. Pure.

Judged on the exchange's clock, up to an instant until which everything is known to have arrived: neither a slow broker
nor a replay that has ended looks like silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GAPS_ALLOWED: Final = 50
"""A pause is silence from so many mean gaps between two trades on."""
MIN_LIMIT_MS: Final = 60_000
"""No pause below a minute is silence, however busy the symbol."""
UNKNOWN_RATE_MS: Final = 900_000
"""The same for a symbol that has not shown its rate."""
_MEMORY_MS: Final = 600_000
"""Rates are means of about the last ten minutes."""


@dataclass
class _Symbol:
    since_ms: int
    last_id: int | None = None
    last_ms: int = 0
    gap_ms: float | None = None
    """Mean time between two trades; None until it is known."""
    alarm_at_ms: float | None = None
    """While silent: the length of the pause at which the alarm is given again."""


@dataclass(frozen=True, slots=True)
class StaleSymbol:
    """A symbol that has been quiet for `idle_ms`, more than the `limit_ms` of its own rate."""

    symbol: str
    idle_ms: int
    limit_ms: int


class StaleSymbolWatch:
    """Remembers each symbol's rate from what a look at it shows; costs nothing a trade."""

    def __init__(self) -> None:
        self._symbols: dict[str, _Symbol] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that are silent now."""
        return tuple(sorted(name for name, known in self._symbols.items() if known.alarm_at_ms is not None))

    def forget_all_but(self, symbols: frozenset[str]) -> None:
        """Drops those that are no longer followed."""
        for symbol in self._symbols.keys() - symbols:
            del self._symbols[symbol]

    def look(self, symbol: str, latest: tuple[int, int] | None, arrived_to_ms: int) -> StaleSymbol | None:
        """Takes in a symbol's latest trade, (id, event time in ms), and the exchange time until which all has arrived.

        Returns its silence when it begins, and again each time that it has doubled; None otherwise.
        """
        known = self._symbols.setdefault(symbol, _Symbol(since_ms=arrived_to_ms))
        if latest is not None and (known.last_id is None or latest[0] > known.last_id):
            self._note(known, *latest)
        idle_ms = arrived_to_ms - max(known.since_ms, known.last_ms)
        limit_ms = UNKNOWN_RATE_MS if known.gap_ms is None else max(MIN_LIMIT_MS, round(GAPS_ALLOWED * known.gap_ms))
        if idle_ms < limit_ms:
            known.alarm_at_ms = None
            return None
        if known.alarm_at_ms is not None and idle_ms < known.alarm_at_ms:
            return None
        known.alarm_at_ms = 2 * idle_ms
        return StaleSymbol(symbol, idle_ms, limit_ms)

    def _note(self, known: _Symbol, last_id: int, last_ms: int) -> None:
        if known.last_id is not None and last_ms > known.last_ms:
            passed_ms = last_ms - known.last_ms
            gap_ms = passed_ms / (last_id - known.last_id)
            weight = passed_ms / (passed_ms + _MEMORY_MS)
            known.gap_ms = gap_ms if known.gap_ms is None else known.gap_ms + (gap_ms - known.gap_ms) * weight
        known.last_id, known.last_ms = last_id, max(known.last_ms, last_ms)
