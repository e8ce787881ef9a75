"""The follower's state: every file reaches a successful run, after failures and lost cursors too."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cryptolake_assets.lake.bronze_follower import (
    FULL_HOUR,
    MAX_FULL_HOUR_RUNS,
    MAX_ROWS_PER_RUN,
    FollowerState,
    RunState,
    SilverRequest,
    split_hours,
)

HOUR = datetime(2024, 7, 18, 23, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


def restored(cursor: str | None) -> FollowerState:
    return FollowerState.restored(cursor, lambda: None, "")


def never_busy(_: datetime) -> bool:
    return False


def test_hour_stays_pending_until_its_run_succeeds() -> None:
    state = FollowerState()
    state.touch(HOUR, 7)
    (request,) = state.due_requests(never_busy, now=0, limit=10)
    assert (request.hours, request.from_sequence) == ((HOUR,), 7)
    assert state.due_requests(never_busy, now=0, limit=10) == []
    state.settle(lambda *_: RunState.IN_FLIGHT, now=1)
    assert state.pending
    state.settle(lambda *_: RunState.SUCCEEDED, now=2)
    assert not state.pending


def test_files_that_arrive_during_a_run_are_requested_after_it() -> None:
    state = FollowerState()
    state.touch(HOUR, 7)
    state.due_requests(never_busy, 0, 10)
    state.touch(HOUR, 9)
    state.touch(HOUR, 11)
    state.settle(lambda *_: RunState.SUCCEEDED, 1)
    (request,) = state.due_requests(never_busy, 1, 10)
    assert request.from_sequence == 9


def test_open_hour_is_requested_when_a_further_minute_is_proven_or_after_the_interval() -> None:
    state = FollowerState()
    begin_ms = round(HOUR.timestamp() * 1000)
    requested = []
    for second, proven_s in ((0, 0), (5, 0), (10, 30), (15, 60), (20, 65), (25, 119), (30, 120), (125, 120)):
        state.touch(HOUR, second + 1)
        proven_ms = begin_ms + proven_s * 1000
        if state.due_requests(never_busy, second, 10, interval_s=90, proven_ms=proven_ms):
            requested.append(second)
        state = restored(state.to_cursor())
        state.settle(lambda *_: RunState.SUCCEEDED, second)
    assert requested == [0, 15, 30, 125]


def test_minutes_proven_after_an_hour_do_not_request_it_again() -> None:
    state = FollowerState()
    end_ms = round(NEXT.timestamp() * 1000)
    for second, proven_ms, due in ((0, end_ms, True), (5, end_ms + 60_000, False)):
        state.touch(HOUR, second + 1)
        requests = state.due_requests(never_busy, second, 10, interval_s=90, proven_ms=proven_ms)
        assert bool(requests) is due
        state.settle(lambda *_: RunState.SUCCEEDED, second)


def test_full_hour_touched_during_a_run_is_requested_after_success_and_failure() -> None:
    for outcome in (RunState.SUCCEEDED, RunState.FAILED):
        state = FollowerState()
        state.touch(HOUR, 7)
        state.due_requests(never_busy, 0, 10)
        state.touch(HOUR, 9)
        state.touch(HOUR, FULL_HOUR)
        state.touch(HOUR, 11)
        state = restored(state.to_cursor())
        state.settle(lambda *_, outcome=outcome: outcome, 1)
        (request,) = state.due_requests(never_busy, 1, 10)
        assert request.from_sequence == FULL_HOUR


def test_history_does_not_delay_the_open_hour() -> None:
    state = FollowerState()
    for number in range(24):
        state.touch(HOUR - timedelta(hours=number + 1), FULL_HOUR)
    state.touch(HOUR, 12)
    requests = state.due_requests(never_busy, 0, 24)
    assert requests[0].hours == (HOUR,)
    assert len(requests) == 1 + MAX_FULL_HOUR_RUNS
    state.settle(lambda request: RunState.SUCCEEDED if request == requests[0].request else RunState.IN_FLIGHT, 1)
    assert state.due_requests(never_busy, 1, 24) == []
    state.touch(HOUR, 13)
    assert [request.hours for request in state.due_requests(never_busy, 1, 24)] == [(HOUR,)]


def test_failed_hour_is_retried_later_from_its_oldest_file_and_blocks_no_other() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    state.touch(NEXT, 4)
    requests = state.due_requests(never_busy, 0, 10)
    (first,) = (request.request for request in requests if request.hours == (HOUR,))
    state.settle(lambda request: RunState.FAILED if request == first else RunState.SUCCEEDED, 0)
    assert list(state.pending) == [HOUR.isoformat()]
    assert state.due_requests(never_busy, 1, 10) == []
    (retry,) = state.due_requests(never_busy, 31, 10)
    assert retry.from_sequence == 3
    assert retry.key not in {request.key for request in requests}


def test_new_data_retries_a_failed_hour_immediately() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    state.due_requests(never_busy, 0, 10)
    state.settle(lambda *_: RunState.FAILED, 0)
    state.touch(HOUR, 8)
    (retry,) = state.due_requests(never_busy, 1, 10)
    assert retry.from_sequence == 3


def test_busy_hour_is_not_requested() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    assert state.due_requests(lambda _: True, 0, 10) == []
    assert len(state.due_requests(never_busy, 0, 10)) == 1


def test_same_tick_requests_the_same_run_and_a_new_cursor_another() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    cursor = state.to_cursor()
    first = restored(cursor).due_requests(never_busy, 0, 10)
    second = restored(cursor).due_requests(never_busy, 0, 10)
    assert first == second
    lost = restored(None)
    lost.touch(HOUR, 3)
    assert lost.due_requests(never_busy, 0, 10)[0].key != first[0].key


def test_tick_is_bounded_and_requests_the_oldest_data_first() -> None:
    state = FollowerState()
    for number in range(30):
        state.touch(HOUR + timedelta(hours=number), 100 - number)
    requests = state.due_requests(never_busy, 0, 5)
    assert [request.from_sequence for request in requests] == [71, 72, 73, 74, 75]
    assert len(state.due_requests(never_busy, 0, 100)) == 25


@given(st.text())
def test_unreadable_cursor_restarts_from_the_beginning(cursor: str) -> None:
    assert restored(cursor).sequence == 0


def test_copy_replaces_a_lost_cursor_of_the_same_table_only() -> None:
    state = FollowerState(sequence=7, table="a")
    state.touch(HOUR, 7)
    copy = state.to_cursor()
    assert FollowerState.restored(None, lambda: copy, "a") == state
    assert FollowerState.restored("{", lambda: copy, "a") == state
    newer = FollowerState(sequence=9, table="a")
    assert FollowerState.restored(newer.to_cursor(), lambda: copy, "a") == newer
    other_table = FollowerState.restored(newer.to_cursor(), lambda: copy, "b")
    assert (other_table.sequence, other_table.table) == (0, "b")


def test_hour_is_requested_once_per_interval() -> None:
    state = FollowerState()
    requested_at = []
    for second in range(0, 600, 5):  # ten minutes of ticks, with new files before each of them
        state.touch(HOUR, second + 1)
        state.settle(lambda *_: RunState.SUCCEEDED, second)
        requested_at += [second for _ in state.due_requests(never_busy, second, 10, interval_s=60)]
    assert requested_at == list(range(0, 600, 60))
    state.touch(NEXT, 700)
    assert [request.hours for request in state.due_requests(never_busy, 599, 10, interval_s=60)] == [(NEXT,)], (
        "another hour has its own interval"
    )


def test_number_of_runs_in_flight_is_bounded_over_many_ticks() -> None:
    state = FollowerState()
    for number in range(24 * 30):
        state.touch(HOUR + timedelta(hours=number), number + 1)
    running: list[SilverRequest] = []
    done: set[str] = set()
    ticks = 0
    while state.pending:
        ticks += 1
        state.settle(lambda request: RunState.SUCCEEDED if request in done else RunState.IN_FLIGHT, ticks)
        state = restored(state.to_cursor())
        running += state.due_requests(never_busy, ticks, limit=24)
        assert len(running) <= 24
        for request in running[:5]:
            assert request.request not in done, "requested twice"
            done.add(request.request)
        running = running[5:]
    assert len(done) == 24 * 30


MIDNIGHT = datetime(2024, 7, 19, tzinfo=UTC)


def day_of_history(first: int = 0, last: int = 24) -> FollowerState:
    """Return a state with archive hours of a day, and a file of a later hour."""
    state = FollowerState()
    for number in range(first, last):
        state.touch(MIDNIGHT + timedelta(hours=number), FULL_HOUR)
    state.touch(MIDNIGHT + timedelta(days=3), 5)
    return state


def test_hours_of_a_day_share_a_run_and_the_newest_hour_runs_alone() -> None:
    state = day_of_history()
    for number in range(24, 30):
        state.touch(MIDNIGHT + timedelta(hours=number), FULL_HOUR)
    open_hour, *history = state.due_requests(never_busy, 0, 24, hours_a_run=24)
    assert open_hour.hours == (MIDNIGHT + timedelta(days=3),)
    assert [(request.hours[0], len(request.hours)) for request in history] == [
        (MIDNIGHT, 24),
        (MIDNIGHT + timedelta(days=1), 6),
    ]
    state = restored(state.to_cursor())
    state.settle(lambda request: RunState.SUCCEEDED if request == history[0].request else RunState.IN_FLIGHT, 1)
    assert len(state.pending) == 7


def test_neighboring_hours_share_a_run_from_their_oldest_file_on() -> None:
    state = FollowerState()
    for number, sequence in ((0, 9), (1, 7), (3, 8), (4, 20)):
        state.touch(MIDNIGHT + timedelta(hours=number), sequence)
    requests = state.due_requests(never_busy, 0, 24, hours_a_run=24)
    assert [(request.hours[0].hour, len(request.hours), request.from_sequence) for request in requests] == [
        (0, 2, 7),
        (3, 1, 8),
        (4, 1, 20),
    ]


def test_busy_hour_splits_a_shared_run() -> None:
    state = day_of_history(0, 5)
    busy = MIDNIGHT + timedelta(hours=2)
    _, *history = state.due_requests(lambda hour: hour == busy, 0, 24, hours_a_run=24)
    assert [[hour.hour for hour in request.hours] for request in history] == [[0, 1], [3, 4]]


def test_hours_that_failed_together_are_retried_one_by_one() -> None:
    state = day_of_history(0, 2)
    state.due_requests(never_busy, 0, 24, hours_a_run=24)
    state.settle(lambda _: RunState.FAILED, 0)
    _, *history = state.due_requests(never_busy, 31, 24, hours_a_run=24)
    assert [len(request.hours) for request in history] == [1, 1]


def test_hours_with_many_trades_do_not_share_a_run() -> None:
    state = day_of_history(0, 4)
    state.arrived({MIDNIGHT + timedelta(hours=number): MAX_ROWS_PER_RUN // 2 for number in range(4)})
    _, *history = state.due_requests(never_busy, 0, 24, hours_a_run=24)
    assert [[hour.hour for hour in request.hours] for request in history] == [[0, 1], [2, 3]]


def test_trades_that_arrive_during_a_run_count_for_the_next_run() -> None:
    state = day_of_history(0, 4)
    state.due_requests(never_busy, 0, 24, hours_a_run=24)
    for number in range(4):
        state.touch(MIDNIGHT + timedelta(hours=number), 9)
    state.arrived({MIDNIGHT + timedelta(hours=number): MAX_ROWS_PER_RUN // 2 for number in range(4)})
    state.settle(lambda _: RunState.SUCCEEDED, 1)
    requests = state.due_requests(never_busy, 2, 24, hours_a_run=24)
    assert sorted([hour.hour for hour in request.hours] for request in requests) == [[0, 1], [2], [3]]


def test_cursor_of_an_earlier_release_finds_its_runs() -> None:
    state = FollowerState(epoch="e")
    state.touch(HOUR, 3)
    state.due_requests(never_busy, 0, 24)
    data = json.loads(state.to_cursor())
    for entry in data["pending"].values():
        del entry["request"], entry["rows"]
    old = restored(json.dumps(data))
    old.settle(lambda request: RunState.SUCCEEDED if request == "e.1" else RunState.FAILED, 1)
    assert not old.pending


def test_rows_are_reported_once_in_bounded_batches() -> None:
    state = FollowerState()
    state.arrived({HOUR + timedelta(hours=number): 10 for number in range(5)})
    first = state.reports(0.0, limit=3, interval_s=60)
    assert list(first) == [HOUR + timedelta(hours=number) for number in range(3)]
    state.arrived({HOUR: 1})
    second = state.reports(5.0, limit=3, interval_s=60)
    assert list(second) == [HOUR + timedelta(hours=number) for number in (3, 4)]
    state.arrived({HOUR: 2})
    assert state.reports(60.0, limit=3, interval_s=60) == {HOUR: 3}
    assert state.reports(600.0, limit=3, interval_s=60) == {}


def test_hours_outside_the_partitions_are_separated_with_their_rows() -> None:
    stray = datetime(2099, 1, 1, tzinfo=UTC)
    split = split_hours({HOUR: 4, stray: 5}, {HOUR: 10, stray: 1}, HOUR, NEXT)
    assert split.inside == {HOUR: 4}
    assert split.outside == {stray: 1}


class Following(RuleBasedStateMachine):
    """Files arrive, runs are requested, succeed and fail, a cursor is not saved: no file is ever skipped.

    A run reads the files that exist at its request, from its `from_sequence` on; a real run may read more.
    """

    hours = Bundle("hours")

    @initialize()
    def begin(self) -> None:
        self.state = FollowerState()
        self.sequence = 0
        self.files: dict[datetime, set[int]] = {}
        self.in_silver: dict[datetime, set[int]] = {}
        self.running: dict[tuple[str, str], dict[datetime, set[int]]] = {}
        self.ended: dict[str, RunState] = {}
        self.now = 0.0

    @rule(target=hours, number=st.integers(0, 3))
    def choose_hour(self, number: int) -> datetime:
        return HOUR + timedelta(hours=number)

    @rule(hour=hours)
    def add_file(self, hour: datetime) -> None:
        self.sequence += 1
        self.files.setdefault(hour, set()).add(self.sequence)
        self.state.touch(hour, self.sequence)

    @rule(is_saved=st.booleans())
    def tick(self, is_saved: bool) -> None:
        self.now += 10_000
        before = self.state.to_cursor()
        self.state.settle(self._run_state, self.now)
        for request in self.state.due_requests(self._is_busy, self.now, 2, hours_a_run=3):
            self.running.setdefault((request.key, request.request), self._readable(request))
        if not is_saved:
            self.state = restored(before)

    def _is_busy(self, hour: datetime) -> bool:
        return any(hour in hours for hours in self.running.values())

    def _readable(self, request: SilverRequest) -> dict[datetime, set[int]]:
        return {
            hour: {number for number in self.files.get(hour, set()) if number >= request.from_sequence}
            for hour in request.hours
        }

    def _run_state(self, request: str) -> RunState:
        if any(known == request for _, known in self.running):
            return RunState.IN_FLIGHT
        return self.ended.get(request, RunState.FAILED)

    @rule(succeeds=st.booleans())
    def end_run(self, succeeds: bool) -> None:
        if not self.running:
            return
        key, read = next(iter(self.running.items()))
        del self.running[key]
        self.ended[key[1]] = RunState.SUCCEEDED if succeeds else RunState.FAILED
        for hour, files in read.items() if succeeds else ():
            self.in_silver.setdefault(hour, set()).update(files)

    @invariant()
    def files_not_in_silver_are_pending(self) -> None:
        for hour, files in self.files.items():
            missing = files - self.in_silver.get(hour, set())
            if missing:
                entry = self.state.pending[hour.isoformat()]
                assert min(entry.from_sequence, entry.later_from or entry.from_sequence) <= min(missing)


TestFollowing = Following.TestCase
