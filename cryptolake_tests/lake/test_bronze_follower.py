"""The follower's bookkeeping: whatever comes, fails or is lost, every file reaches a successful run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cryptolake_assets.lake.bronze_follower import (
    MAX_WHOLE_HOURS,
    WHOLE_HOUR,
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


def test_an_hour_stays_pending_until_its_run_succeeded() -> None:
    state = FollowerState()
    state.touch(HOUR, 7)
    (request,) = state.due_requests(never_busy, now=0, limit=10)
    assert (request.hour, request.from_sequence) == (HOUR, 7)
    assert state.due_requests(never_busy, now=0, limit=10) == []
    state.settle(lambda *_: RunState.IN_FLIGHT, now=1)
    assert state.pending
    state.settle(lambda *_: RunState.SUCCEEDED, now=2)
    assert not state.pending


def test_what_comes_during_a_run_is_asked_for_after_it() -> None:
    state = FollowerState()
    state.touch(HOUR, 7)
    state.due_requests(never_busy, 0, 10)
    state.touch(HOUR, 9)
    state.touch(HOUR, 11)
    state.settle(lambda *_: RunState.SUCCEEDED, 1)
    (request,) = state.due_requests(never_busy, 1, 10)
    assert request.from_sequence == 9


def test_a_whole_hour_that_comes_during_a_run_is_asked_for_after_it_and_not_forgotten_by_a_failure() -> None:
    for outcome in (RunState.SUCCEEDED, RunState.FAILED):
        state = FollowerState()
        state.touch(HOUR, 7)
        state.due_requests(never_busy, 0, 10)
        state.touch(HOUR, 9)
        state.touch(HOUR, WHOLE_HOUR)
        state.touch(HOUR, 11)
        state = restored(state.to_cursor())
        state.settle(lambda *_, outcome=outcome: outcome, 1)
        (request,) = state.due_requests(never_busy, 1, 10)
        assert request.from_sequence == WHOLE_HOUR


def test_history_leaves_room_for_what_comes_now() -> None:
    state = FollowerState()
    for number in range(24):
        state.touch(HOUR - timedelta(hours=number + 1), WHOLE_HOUR)
    state.touch(HOUR, 12)
    requests = state.due_requests(never_busy, 0, 24)
    assert requests[0].hour == HOUR
    assert len(requests) == 1 + MAX_WHOLE_HOURS
    state.settle(lambda hour, _: RunState.SUCCEEDED if hour == HOUR else RunState.IN_FLIGHT, 1)
    assert state.due_requests(never_busy, 1, 24) == []
    state.touch(HOUR, 13)
    assert [request.hour for request in state.due_requests(never_busy, 1, 24)] == [HOUR]


def test_a_failed_hour_is_tried_later_from_its_oldest_file_and_blocks_no_other() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    state.touch(NEXT, 4)
    keys = {request.key for request in state.due_requests(never_busy, 0, 10)}
    state.settle(lambda hour, _: RunState.FAILED if hour == HOUR else RunState.SUCCEEDED, 0)
    assert list(state.pending) == [HOUR.isoformat()]
    assert state.due_requests(never_busy, 1, 10) == []
    (again,) = state.due_requests(never_busy, 31, 10)
    assert again.from_sequence == 3
    assert again.key not in keys


def test_new_data_brings_a_failed_hour_forward() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    state.due_requests(never_busy, 0, 10)
    state.settle(lambda *_: RunState.FAILED, 0)
    state.touch(HOUR, 8)
    (again,) = state.due_requests(never_busy, 1, 10)
    assert again.from_sequence == 3


def test_a_busy_hour_waits() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    assert state.due_requests(lambda _: True, 0, 10) == []
    assert len(state.due_requests(never_busy, 0, 10)) == 1


def test_the_same_tick_asks_for_the_same_run_and_a_new_cursor_for_another() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    cursor = state.to_cursor()
    first = restored(cursor).due_requests(never_busy, 0, 10)
    second = restored(cursor).due_requests(never_busy, 0, 10)
    assert first == second
    lost = restored(None)
    lost.touch(HOUR, 3)
    assert lost.due_requests(never_busy, 0, 10)[0].key != first[0].key


def test_a_tick_is_bounded_and_takes_the_oldest_data_first() -> None:
    state = FollowerState()
    for number in range(30):
        state.touch(HOUR + timedelta(hours=number), 100 - number)
    requests = state.due_requests(never_busy, 0, 5)
    assert [request.from_sequence for request in requests] == [71, 72, 73, 74, 75]
    assert len(state.due_requests(never_busy, 0, 100)) == 25


@given(st.text())
def test_an_unreadable_cursor_begins_at_the_beginning(cursor: str) -> None:
    assert restored(cursor).sequence == 0


def test_the_copy_takes_over_for_a_lost_cursor_and_only_for_the_same_table() -> None:
    state = FollowerState(sequence=7, table="a")
    state.touch(HOUR, 7)
    copy = state.to_cursor()
    assert FollowerState.restored(None, lambda: copy, "a") == state
    assert FollowerState.restored("{", lambda: copy, "a") == state
    newer = FollowerState(sequence=9, table="a")
    assert FollowerState.restored(newer.to_cursor(), lambda: copy, "a") == newer
    other_table = FollowerState.restored(newer.to_cursor(), lambda: copy, "b")
    assert (other_table.sequence, other_table.table) == (0, "b")


def test_an_hour_is_asked_for_once_in_an_interval() -> None:
    state = FollowerState()
    asked = []
    for second in range(0, 600, 5):  # ten minutes of ticks, with new files before each of them
        state.touch(HOUR, second + 1)
        state.settle(lambda *_: RunState.SUCCEEDED, second)
        asked += [second for _ in state.due_requests(never_busy, second, 10, interval_s=60)]
    assert asked == list(range(0, 600, 60))
    state.touch(NEXT, 700)
    assert [request.hour for request in state.due_requests(never_busy, 599, 10, interval_s=60)] == [NEXT], (
        "another hour is free"
    )


def test_what_is_in_flight_is_bounded_over_many_ticks() -> None:
    state = FollowerState()
    for number in range(24 * 30):
        state.touch(HOUR + timedelta(hours=number), number + 1)
    running: list[SilverRequest] = []
    done: set[str] = set()
    ticks = 0
    while state.pending:
        ticks += 1
        state.settle(lambda _, request: RunState.SUCCEEDED if request in done else RunState.IN_FLIGHT, ticks)
        state = restored(state.to_cursor())
        running += state.due_requests(never_busy, ticks, limit=24)
        assert len(running) <= 24
        for request in running[:5]:
            assert request.request not in done, "asked for twice"
            done.add(request.request)
        running = running[5:]
    assert len(done) == 24 * 30


def test_rows_are_reported_once_in_bounded_portions() -> None:
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


def test_hours_outside_the_partitions_are_split_off_with_their_rows() -> None:
    stray = datetime(2099, 1, 1, tzinfo=UTC)
    split = split_hours({HOUR: 4, stray: 5}, {HOUR: 10, stray: 1}, HOUR, NEXT)
    assert split.inside == {HOUR: 4}
    assert split.outside == {stray: 1}


class Following(RuleBasedStateMachine):
    """Files arrive, runs are asked for, succeed and fail, the daemon forgets a tick: no file is ever left out.

    A run reads the files that exist when it is asked for, from its `from_sequence` on; a real one reads more.
    """

    hours = Bundle("hours")

    @initialize()
    def begin(self) -> None:
        self.state = FollowerState()
        self.sequence = 0
        self.files: dict[datetime, set[int]] = {}
        self.in_silver: dict[datetime, set[int]] = {}
        self.running: dict[tuple[datetime, str], set[int]] = {}
        self.ended: dict[tuple[datetime, str], RunState] = {}
        self.now = 0.0

    @rule(target=hours, number=st.integers(0, 3))
    def an_hour(self, number: int) -> datetime:
        return HOUR + timedelta(hours=number)

    @rule(hour=hours)
    def files_come(self, hour: datetime) -> None:
        self.sequence += 1
        self.files.setdefault(hour, set()).add(self.sequence)
        self.state.touch(hour, self.sequence)

    @rule(is_saved=st.booleans())
    def tick(self, is_saved: bool) -> None:
        self.now += 10_000
        before = self.state.to_cursor()
        self.state.settle(self._run_state, self.now)
        for request in self.state.due_requests(lambda hour: any(key[0] == hour for key in self.running), self.now, 2):
            self.running.setdefault((request.hour, request.request), self._readable(request))
        if not is_saved:
            self.state = restored(before)

    def _readable(self, request: SilverRequest) -> set[int]:
        return {number for number in self.files.get(request.hour, set()) if number >= request.from_sequence}

    def _run_state(self, hour: datetime, request: str) -> RunState:
        key = (hour, request)
        if key in self.running:
            return RunState.IN_FLIGHT
        return self.ended.get(key, RunState.FAILED)

    @rule(succeeds=st.booleans())
    def a_run_ends(self, succeeds: bool) -> None:
        if not self.running:
            return
        key, read = next(iter(self.running.items()))
        del self.running[key]
        self.ended[key] = RunState.SUCCEEDED if succeeds else RunState.FAILED
        if succeeds:
            self.in_silver.setdefault(key[0], set()).update(read)

    @invariant()
    def what_is_not_in_silver_is_pending(self) -> None:
        for hour, files in self.files.items():
            missing = files - self.in_silver.get(hour, set())
            if missing:
                entry = self.state.pending[hour.isoformat()]
                assert min(entry.from_sequence, entry.later_from or entry.from_sequence) <= min(missing)


TestFollowing = Following.TestCase
