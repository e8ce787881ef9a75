"""Track how Silver follows Bronze: pending hours, the next run requests, and when an hour is done. Pure.

The state is the sensor's cursor. A pending hour keeps the oldest Bronze sequence number that is not in Silver yet; it
is removed only after its requested run succeeded. Consecutive hours of one UTC day share a run, up to a number of
trades. A failed hour is requested again alone, with growing delays, and does not block other hours. An open hour is
requested as soon as a further minute of it can be final, and otherwise at most once per interval. The number of runs in
flight is limited, so after a day of downtime many small ticks catch up.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum

from cryptolake_assets.model.windows import HOUR, MINUTE_MS

RETRY_FIRST_S = 30.0
RETRY_MAX_S = 3_600.0

FULL_HOUR = 0  # as a sequence number: recompute every minute of the hour and remove minutes without trades
MAX_FULL_HOUR_RUNS = 2  # full-hour runs in flight: a month of history must not delay the open hour
MAX_ROWS_PER_RUN = 5_000_000  # trades of the hours that share a run: the open hour waits for such a run


class RunState(StrEnum):
    """The state of a requested run."""

    IN_FLIGHT = "in_flight"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass
class PendingHour:
    """An hour that Silver must still recompute.

    The next run reads from `from_sequence`. `generation` increases with every arrival; `requested` is the generation of
    the last requested run, `request` the id of that request. `later_from` is the lowest sequence number that
    arrived after the request. `rows` counts the arrivals since the last request.
    """

    from_sequence: int
    generation: int
    requested: int | None = None
    later_from: int | None = None
    attempts: int = 0
    retry_at: float = 0.0
    request: str = ""
    rows: int = 0


@dataclass(frozen=True)
class SilverRequest:
    """A refresh of Silver. `key` is the same if the same tick is evaluated again, and otherwise unique.

    `rows` are the trades that arrived since the last request, `attempts` the failed requests before.
    """

    hours: tuple[datetime, ...]  # consecutive, of one UTC day
    from_sequence: int
    request: str
    key: str
    rows: int
    attempts: int


@dataclass
class FollowerState:
    """The cursor: files up to `sequence` were processed; `coverage` is the coverage version processed last.

    `start` is the first hour that could be a partition at the last tick. `look_again` lists hours whose coverage is
    checked again once they are no longer pending. `archive` is the record time of the newest processed archive load.
    `table` is the Bronze table of the sequence numbers. `epoch` is unique per new state, so that a new state ignores
    the runs of its predecessor. `unreported` counts arrived rows by hour that no event has reported yet. `asked` and
    `reported` are the times of an hour's last request and report (epoch seconds), kept for one interval; `proven` is
    the proven minute (since 1970) at that request.
    """

    sequence: int = 0
    generation: int = 0
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    coverage: str = ""
    archive: str = ""
    start: str = ""
    look_again: list[str] = field(default_factory=list)
    table: str = ""
    pending: dict[str, PendingHour] = field(default_factory=dict)
    unreported: dict[str, int] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    proven: dict[str, int] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_cursor(cls, cursor: str | None) -> FollowerState | None:
        """Parse the cursor; return None if it is lost or unreadable."""
        if not cursor:
            return None
        try:
            data = json.loads(cursor)
            pending = {hour: PendingHour(**entry) for hour, entry in data.pop("pending").items()}
            return cls(**data, pending=pending)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    @classmethod
    def restored(cls, cursor: str | None, copy: Callable[[], str | None], table: str) -> FollowerState:
        """Restore the state from the cursor or its copy, whichever is readable and belongs to `table`.

        Without either, start from the beginning: every hour is recomputed, with the same result.
        """
        state = cls._of_table(cursor, table)
        if state is None:
            state = cls._of_table(copy(), table) or cls()
        state.table = table
        return state

    @classmethod
    def _of_table(cls, cursor: str | None, table: str) -> FollowerState | None:
        state = cls.from_cursor(cursor)
        return state if state is not None and state.table in ("", table) else None

    @property
    def is_idle(self) -> bool:
        """Return whether no work is left until new data arrives."""
        return not (self.pending or self.unreported or self.look_again)

    def to_cursor(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    def touch(self, hour: datetime, sequence: int) -> None:
        """Mark an hour as pending from `sequence` on.

        A sequence number above the head stands for new coverage, `FULL_HOUR` for an archive day.
        """
        self.generation += 1
        key = hour.isoformat()
        entry = self.pending.get(key)
        if entry is None:
            self.pending[key] = PendingHour(sequence, self.generation)
            return
        entry.generation = self.generation
        if entry.requested is None:
            entry.from_sequence = min(entry.from_sequence, sequence)
            # New data may fix the failure: retry immediately.
            entry.retry_at = 0.0
        else:
            entry.later_from = sequence if entry.later_from is None else min(sequence, entry.later_from)

    def _request(self, entry: PendingHour) -> str:
        """Return the id of the entry's request; cursors of earlier releases do not store it."""
        return entry.request or f"{self.epoch}.{entry.requested}"

    def settle(self, run_state: Callable[[str], RunState], now: float) -> None:
        """Process the results of the requested runs; `run_state` maps a request to its state."""
        for key, entry in list(self.pending.items()):
            if entry.requested is None:
                continue
            state = run_state(self._request(entry))
            if state is RunState.SUCCEEDED:
                if entry.later_from is None:
                    del self.pending[key]
                else:
                    self.pending[key] = PendingHour(entry.later_from, entry.generation, rows=entry.rows)
            elif state is RunState.FAILED:
                arrived_since = entry.later_from is not None
                if entry.later_from is not None:
                    entry.from_sequence = min(entry.from_sequence, entry.later_from)
                entry.later_from = None
                entry.requested, entry.request = None, ""
                entry.attempts += 1
                delay = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(entry.attempts - 1, 20))
                entry.retry_at = now if arrived_since else now + delay

    def due_requests(
        self,
        is_busy: Callable[[datetime], bool],
        now: float,
        limit: int,
        interval_s: float = 0.0,
        hours_a_run: int = 1,
        proven_ms: int = 0,
    ) -> list[SilverRequest]:
        """Return the runs to request now, with at most `limit` in flight: oldest data first, full hours last.

        Hours wait while another run processes them, and for `interval_s` after their last request, unless a minute of
        theirs has ended before `proven_ms` since: until then all trades are proven to be in Bronze. Up to
        `hours_a_run` hours share a run.
        """
        self.asked = _recent(self.asked, now, interval_s)
        self.proven = {key: minute for key, minute in self.proven.items() if key in self.asked}
        due = {
            key: entry
            for key, entry in self.pending.items()
            if entry.requested is None
            and entry.retry_at <= now
            and (key not in self.asked or _proven_minute(key, proven_ms) > self.proven.get(key, 0))
        }
        in_flight = {self._request(entry): entry for entry in self.pending.values() if entry.requested is not None}
        free = limit - len(in_flight)
        full_hour_runs = sum(entry.from_sequence == FULL_HOUR for entry in in_flight.values())
        requests: list[SilverRequest] = []
        for key in sorted(due, key=lambda key: (due[key].from_sequence == FULL_HOUR, due[key].from_sequence, key)):
            is_full_hour = self.pending[key].from_sequence == FULL_HOUR
            if len(requests) >= free or (is_full_hour and full_hour_runs >= MAX_FULL_HOUR_RUNS):
                break
            hour = datetime.fromisoformat(key)
            if key not in due or is_busy(hour):
                continue
            hours = self._hours_sharing_run(hour, due, is_busy, hours_a_run)
            entries = [due.pop(each.isoformat()) for each in hours]
            full_hour_runs += is_full_hour
            requests.append(self._mark_requested(hours, entries, now, proven_ms))
        return requests

    def _hours_sharing_run(
        self, hour: datetime, due: Mapping[str, PendingHour], is_busy: Callable[[datetime], bool], hours_a_run: int
    ) -> list[datetime]:
        """Return the hours that share a run with a due hour: due neighbors of its UTC day.

        The newest pending hour may be open and runs alone, unless it is a full hour; a failed hour runs alone too.
        """
        newest = max(self.pending)
        first = due[hour.isoformat()]
        is_full_hour = first.from_sequence == FULL_HOUR

        def joins(other: datetime) -> bool:
            entry = due.get(other.isoformat())
            return (
                entry is not None
                and not entry.attempts
                and (entry.from_sequence == FULL_HOUR) == is_full_hour
                and other.date() == hour.date()
                and (is_full_hour or other.isoformat() != newest)
                and not is_busy(other)
            )

        hours, rows = [hour], first.rows
        if not joins(hour):
            return hours
        for step in (HOUR, -HOUR):
            other = hour + step
            while len(hours) < hours_a_run and joins(other):
                rows += due[other.isoformat()].rows
                if rows > MAX_ROWS_PER_RUN:
                    break
                hours.append(other)
                other += step
        return sorted(hours)

    def _mark_requested(
        self, hours: list[datetime], entries: list[PendingHour], now: float, proven_ms: int
    ) -> SilverRequest:
        """Mark these hours as requested; return the request."""
        request = f"{self.epoch}.{max(entry.generation for entry in entries)}"
        rows = sum(entry.rows for entry in entries)
        for hour, entry in zip(hours, entries, strict=True):
            entry.requested, entry.request, entry.rows = entry.generation, request, 0
            self.asked[hour.isoformat()] = now
            self.proven[hour.isoformat()] = _proven_minute(hour.isoformat(), proven_ms)
        attempts = entries[0].attempts
        key = f"{hours[0].isoformat()}/{request}/{attempts}"
        from_sequence = min(entry.from_sequence for entry in entries)
        return SilverRequest(tuple(hours), from_sequence, request, key, rows, attempts)

    def waiting(self, is_loaded: Callable[[datetime], bool]) -> list[datetime]:
        """Return the pending hours that are not a partition of the loaded definitions yet."""
        return [hour for hour in map(datetime.fromisoformat, sorted(self.pending)) if not is_loaded(hour)]

    def arrived(self, rows: Mapping[datetime, int]) -> None:
        """Count rows that arrived for these hours; `reports` returns them later."""
        for hour, number in rows.items():
            key = hour.isoformat()
            self.unreported[key] = self.unreported.get(key, 0) + number
            if key in self.pending:
                self.pending[key].rows += number

    def reports(self, now: float, limit: int, interval_s: float = 0.0) -> dict[datetime, int]:
        """Return the rows to report now: at most `limit` hours, each at most once per `interval_s`, oldest first."""
        self.reported = _recent(self.reported, now, interval_s)
        due = sorted(key for key in self.unreported if key not in self.reported)[:limit]
        self.reported.update(dict.fromkeys(due, now))
        return {datetime.fromisoformat(key): self.unreported.pop(key) for key in due}


def _proven_minute(hour: str, proven_ms: int) -> int:
    """Return the minute (since 1970) up to which the hour is proven, at most its end."""
    end_ms = round((datetime.fromisoformat(hour) + HOUR).timestamp() * 1000)
    return min(proven_ms, end_ms) // MINUTE_MS


def _recent(times: Mapping[str, float], now: float, interval_s: float) -> dict[str, float]:
    """Return the entries that are less than `interval_s` old."""
    return {key: time for key, time in times.items() if now - interval_s < time <= now}


@dataclass(frozen=True)
class SplitHours:
    """Touched hours inside the partitions (hour to sequence number) and outside of them (hour to rows)."""

    inside: dict[datetime, int]
    outside: dict[datetime, int]


def split_hours(
    oldest_sequences: Mapping[datetime, int],
    rows: Mapping[datetime, int],
    earliest: datetime,
    latest: datetime,
) -> SplitHours:
    """Split hours by whether they begin in [earliest, latest].

    `inside` maps to sequence numbers, `outside` to row counts.
    """
    inside = {hour: sequence for hour, sequence in oldest_sequences.items() if earliest <= hour <= latest}
    outside = {hour: rows.get(hour, 0) for hour in oldest_sequences if hour not in inside}
    return SplitHours(inside, outside)


def rows_by_hour(files: Iterable[tuple[datetime, int]]) -> dict[datetime, int]:
    """Sum the rows of each hour."""
    totals: dict[datetime, int] = {}
    for hour, rows in files:
        totals[hour] = totals.get(hour, 0) + rows
    return totals
