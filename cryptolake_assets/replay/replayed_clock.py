"""The replayed exchange time: starts on request, runs at a multiple of wall time, stops at the capture's end."""

from __future__ import annotations

import time
from collections.abc import Callable


class ReplayClock:
    """Exchange time in epoch nanoseconds.

    It stays at `first_ns` until `start()`. With a speed above 0 it then follows wall time, but never passes the next
    unsent frame (`set_next_due`), so that no client reads a time whose trades are unsent. With speed 0,
    `advance_to` sets it.
    """

    def __init__(self, first_ns: int, last_ns: int, speed: float, wall: Callable[[], float] = time.monotonic) -> None:
        self.first_ns = first_ns
        self.last_ns = last_ns
        self.speed = speed
        self._wall = wall
        self._started_at: float | None = None
        self._shown_ns = first_ns
        self._next_due_ns: int | None = first_ns

    @property
    def started(self) -> bool:
        return self._started_at is not None

    def start(self) -> None:
        """Start the clock at `first_ns`. Idempotent."""
        if self._started_at is None:
            self._started_at = self._wall()

    def target_ns(self) -> int:
        """Return the time by the wall clock, ignoring unsent frames; frames due by then must be sent now."""
        if self._started_at is None:
            return self.first_ns
        elapsed_ns = int((self._wall() - self._started_at) * self.speed * 1e9)
        return min(self.first_ns + elapsed_ns, self.last_ns)

    def wall_seconds_until(self, exchange_ns: int) -> float:
        """Return the wall seconds until `exchange_ns` is due; 0 if it is past. Needs a speed above 0."""
        return max(0.0, (exchange_ns - self.target_ns()) / (self.speed * 1e9))

    def set_next_due(self, next_due_ns: int | None) -> None:
        """Set the due time of the next unsent frame; None if there is none."""
        self._next_due_ns = next_due_ns

    def advance_to(self, exchange_ns: int) -> None:
        """Move the clock forward, never backward; this is how it advances with speed 0."""
        self._shown_ns = max(self._shown_ns, exchange_ns)

    def now_ns(self) -> int:
        """Return the exchange time; it never goes backward."""
        if self.speed > 0 and self.started:
            target_ns = self.target_ns()
            if self._next_due_ns is not None:
                target_ns = min(target_ns, self._next_due_ns - 1)
            self.advance_to(target_ns)
        return self._shown_ns

    def now_ms(self) -> int:
        return self.now_ns() // 10**6
