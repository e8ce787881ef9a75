"""The follower's sensor looks on while nothing comes, and answers as soon as something does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from cryptolake_assets.defs import follower
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.lake.bronze_follower import FollowerState
from cryptolake_assets.settings import Settings, load_settings

AT_REST = FollowerState(sequence=7, table="t")
LOOKS_MOST = 3
"""In `WATCH_S` of 10 s by an interval of 5 s: at 0, 5 and 10 s."""


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(follower, "time", clock)
    return clock


def answers(monkeypatch: pytest.MonkeyPatch, states: Iterator[FollowerState | dg.SensorResult]) -> list[str | None]:
    """Each look answers with the next state, or the result; returns the cursors that the looks found."""
    found: list[str | None] = []

    def tick(context: dg.SensorEvaluationContext, *_: object) -> dg.SensorResult | dg.SkipReason:
        found.append(context.cursor)
        answer = next(states)
        if isinstance(answer, dg.SensorResult):
            return answer
        context.update_cursor(answer.to_cursor())
        return dg.SkipReason("nothing")

    monkeypatch.setattr(follower, "tick", tick)
    return found


def evaluate(settings: Settings) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(cursor=AT_REST.to_cursor())
    result = follower.watch(context, Graph.of(settings))
    if isinstance(result, dg.SensorResult):
        assert result.cursor is None, "Dagster refuses a result's cursor beside the context's"
        return result._replace(cursor=context.cursor)
    return result


def test_at_rest_it_looks_until_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, settings: Settings
) -> None:
    found = answers(monkeypatch, iter([AT_REST] * 10))
    assert isinstance(evaluate(settings), dg.SkipReason)
    assert len(found) == LOOKS_MOST
    assert clock.now <= follower.WATCH_S


def test_what_comes_meanwhile_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, settings: Settings
) -> None:
    later = FollowerState(sequence=8, table="t")
    request = dg.RunRequest(run_key="k", partition_key="2026-01-01-00:00")
    found = answers(monkeypatch, iter([later, dg.SensorResult(run_requests=[request], cursor="new")]))
    result = evaluate(settings)
    assert isinstance(result, dg.SensorResult)
    assert result.cursor == "new"
    assert [request.run_key for request in result.run_requests or []] == ["k"]
    assert found == [AT_REST.to_cursor(), later.to_cursor()], "each look begins where the last one ended"
    assert clock.now > 0


def test_what_is_owed_is_left_to_the_next_tick(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, settings: Settings
) -> None:
    """Runs that were asked for end, and hours wait for their interval: Dagster's pace is right for these."""
    owing = FollowerState(sequence=8, table="t", unreported={"2026-01-01T00:00:00+00:00": 1})
    found = answers(monkeypatch, iter([owing] * 10))
    assert isinstance(evaluate(settings), dg.SkipReason)
    assert len(found) == 1
    assert clock.now == 0
