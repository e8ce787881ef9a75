"""Detects stale symbols: subscribed, but without trades for far longer than their own rate explains. Pure.

Judged by the exchange's clock, up to an instant up to which all trades have arrived: neither a slow broker nor a
finished replay makes a symbol stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GAPS_ALLOWED: Final = 50  # a symbol is stale after this many mean intervals between two trades
MIN_LIMIT_MS: Final = 60_000  # no symbol is stale after less than a minute, however busy it is
UNKNOWN_RATE_MS: Final = 900_000  # the limit for a symbol of unknown rate
_MEMORY_MS: Final = 600_000  # rates are means over about the last ten minutes


@dataclass
class _Symbol:
    since_ms: int
    last_id: int | None = None
    last_ms: int = 0
    gap_ms: float | None = None  # mean time between two trades; None until it is known
    alarm_at_ms: float | None = None  # while stale: the pause at which to report it again


@dataclass(frozen=True, slots=True)
class StaleSymbol:
    """A symbol without trades for `idle_ms`, more than the `limit_ms` of its own rate."""

    symbol: str
    idle_ms: int
    limit_ms: int


class StaleSymbolWatch:
    """Learns each symbol's rate from periodic samples; costs nothing per trade."""

    def __init__(self) -> None:
        self._symbols: dict[str, _Symbol] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that are stale now."""
        return tuple(sorted(name for name, known in self._symbols.items() if known.alarm_at_ms is not None))

    def forget_all_but(self, symbols: frozenset[str]) -> None:
        """Forget symbols that are no longer tracked."""
        for symbol in self._symbols.keys() - symbols:
            del self._symbols[symbol]

    def look(self, symbol: str, latest: tuple[int, int] | None, arrived_to_ms: int) -> StaleSymbol | None:
        """Return the symbol when it becomes stale, and again each time its pause has doubled; None otherwise.

        `latest` is its latest trade (id, event time in ms); all trades up to `arrived_to_ms` (exchange time) have
        arrived.
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
