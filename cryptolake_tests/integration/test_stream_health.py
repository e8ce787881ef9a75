"""SIGKILL of the broker, the Bronze stream and Spark during a replay, then the health sensor.

The sensor sees a healthy, a finished, a hung and a restarted stream, and outdated bars.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.bronze.offsets import read_report
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.health import REPORT_EVERY_S, evaluate
from cryptolake_assets.defs.resources import StreamResource
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.quality.bar_checks import FRAMES_ACCEPTED, HEARTBEAT, LIVE_BARS, UP_TO_DATE
from cryptolake_assets.quality.reconciliation import Verdict
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.freshness import FAILS_AT
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.replaying import (
    FRAMES,
    SPEED,
    distinct_trades,
    kill,
    refreshed_bars,
    replay,
    verdicts,
    wait_until_all_is_in_bronze,
)
from cryptolake_tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def platform(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A platform at a replay's end, all bars in Silver; broker, Bronze stream and Spark were killed meanwhile."""
    settings = settings_for(
        tmp_path_factory.mktemp("health"),
        replay_speed=SPEED,
        bronze_trigger_s=2.0,
        coverage_interval_s=1.0,
        stream_stall_s=10,
    )
    # The replay starts with the first subscription, so start everything else before.
    others = [KAFKA, SPARK, EXCHANGE, BRONZE]
    with start_platform(settings, others, [*others, PRODUCER]):
        wait_for(lambda: replay(settings)["frames_sent"] > FRAMES / 3, timeout_s=120)
        kill(settings, KAFKA)
        kill(settings, BRONZE)
        wait_for(lambda: replay(settings)["frames_sent"] > FRAMES / 2, timeout_s=120)
        # The stream must detect the loss of its server, end, and be restarted.
        kill(settings, SPARK)
        wait_until_all_is_in_bronze(settings)
        refreshed_bars(settings)
        yield settings


class Watch:
    """Consecutive evaluations of the sensor, and the reported results of each check."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self._graph, self._stream = Graph.of(settings), StreamResource(settings=settings)
        self._instance = instance
        self._cursor: str | None = None
        names = HEARTBEAT, FRAMES_ACCEPTED, UP_TO_DATE, LIVE_BARS
        self.results: dict[str, list[tuple[bool, str, str]]] = {name: [] for name in names}
        self.materialized: list[dg.AssetMaterialization] = []

    def evaluate(self, later_s: float = 0.0) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=self._instance, cursor=self._cursor)
        result = evaluate(context, self._graph, self._stream.signals(), time.time() + later_s)
        if isinstance(result, dg.SkipReason):
            self._cursor = context.cursor
            return []
        self._cursor = result.cursor
        for event in result.asset_events:
            if isinstance(event, dg.AssetCheckEvaluation):
                self.results[event.check_name].append((event.passed, event.severity.value, str(event.description)))
            elif isinstance(event, dg.AssetMaterialization):
                self.materialized.append(event)
            self._instance.report_runless_asset_event(event)
        return list(result.run_requests or [])


@pytest.fixture
def watch(settings: Settings) -> Iterator[Watch]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watch(settings, instance)


def bronze_pid(settings: Settings) -> int:
    pid = Supervisor(settings).processes()[BRONZE].pid
    assert pid
    return pid


def test_killed_broker_stream_and_spark_lose_no_trade_and_change_no_bar(settings: Settings) -> None:
    assert distinct_trades(settings) == FRAMES
    report = read_report(settings)
    assert report is not None
    assert report["state"] == "running"
    bars = refreshed_bars(settings)
    found = verdicts(settings, bars)
    assert found.count(Verdict.EQUAL) == 14
    assert found.count(Verdict.INCOMPLETE) == len(bars) - 14 == 4


def test_checks_pass_at_the_end_of_a_replay(settings: Settings, watch: Watch) -> None:
    assert watch.evaluate() == []
    assert watch.results[HEARTBEAT][-1][0]
    assert watch.results[UP_TO_DATE][-1][0]
    assert [event.partition for event in watch.materialized] == ["2024-07-19-00:00"]
    assert watch.evaluate(later_s=REPORT_EVERY_S) == []
    assert watch.results[UP_TO_DATE][-1][2].startswith("replay finished")


def test_outdated_bars_warn_and_then_fail(settings: Settings, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime(2024, 7, 19, 0, 6, tzinfo=UTC).timestamp()
    limit_s = settings.event_time_lag_limit_in_use_s
    clock: dict[str, float] = {}
    monkeypatch.setattr(
        "cryptolake_assets.binance.exchange_clock.exchange_clock_ms", lambda _: round(clock["s"] * 1000)
    )
    for seconds in (0, limit_s * 1.5, limit_s * (FAILS_AT + 0.5)):
        clock["s"] = end + seconds
        watch.evaluate()
    assert [result[:2] for result in watch.results[UP_TO_DATE]] == [(True, "WARN"), (False, "WARN"), (False, "ERROR")]


def test_hung_stream_warns_fails_and_is_restarted(settings: Settings, watch: Watch) -> None:
    before = bronze_pid(settings)
    watch.evaluate()
    requests: list[dg.RunRequest] = []

    def is_restart_asked_for() -> bool:
        requests.extend(watch.evaluate())
        return bool(requests)

    os.kill(before, signal.SIGSTOP)
    try:
        wait_for(is_restart_asked_for, timeout_s=60)
    finally:
        os.kill(before, signal.SIGCONT)
    assert [result[:2] for result in watch.results[HEARTBEAT]] == [(True, "WARN"), (False, "WARN"), (False, "ERROR")]
    (request,) = requests
    job = build_definitions().resolve_job_def("restart_bronze_stream")
    assert job.execute_in_process(instance=watch._instance, run_config=request.run_config).success
    assert bronze_pid(settings) != before
    observed = watch._instance.fetch_observations(asset_keys.FUTURES.trades, limit=1).records[0].asset_observation
    assert observed is not None
    metadata: dict[str, Any] = {name: value.value for name, value in observed.metadata.items()}
    assert metadata["reason"].startswith("no recent report")
    assert metadata["pid_before"] == str(before)
    assert metadata["pid_after"] == str(bronze_pid(settings))
    wait_for(lambda: not watch.evaluate() and watch.results[HEARTBEAT][-1][0], timeout_s=60)


def test_checks_run_in_a_job(settings: Settings) -> None:
    definitions = build_definitions()
    keys = [
        dg.AssetCheckKey(asset_keys.FUTURES.trades, HEARTBEAT),
        dg.AssetCheckKey(asset_keys.FUTURES.trades, FRAMES_ACCEPTED),
        dg.AssetCheckKey(asset_keys.FUTURES.bars, UP_TO_DATE),
        dg.AssetCheckKey(asset_keys.FUTURES.bars, LIVE_BARS),
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        job = dg.define_asset_job("now", selection=dg.AssetSelection.checks(*keys))
        merged = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
        result = merged.resolve_job_def("now").execute_in_process(instance=instance)
    assert {event.check_name: event.passed for event in result.get_asset_check_evaluations()} == {
        HEARTBEAT: True,
        FRAMES_ACCEPTED: True,
        UP_TO_DATE: True,
        LIVE_BARS: True,
    }
