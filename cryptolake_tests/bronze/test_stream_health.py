"""The verdict on the stream: it warns, then fails and is restarted, and never while it is well or stopped by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.bronze.stream_health import (
    RESTART_INTERVAL_FACTOR,
    HealthVerdict,
    ProgressHistory,
    StreamHealth,
    StreamSignals,
)

LIMIT_S = 120.0
STEP_S = 30.0
WELL = StreamSignals(state="running", report_age_s=1.0, committed=100, lag=0)


def watch(signs: list[StreamSignals], step_s: float = STEP_S) -> list[HealthVerdict]:
    """The verdicts of looks that are `step_s` apart."""
    history = ProgressHistory.from_json(None, 0.0)
    verdicts = []
    for number, seen in enumerate(signs):
        now = number * step_s
        verdicts.append(history.judge(seen, now, LIMIT_S))
        history = ProgressHistory.from_json(history.to_json(), now)
    return verdicts


def healths(verdicts: list[HealthVerdict]) -> list[StreamHealth]:
    return [verdict.health for verdict in verdicts]


def test_an_idle_stream_and_one_that_gets_on_are_well() -> None:
    busy = [replace(WELL, committed=100 + number, lag=50) for number in range(20)]
    assert set(healths(watch([WELL] * 20))) == {StreamHealth.GOOD}
    assert set(healths(watch(busy))) == {StreamHealth.GOOD}


def test_a_dead_stream_warns_then_fails_and_is_restarted_once() -> None:
    verdicts = watch([WELL, *[replace(WELL, state="failed")] * 6])
    assert healths(verdicts) == [
        StreamHealth.GOOD,
        StreamHealth.GOOD,
        *[StreamHealth.WARNING] * 2,
        *[StreamHealth.FAILED] * 3,
    ]
    assert [verdict.restart for verdict in verdicts] == [*[False] * 4, True, False, False]
    assert "the process is failed, for 120 s" in verdicts[4].reason


def test_a_stream_without_progress_while_kafka_holds_more_is_stalled() -> None:
    stalled = replace(WELL, committed=100, lag=7)
    verdicts = watch([WELL, *[stalled] * 5])
    assert verdicts[-1].restart or verdicts[-2].restart
    assert "no progress while Kafka holds 7 more" in verdicts[-1].reason


def test_a_stream_that_gives_no_sign_of_life_is_stalled() -> None:
    silent = [replace(WELL, report_age_s=STEP_S * number) for number in range(1, 8)]
    assert watch([WELL, *silent])[-1].health is StreamHealth.FAILED
    assert watch([WELL, *[replace(WELL, report_age_s=None)] * 6])[-1].health is StreamHealth.FAILED


def test_a_stream_stopped_by_hand_fails_and_is_left_alone() -> None:
    verdicts = watch([WELL, *[replace(WELL, state="stopped")] * 20])
    assert verdicts[-1].health is StreamHealth.FAILED
    assert not any(verdict.restart for verdict in verdicts)


def test_restarts_keep_their_distance() -> None:
    verdicts = watch([WELL, *[replace(WELL, state="failed")] * 40])
    at = [number * STEP_S for number, verdict in enumerate(verdicts) if verdict.restart]
    assert len(at) >= 2
    assert all(later - earlier >= RESTART_INTERVAL_FACTOR * LIMIT_S for earlier, later in pairwise(at))


def test_after_a_night_in_which_nobody_looked_the_stream_is_given_its_time() -> None:
    history = ProgressHistory.from_json(None, 0.0)
    history.judge(WELL, 0.0, LIMIT_S)
    night = 8 * 3600.0
    verdict = history.judge(replace(WELL, state="restarting"), night, LIMIT_S)
    assert (verdict.health, verdict.restart) == (StreamHealth.GOOD, False)


@given(st.text())
def test_an_unreadable_memory_begins_anew(text: str) -> None:
    assert ProgressHistory.from_json(text, 5.0).well_at == 5.0
