"""The check of the exchange's clock: readings that contradict the frames' times are not used."""

from __future__ import annotations

import pytest

from cryptolake_assets.producer.clock_check import ClockCheck
from cryptolake_tests.support.fakes import NOON_MS

NOW_US = 1_000_000_000_000  # this machine's clock may differ from the exchange's


def check(pace: float, *, is_live: bool, frames: bool = True) -> ClockCheck:
    found = ClockCheck(pace, is_live)
    if frames:
        found.see(NOON_MS, NOW_US)
    return found


@pytest.mark.parametrize(("skew_s", "plausible"), [(-600, False), (-50, True), (0, True), (50, True), (600, False)])
def test_live_clock_must_agree_with_the_frames(skew_s: int, plausible: bool) -> None:
    for idle_s in (0, 3_600):
        clock_ms = NOON_MS + (idle_s + skew_s) * 1000
        assert check(1.0, is_live=True).is_plausible(clock_ms, NOW_US + idle_s * 1_000_000) is plausible


def test_live_clock_must_agree_with_this_machine_while_there_is_no_frame() -> None:
    first = check(1.0, is_live=True, frames=False)
    assert first.is_plausible(NOW_US // 1000 + 5_000, NOW_US)
    assert not first.is_plausible(NOW_US // 1000 + 600_000, NOW_US)


def test_replayed_clock_may_stop_but_not_run_ahead() -> None:
    an_hour_later = NOW_US + 3_600_000_000
    assert check(1.0, is_live=False).is_plausible(NOON_MS, an_hour_later)
    assert not check(1.0, is_live=False).is_plausible(NOON_MS + 600_000, NOW_US)
    assert check(60.0, is_live=False).is_plausible(NOON_MS + 3_600_000 * 60, an_hour_later)
    assert check(1.0, is_live=False, frames=False).is_plausible(NOON_MS + 600_000, NOW_US)


def test_without_a_pace_no_reading_is_judged() -> None:
    assert check(0.0, is_live=False).is_plausible(NOON_MS + 10**12, NOW_US)
