"""Whether the Bronze stream lives and gets on, judged by what can be seen of it from outside. Pure.

Dead is a process that has ended; stalled is one that gives no sign of life, or takes nothing though Kafka holds more.
Both warn at half of the limit and fail, with a restart, at all of it. A stream that was stopped by hand is not
restarted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

RESTART_INTERVAL_FACTOR = 3
"""A restart is given so many times the limit before the next."""


class StreamHealth(StrEnum):
    """The verdict on the stream."""

    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class StreamSignals:
    """What was seen: the part's state (as `cryptolake status` has it; None where no supervisor runs it), the age of its
    report, Kafka records in Bronze, and how many more Kafka holds. None is what could not be seen."""

    state: str | None
    report_age_s: float | None
    committed: int
    lag: int | None


@dataclass(frozen=True)
class HealthVerdict:
    """`reason` is for people; `stalled_s` how long the stream has shown no life or progress."""

    health: StreamHealth
    reason: str
    stalled_s: float
    restart: bool


@dataclass
class ProgressHistory:
    """What must be remembered between two looks (epoch seconds): when the stream was last seen well, with how many
    records in Bronze, when it was looked at, and when it was last restarted."""

    well_at: float
    committed: int = -1
    looked_at: float = 0.0
    restarted_at: float | None = None

    @classmethod
    def from_json(cls, text: str | None, now: float) -> ProgressHistory:
        """Begins anew where there is nothing readable: a stream is given its time before it is judged."""
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            return cls(well_at=now)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def judge(self, signs: StreamSignals, now: float, limit_s: float) -> HealthVerdict:
        """Takes the signs in; `limit_s` is how long the stream may be quiet."""
        if now - self.looked_at > limit_s:
            # Nobody looked for that long: a platform that has just come up is given its time.
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
        """What is not as it should be, if anything."""
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
