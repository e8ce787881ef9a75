"""Stream health: warning, then failure with a restart; no restart of a healthy or manually stopped stream."""

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
HEALTHY = StreamSignals(table="spot_trades", state="running", report_age_s=1.0, committed=100, lag=0)


def watch(signals: list[StreamSignals], step_s: float = STEP_S) -> list[HealthVerdict]:
    """Return the verdicts of checks `step_s` apart."""
    history = ProgressHistory.from_json(None, 0.0)
    verdicts = []
    for number, current in enumerate(signals):
        now = number * step_s
        verdicts.append(history.judge(current, now, LIMIT_S))
        history = ProgressHistory.from_json(history.to_json(), now)
    return verdicts


def healths(verdicts: list[HealthVerdict]) -> list[StreamHealth]:
    return [verdict.health for verdict in verdicts]


def test_idle_and_progressing_streams_are_healthy() -> None:
    busy = [replace(HEALTHY, committed=100 + number, lag=50) for number in range(20)]
    assert set(healths(watch([HEALTHY] * 20))) == {StreamHealth.GOOD}
    assert set(healths(watch(busy))) == {StreamHealth.GOOD}


def test_dead_stream_warns_then_fails_and_is_restarted_once() -> None:
    verdicts = watch([HEALTHY, *[replace(HEALTHY, state="failed")] * 6])
    assert healths(verdicts) == [
        StreamHealth.GOOD,
        StreamHealth.GOOD,
        *[StreamHealth.WARNING] * 2,
        *[StreamHealth.FAILED] * 3,
    ]
    assert [verdict.restart for verdict in verdicts] == [*[False] * 4, True, False, False]
    assert "the process is failed, for 120 s" in verdicts[4].reason


def test_stream_with_lag_and_without_progress_is_stalled() -> None:
    stalled = replace(HEALTHY, committed=100, lag=7)
    verdicts = watch([HEALTHY, *[stalled] * 5])
    assert verdicts[-1].restart or verdicts[-2].restart
    assert "spot_trades: no progress while Kafka holds 7 more" in verdicts[-1].reason


def test_stream_without_reports_is_stalled() -> None:
    stale = [replace(HEALTHY, report_age_s=STEP_S * number) for number in range(1, 8)]
    assert watch([HEALTHY, *stale])[-1].health is StreamHealth.FAILED
    assert watch([HEALTHY, *[replace(HEALTHY, report_age_s=None)] * 6])[-1].health is StreamHealth.FAILED


def test_manually_stopped_stream_fails_and_is_not_restarted() -> None:
    verdicts = watch([HEALTHY, *[replace(HEALTHY, state="stopped")] * 20])
    assert verdicts[-1].health is StreamHealth.FAILED
    assert not any(verdict.restart for verdict in verdicts)


def test_restarts_are_a_minimum_time_apart() -> None:
    verdicts = watch([HEALTHY, *[replace(HEALTHY, state="failed")] * 40])
    at = [number * STEP_S for number, verdict in enumerate(verdicts) if verdict.restart]
    assert len(at) >= 2
    assert all(later - earlier >= RESTART_INTERVAL_FACTOR * LIMIT_S for earlier, later in pairwise(at))


def test_stream_gets_the_full_limit_after_a_long_time_without_checks() -> None:
    history = ProgressHistory.from_json(None, 0.0)
    history.judge(HEALTHY, 0.0, LIMIT_S)
    night = 8 * 3600.0
    verdict = history.judge(replace(HEALTHY, state="restarting"), night, LIMIT_S)
    assert (verdict.health, verdict.restart) == (StreamHealth.GOOD, False)


@given(st.text())
def test_unreadable_history_starts_a_new_one(text: str) -> None:
    assert ProgressHistory.from_json(text, 5.0).well_at == 5.0
