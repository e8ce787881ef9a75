"""Judges the health of the Bronze stream by what can be observed from outside. Pure.

Dead: the process has ended. Stalled: the process gives no sign of life, or commits nothing while Kafka holds more. Both
warn at half of the limit and fail, with a restart, at the full limit. A stream that was stopped by hand is not
restarted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

RESTART_INTERVAL_FACTOR = 3  # minimum time between two restarts, in limits


class StreamHealth(StrEnum):
    """The health of the stream."""

    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class StreamSignals:
    """Observations of the stream; None if unavailable.

    The part's state (as `cryptolake status` has it; None if no supervisor runs it), the age of its report, Kafka
    records in Bronze, and how many more Kafka holds.
    """

    state: str | None
    report_age_s: float | None
    committed: int
    lag: int | None


@dataclass(frozen=True)
class HealthVerdict:
    """The verdict: `reason` is for people; `stalled_s` is the time without life or progress."""

    health: StreamHealth
    reason: str
    stalled_s: float
    restart: bool


@dataclass
class ProgressHistory:
    """State kept between two checks; times are epoch seconds.

    When the stream was last healthy, with how many records in Bronze, when it was checked, and last restarted.
    """

    well_at: float
    committed: int = -1
    looked_at: float = 0.0
    restarted_at: float | None = None

    @classmethod
    def from_json(cls, text: str | None, now: float) -> ProgressHistory:
        """Restore the history; start a new one if `text` is unreadable, so that the stream gets its full limit."""
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            return cls(well_at=now)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def judge(self, signs: StreamSignals, now: float, limit_s: float) -> HealthVerdict:
        """Judge the signals; `limit_s` is how long the stream may make no progress."""
        if now - self.looked_at > limit_s:
            # Not checked for that long: a platform that has just started gets its full limit.
            self.well_at = now
        self.looked_at = now
        trouble = self._trouble(signs, limit_s)
        if trouble is None:
            self.well_at, self.committed = now, signs.committed
            return HealthVerdict(StreamHealth.GOOD, _well(signs), 0.0, restart=False)
        stalled_s = now - self.well_at
        reason = f"{trouble}, for {stalled_s:.0f} s"
        if stalled_s < limit_s:
            return HealthVerdict(
                StreamHealth.WARNING if stalled_s >= limit_s / 2 else StreamHealth.GOOD,
                reason,
                stalled_s,
                restart=False,
            )
        is_ours = signs.state not in (None, "stopped", "external")
        rested = self.restarted_at is None or now - self.restarted_at >= RESTART_INTERVAL_FACTOR * limit_s
        restart = is_ours and rested
        if restart:
            self.restarted_at = now
        return HealthVerdict(StreamHealth.FAILED, reason, stalled_s, restart)

    def _trouble(self, signs: StreamSignals, limit_s: float) -> str | None:
        """Return what is wrong, if anything."""
        if signs.state not in (None, "running", "external"):
            return f"the process is {signs.state}"
        if signs.report_age_s is None or signs.report_age_s > limit_s / 2:
            return "no sign of life"
        if signs.lag is None:
            return "Kafka does not answer"
        if signs.lag and signs.committed <= self.committed:
            return f"no progress while Kafka holds {signs.lag} more records"
        return None


def _well(signs: StreamSignals) -> str:
    return f"{signs.committed} records in Bronze, {signs.lag} to come"
