"""Detects stale symbols: subscribed, but without trades for far longer than their rate explains. Pure.

Uses the exchange's clock at an instant up to which all trades have arrived: neither a slow broker nor a finished
replay makes a symbol stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STALE_AFTER_INTERVALS: Final = 50  # a symbol is stale after this many mean intervals between two trades
MIN_LIMIT_MS: Final = 60_000  # minimum limit, however busy the symbol is
UNKNOWN_RATE_MS: Final = 900_000  # the limit for a symbol of unknown rate
_MEMORY_MS: Final = 600_000  # rates are means over about the last ten minutes


@dataclass
class _Symbol:
    since_ms: int
    last_id: int | None = None
    last_ms: int = 0
    interval_ms: float | None = None  # mean time between two trades; None until known
    alarm_at_ms: float | None = None  # while stale: the pause at which to report it again


@dataclass(frozen=True, slots=True)
class StaleSymbol:
    """A symbol without trades for `idle_ms`, more than the `limit_ms` of its rate."""

    symbol: str
    idle_ms: int
    limit_ms: int


class StaleSymbolWatch:
    """Learns each symbol's rate from periodic samples; costs nothing per trade."""

    def __init__(self) -> None:
        self._symbols: dict[str, _Symbol] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The stale symbols."""
        return tuple(sorted(name for name, state in self._symbols.items() if state.alarm_at_ms is not None))

    def forget_all_but(self, symbols: frozenset[str]) -> None:
        """Forget symbols that are no longer tracked."""
        for symbol in self._symbols.keys() - symbols:
            del self._symbols[symbol]

    def check(self, symbol: str, latest: tuple[int, int] | None, arrived_to_ms: int) -> StaleSymbol | None:
        """Return the symbol when it becomes stale, and again each time its pause has doubled; None otherwise.

        `latest` is its latest trade (id, event time in ms). All trades up to `arrived_to_ms` (exchange time) have
        arrived.
        """
        state = self._symbols.setdefault(symbol, _Symbol(since_ms=arrived_to_ms))
        if latest is not None and (state.last_id is None or latest[0] > state.last_id):
            self._note(state, *latest)
        idle_ms = arrived_to_ms - max(state.since_ms, state.last_ms)
        limit_ms = UNKNOWN_RATE_MS
        if state.interval_ms is not None:
            limit_ms = max(MIN_LIMIT_MS, round(STALE_AFTER_INTERVALS * state.interval_ms))
        if idle_ms < limit_ms:
            state.alarm_at_ms = None
            return None
        if state.alarm_at_ms is not None and idle_ms < state.alarm_at_ms:
            return None
        state.alarm_at_ms = 2 * idle_ms
        return StaleSymbol(symbol, idle_ms, limit_ms)

    def _note(self, state: _Symbol, last_id: int, last_ms: int) -> None:
        if state.last_id is not None and last_ms > state.last_ms:
            passed_ms = last_ms - state.last_ms
            interval_ms = passed_ms / (last_id - state.last_id)
            weight = passed_ms / (passed_ms + _MEMORY_MS)
            state.interval_ms = (
                interval_ms
                if state.interval_ms is None
                else state.interval_ms + (interval_ms - state.interval_ms) * weight
            )
        state.last_id, state.last_ms = last_id, max(state.last_ms, last_ms)
