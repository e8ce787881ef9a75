"""The replayed clock, by a wall clock of the test's own."""

from __future__ import annotations

from cryptolake_assets.replay.replayed_clock import ReplayClock

SECOND_NS = 10**9


class Wall:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_waits_runs_and_stands_still() -> None:
    wall = Wall()
    clock = ReplayClock(100 * SECOND_NS, 160 * SECOND_NS, 10.0, wall)
    wall.seconds += 5
    assert clock.now_ns() == 100 * SECOND_NS
    clock.start()
    clock.hold_before(None)
    wall.seconds += 2
    assert clock.now_ms() == 120_000
    clock.start()  # changes nothing
    assert clock.now_ms() == 120_000
    wall.seconds += 100
    assert clock.now_ns() == 160 * SECOND_NS


def test_never_passes_a_frame_that_was_not_handed_out() -> None:
    wall = Wall()
    clock = ReplayClock(0, 60 * SECOND_NS, 1.0, wall)
    clock.start()
    clock.hold_before(3 * SECOND_NS)
    wall.seconds += 10
    assert clock.target_ns() == 10 * SECOND_NS
    assert clock.now_ns() == 3 * SECOND_NS - 1
    clock.hold_before(20 * SECOND_NS)
    assert clock.now_ns() == 10 * SECOND_NS
    assert clock.wall_seconds_until(20 * SECOND_NS) == 10.0
    assert clock.wall_seconds_until(1) == 0.0


def test_without_speed_it_is_where_the_frames_are() -> None:
    wall = Wall()
    clock = ReplayClock(SECOND_NS, 60 * SECOND_NS, 0, wall)
    clock.start()
    wall.seconds += 10
    assert clock.now_ns() == SECOND_NS
    clock.advance_to(7 * SECOND_NS)
    clock.advance_to(6 * SECOND_NS)
    assert clock.now_ns() == 7 * SECOND_NS
