"""Checks the exchange's clock, as REST returns it, against the times of the exchange's frames. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptolake_assets.settings import Settings, Source

MAX_SKEW_MS: Final = 60_000  # at the pace of this machine's clock


@dataclass
class ClockCheck:
    """Predicts the exchange's clock from its newest frame; a reading far from it is a wrong clock.

    Coverage ends at such readings: with a clock that is ahead, it would contain trades that are yet to come.

    `pace`: seconds of the exchange's clock per second of this machine's; 0: unknown, so no reading is judged.
    `is_live`: the exchange's clock shows the present time. A replay's clock may stop.
    """

    pace: float = 0.0
    is_live: bool = False
    _newest_ms: int | None = None  # exchange time of the newest frame
    _received_at_us: int = 0

    @classmethod
    def of(cls, settings: Settings) -> ClockCheck:
        is_live = settings.source is not Source.REPLAY
        return cls(1.0 if is_live else settings.replay_speed, is_live)

    def see(self, exchange_time_ms: int, received_at_us: int) -> None:
        """Record the exchange time of a frame and when it was received, by this machine's clock (µs)."""
        if received_at_us > self._received_at_us:
            self._newest_ms, self._received_at_us = exchange_time_ms, received_at_us

    def is_plausible(self, clock_ms: int, now_us: int) -> bool:
        """Return whether the exchange's clock may show this time now; `now_us` is this machine's clock."""
        if not self.pace or (self._newest_ms is None and not self.is_live):
            return True
        if self._newest_ms is None:
            expected_ms = now_us / 1_000
        else:
            expected_ms = self._newest_ms + (now_us - self._received_at_us) / 1_000 * self.pace
        ahead_ms, limit_ms = clock_ms - expected_ms, MAX_SKEW_MS * max(1.0, self.pace)
        return ahead_ms <= limit_ms and (ahead_ms >= -limit_ms or not self.is_live)
