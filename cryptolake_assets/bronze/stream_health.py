"""Judge the health of the Bronze stream from outside: process state, report age, commits and lag of a table. Pure.

Dead: the process has ended. Stalled: the process writes no reports, or commits nothing while Kafka holds more records.
Both warn at half of the limit, and fail with a restart at the full limit. A stream that was stopped by hand is not
restarted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

RESTART_INTERVAL_FACTOR = 3  # minimum time between two restarts, as a multiple of the limit


class StreamHealth(StrEnum):
    """The health of the stream."""

    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class StreamSignals:
    """Observations of the stream for one table of trades, such as `spot_trades`; None if unavailable.

    The state of the part (as in `cryptolake status`; None if no supervisor runs it), the age of its report, the number
    of records in the table, and its lag in records. Another family's progress hides no stalled query.
    """

    table: str
    state: str | None
    report_age_s: float | None
    committed: int
    lag: int | None


@dataclass(frozen=True)
class HealthVerdict:
    """The verdict; `reason` is a text for users, `stalled_s` the seconds since the stream was last healthy."""

    health: StreamHealth
    reason: str
    stalled_s: float
    restart: bool


@dataclass
class ProgressHistory:
    """State kept between two checks; times are epoch seconds.

    `well_at` is when the stream was last healthy, `committed` the records in Bronze then, `looked_at` the last check.
    """

    well_at: float
    committed: int = -1
    looked_at: float = 0.0
    restarted_at: float | None = None

    @classmethod
    def from_json(cls, text: str | None, now: float) -> ProgressHistory:
        """Restore the history; start a new one if `text` is unreadable; the stream then gets the full limit."""
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            return cls(well_at=now)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def judge(self, signals: StreamSignals, now: float, limit_s: float) -> HealthVerdict:
        """Judge the signals; `limit_s` is the maximum time without progress."""
        if now - self.looked_at > limit_s:
            # No check for that long: the platform has just started, so the stream gets the full limit.
            self.well_at = now
        self.looked_at = now
        problem = self._problem(signals, limit_s)
        if problem is None:
            self.well_at, self.committed = now, signals.committed
            return HealthVerdict(StreamHealth.GOOD, _healthy_reason(signals), 0.0, restart=False)
        stalled_s = now - self.well_at
        reason = f"{problem}, for {stalled_s:.0f} s"
        if stalled_s < limit_s:
            return HealthVerdict(
                StreamHealth.WARNING if stalled_s >= limit_s / 2 else StreamHealth.GOOD,
                reason,
                stalled_s,
                restart=False,
            )
        is_supervised = signals.state not in (None, "stopped", "external")
        is_restart_allowed = self.restarted_at is None or now - self.restarted_at >= RESTART_INTERVAL_FACTOR * limit_s
        restart = is_supervised and is_restart_allowed
        if restart:
            self.restarted_at = now
        return HealthVerdict(StreamHealth.FAILED, reason, stalled_s, restart)

    def _problem(self, signals: StreamSignals, limit_s: float) -> str | None:
        """Return a description of the problem; None if the stream is healthy."""
        if signals.state not in (None, "running", "external"):
            return f"the process is {signals.state}"
        if signals.report_age_s is None or signals.report_age_s > limit_s / 2:
            return "no recent report"
        if signals.lag is None:
            return "Kafka does not respond"
        if signals.lag and signals.committed <= self.committed:
            return f"{signals.table}: no progress while Kafka holds {signals.lag} more records"
        return None


def _healthy_reason(signals: StreamSignals) -> str:
    return f"{signals.committed} records in {signals.table}, lag {signals.lag} records"
