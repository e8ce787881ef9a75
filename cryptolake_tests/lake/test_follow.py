"""The follower's bookkeeping: whatever comes, fails or is lost, every file reaches a successful run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cryptolake_assets.lake.follow import FollowerState, RunState, RunWish, split_hours

HOUR = datetime(2024, 7, 18, 23, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


def never_busy(_: datetime) -> bool:
    return False


def test_an_hour_stays_pending_until_its_run_succeeded() -> None:
    state = FollowerState()
    state.touch(HOUR, 7)
    (wish,) = state.wishes(never_busy, now=0, most=10)
    assert (wish.hour, wish.from_sequence) == (HOUR, 7)
    assert state.wishes(never_busy, now=0, most=10) == []
    state.settle(lambda *_: RunState.IN_FLIGHT, now=1)
    assert state.pending
    state.settle(lambda *_: RunState.SUCCEEDED, now=2)
    assert not state.pending


def test_what_comes_during_a_run_is_asked_for_after_it() -> None:
    state = FollowerState()
    state.touch(HOUR, 7)
    state.wishes(never_busy, 0, 10)
    state.touch(HOUR, 9)
    state.touch(HOUR, 11)
    state.settle(lambda *_: RunState.SUCCEEDED, 1)
    (wish,) = state.wishes(never_busy, 1, 10)
    assert wish.from_sequence == 9


def test_a_failed_hour_is_tried_later_from_its_oldest_file_and_blocks_no_other() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    state.touch(NEXT, 4)
    keys = {wish.key for wish in state.wishes(never_busy, 0, 10)}
    state.settle(lambda hour, _: RunState.FAILED if hour == HOUR else RunState.SUCCEEDED, 0)
    assert list(state.pending) == [HOUR.isoformat()]
    assert state.wishes(never_busy, 1, 10) == []
    (again,) = state.wishes(never_busy, 31, 10)
    assert again.from_sequence == 3
    assert again.key not in keys


def test_new_data_brings_a_failed_hour_forward() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    state.wishes(never_busy, 0, 10)
    state.settle(lambda *_: RunState.FAILED, 0)
    state.touch(HOUR, 8)
    (again,) = state.wishes(never_busy, 1, 10)
    assert again.from_sequence == 3


def test_a_busy_hour_waits() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    assert state.wishes(lambda _: True, 0, 10) == []
    assert len(state.wishes(never_busy, 0, 10)) == 1


def test_the_same_tick_asks_for_the_same_run_and_a_new_cursor_for_another() -> None:
    state = FollowerState()
    state.touch(HOUR, 3)
    cursor = state.to_cursor()
    first = FollowerState.from_cursor(cursor).wishes(never_busy, 0, 10)
    second = FollowerState.from_cursor(cursor).wishes(never_busy, 0, 10)
    assert first == second
    lost = FollowerState.from_cursor(None)
    lost.touch(HOUR, 3)
    assert lost.wishes(never_busy, 0, 10)[0].key != first[0].key


def test_a_tick_is_bounded_and_takes_the_oldest_data_first() -> None:
    state = FollowerState()
    for number in range(30):
        state.touch(HOUR + timedelta(hours=number), 100 - number)
    wishes = state.wishes(never_busy, 0, 5)
    assert [wish.from_sequence for wish in wishes] == [71, 72, 73, 74, 75]
    assert len(state.wishes(never_busy, 0, 100)) == 25


@given(st.text())
def test_an_unreadable_cursor_begins_at_the_beginning(cursor: str) -> None:
    assert FollowerState.from_cursor(cursor).sequence == 0


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
        for wish in self.state.wishes(lambda hour: any(key[0] == hour for key in self.running), self.now, 2):
            self.running.setdefault((wish.hour, wish.request), self._readable(wish))
        if not is_saved:
            self.state = FollowerState.from_cursor(before)

    def _readable(self, wish: RunWish) -> set[int]:
        return {number for number in self.files.get(wish.hour, set()) if number >= wish.from_sequence}

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
