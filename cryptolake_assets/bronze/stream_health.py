"""Judge the health of the Bronze stream from outside: process state, report age, commits and lag. Pure.

Dead: the process has ended. Stalled: the process writes no reports, or the trades of a market family gain no records
while Kafka holds more.
Both warn at half of the limit, and fail with a restart at the full limit. A stream that was stopped by hand is not
restarted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import msgspec

RESTART_INTERVAL_FACTOR = 3  # minimum time between two restarts, as a multiple of the limit


class StreamHealth(StrEnum):
    """The health of the stream."""

    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class TradeProgress:
    """The progress of one family's trades."""

    table: str  # such as `spot_trades`
    committed: int  # records in Bronze
    lag: int | None  # in records; None if Kafka does not respond

    def __str__(self) -> str:
        lag = "unknown, Kafka does not respond" if self.lag is None else self.lag
        return f"{self.table}: {self.committed} records, lag {lag}"


@dataclass(frozen=True)
class StreamSignals:
    """Observations of the stream; None if unavailable.

    The state of the part (as in `cryptolake status`; None if no supervisor runs it), the age of its report, and the
    progress of each family's trades.
    """

    state: str | None
    report_age_s: float | None
    trades: tuple[TradeProgress, ...]


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

    `well_at` is when the stream was last healthy, `committed` the records in Bronze then, by table of trades;
    `looked_at` is the last check.
    """

    well_at: float
    committed: dict[str, int] = field(default_factory=dict)
    looked_at: float = 0.0
    restarted_at: float | None = None

    @classmethod
    def from_json(cls, text: str | None, now: float) -> ProgressHistory:
        """Restore the history; start a new one if `text` is unreadable; the stream then gets the full limit."""
        try:
            return msgspec.json.decode(text or "", type=cls)
        except ValueError:
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
            self.well_at, self.committed = now, {trades.table: trades.committed for trades in signals.trades}
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
        if any(trades.lag is None for trades in signals.trades):
            return "Kafka does not respond"
        stalled = [
            f"{trades.table}: no progress while Kafka holds {trades.lag} more records"
            for trades in signals.trades
            if trades.lag and trades.committed <= self.committed.get(trades.table, -1)
        ]
        return "; ".join(stalled) or None


def _healthy_reason(signals: StreamSignals) -> str:
    return "; ".join(map(str, signals.trades))
