"""The replayed exchange time: waits, runs at a multiple of wall time, stands still at the capture's end."""

from __future__ import annotations

import time
from collections.abc import Callable


class ReplayClock:
    """Exchange time in epoch nanoseconds.

    It waits at `first_ns` until `start()`. With a speed it then follows wall time, but never passes a frame that was
    not handed out yet (`hold_before`): who asks for the time cannot be told of an instant whose trades are still to
    come. With speed 0 it is where `advance_to` puts it.
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
        """Lets the clock run from its first instant; a second call changes nothing."""
        if self._started_at is None:
            self._started_at = self._wall()

    def target_ns(self) -> int:
        """Where wall time puts the clock, whatever was handed out; frames due by then are to be sent now."""
        if self._started_at is None:
            return self.first_ns
        elapsed_ns = int((self._wall() - self._started_at) * self.speed * 1e9)
        return min(self.first_ns + elapsed_ns, self.last_ns)

    def wall_seconds_until(self, exchange_ns: int) -> float:
        """Wall seconds until the clock is due to show `exchange_ns`; 0 when that is past. Needs a speed above 0."""
        return max(0.0, (exchange_ns - self.target_ns()) / (self.speed * 1e9))

    def hold_before(self, next_due_ns: int | None) -> None:
        """Names the next frame that was not handed out; None when there is none."""
        self._next_due_ns = next_due_ns

    def advance_to(self, exchange_ns: int) -> None:
        """Moves the clock of a replay without a speed; never backwards."""
        self._shown_ns = max(self._shown_ns, exchange_ns)

    def now_ns(self) -> int:
        """The exchange's time; never goes backwards."""
        if self.speed > 0 and self.started:
            target_ns = self.target_ns()
            if self._next_due_ns is not None:
                target_ns = min(target_ns, self._next_due_ns - 1)
            self.advance_to(target_ns)
        return self._shown_ns

    def now_ms(self) -> int:
        return self.now_ns() // 10**6
