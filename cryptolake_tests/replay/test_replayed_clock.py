"""The replayed clock, with a simulated wall clock."""

from __future__ import annotations

from cryptolake_assets.replay.replayed_clock import ReplayClock

SECOND_NS = 10**9


class Wall:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_clock_waits_runs_and_stops_at_the_end() -> None:
    wall = Wall()
    clock = ReplayClock(100 * SECOND_NS, 160 * SECOND_NS, 10.0, wall)
    wall.seconds += 5
    assert clock.now_ns() == 100 * SECOND_NS
    clock.start()
    clock.set_next_due(None)
    wall.seconds += 2
    assert clock.now_ms() == 120_000
    clock.start()  # no effect
    assert clock.now_ms() == 120_000
    wall.seconds += 100
    assert clock.now_ns() == 160 * SECOND_NS


def test_clock_never_passes_an_unsent_frame() -> None:
    wall = Wall()
    clock = ReplayClock(0, 60 * SECOND_NS, 1.0, wall)
    clock.start()
    clock.set_next_due(3 * SECOND_NS)
    wall.seconds += 10
    assert clock.target_ns() == 10 * SECOND_NS
    assert clock.now_ns() == 3 * SECOND_NS - 1
    clock.set_next_due(20 * SECOND_NS)
    assert clock.now_ns() == 10 * SECOND_NS
    assert clock.wall_seconds_until(20 * SECOND_NS) == 10.0
    assert clock.wall_seconds_until(1) == 0.0


def test_clock_without_speed_follows_the_frames() -> None:
    wall = Wall()
    clock = ReplayClock(SECOND_NS, 60 * SECOND_NS, 0, wall)
    clock.start()
    wall.seconds += 10
    assert clock.now_ns() == SECOND_NS
    clock.advance_to(7 * SECOND_NS)
    clock.advance_to(6 * SECOND_NS)
    assert clock.now_ns() == 7 * SECOND_NS
