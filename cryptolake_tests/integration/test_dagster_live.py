"""Dagster's webserver and daemon, driven over GraphQL; only the lake and DuckDB, without broker and Spark."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.follower import REQUEST_TAG
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.graphql import LOCATION, ask, launch_asset, run_status
from cryptolake_assets.platform.parts import DAGSTER_DAEMON
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import serving
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.commands import run_cryptolake
from cryptolake_tests.support.platforms import DAGSTER_PARTS, StartPlatform, settings_for
from cryptolake_tests.support.reference import Trade, reference_bars
from cryptolake_tests.support.waiting import wait_for

FIRST = datetime(2024, 11, 10, tzinfo=UTC)
DAYS = 2
HOURS = [FIRST + timedelta(hours=number) for number in range(26)]
"""A full day and two hours of the next: a backfill launches one run for each day."""
WITH_TRADES = [HOURS[5], HOURS[25]]
TESTED_SENSORS = {(LOCATION, "bronze_follower"), (LOCATION, "automation")}
"""Sensors under test. All others launch runs that require the broker or Spark, fail, and are retried."""

LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
BACKFILL = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    __typename ... on PartitionBackfill { status } ... on PythonError { message } } }
"""
RUNS = """
query ($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId status } } } }
"""
MATERIALIZED = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    partitionStats { numMaterialized numFailed } } } }
"""


INSTIGATORS = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name }
    sensors { name id sensorState { status } } schedules { name id scheduleState { status } } } } } }
"""
STOP_SENSOR = "mutation ($id: String) { stopSensor(id: $id) { __typename ... on PythonError { message } } }"
STOP_SCHEDULE = "mutation ($id: String) { stopRunningSchedule(id: $id) { __typename ... on PythonError { message } } }"
GRAPH = """
{ assetNodes { assetKey { path } groupName dependencyKeys { path } isPartitioned
    freshnessStatusInfo { freshnessStatus } } }
"""
CHECKS = """
query ($key: AssetKeyInput!, $name: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $name, limit: 50) {
    status runId evaluation { partition success severity description } } }
"""
RUN_TAGS = """
query ($filter: RunsFilter) { runsOrError(filter: $filter) {
    ... on Runs { results { runId status tags { key value } } } } }
"""


@pytest.fixture(scope="module")
def live(
    start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, list[Trade]]]:
    """Webserver and daemon on a lake whose Bronze holds trades of two days."""
    settings = settings_for(tmp_path_factory.mktemp("dagster"))
    bootstrap(settings)
    trades = [
        trade(hour + timedelta(minutes=7 * n), 100 * k + n) for k, hour in enumerate(WITH_TRADES) for n in range(8)
    ]
    append(settings, trades)
    others = [part for part in DAGSTER_PARTS if part != DAGSTER_DAEMON]
    with start_platform(settings, others):
        stop_other_sensors(settings)
        lifecycle.up(settings, DAGSTER_PARTS)
        yield settings, trades


def stop_other_sensors(settings: Settings) -> None:
    """Stop all schedules, and all sensors except `TESTED_SENSORS`, before the daemon evaluates them."""
    found_sensors: set[tuple[str, str]] = set()
    for node in ask(settings, INSTIGATORS)["repositoriesOrError"]["nodes"]:
        for sensor in node["sensors"]:
            if (name := (node["location"]["name"], sensor["name"])) in TESTED_SENSORS:
                found_sensors.add(name)
            else:
                answer = ask(settings, STOP_SENSOR, {"id": sensor["id"]})["stopSensor"]
                assert answer["__typename"] == "StopSensorMutationResult", answer
        for schedule in node["schedules"]:
            answer = ask(settings, STOP_SCHEDULE, {"id": schedule["id"]})["stopRunningSchedule"]
            assert answer["__typename"] == "ScheduleStateResult", answer
    assert found_sensors == TESTED_SENSORS


def stats(settings: Settings, path: Sequence[str]) -> dict[str, int]:
    node: dict[str, Any] = ask(settings, MATERIALIZED, {"key": {"path": path}})["assetNodeOrError"]
    return dict(node["partitionStats"])


def test_backfill_and_follower_produce_the_same_bars(live: tuple[Settings, list[Trade]]) -> None:
    settings, trades = live
    answer = ask(
        settings,
        LAUNCH,
        {
            "params": {
                "assetSelection": [{"path": asset_keys.FUTURES.bars.path}],
                "partitionNames": [hour_key(one) for one in HOURS],
            }
        },
    )["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    backfill = answer["backfillId"]

    def status() -> str:
        return str(ask(settings, BACKFILL, {"id": backfill})["partitionBackfillOrError"]["status"])

    wait_for(lambda: status() not in ("REQUESTED", "COMPLETING"), timeout_s=240)
    assert status() == "COMPLETED_SUCCESS"
    tags = {"tags": [{"key": "dagster/backfill", "value": backfill}]}
    runs = ask(settings, RUNS, {"filter": tags})["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"] * DAYS, "one run per day"

    # The follower saw the same trades, and Gold is updated automatically.
    wait_for(lambda: stats(settings, asset_keys.FUTURES.daily.path)["numMaterialized"] >= DAYS, timeout_s=180)
    # A schedule may have added the hour that has closed meanwhile.
    assert stats(settings, asset_keys.FUTURES.bars.path)["numMaterialized"] >= len(HOURS)
    assert stats(settings, asset_keys.FUTURES.bars.path)["numFailed"] == 0
    got = bars(settings, FIRST, hours=24 * DAYS)
    assert {key: bar["trades"] for key, bar in got.items()} == {
        key: bar["trades"] for key, bar in reference_bars(trades).items()
    }


def test_graph_shows_groups_dependencies_checks_and_freshness(live: tuple[Settings, list[Trade]]) -> None:
    settings, _ = live
    nodes = {tuple(node["assetKey"]["path"]): node for node in ask(settings, GRAPH)["assetNodes"]}
    assert {node["groupName"] for node in nodes.values()} == {"bronze", "silver", "gold", "marts", "maintenance"}
    upstream = {key: {tuple(item["path"]) for item in node["dependencyKeys"]} for key, node in nodes.items()}
    assert upstream[tuple(asset_keys.FUTURES.daily.path)] == {tuple(asset_keys.FUTURES.bars.path)}
    assert tuple(asset_keys.FUTURES.bars.path) in upstream["marts", "ohlcv_1h"]

    hour = hour_key(WITH_TRADES[0])
    run_id = launch_asset(settings, list(asset_keys.FUTURES.bars.path), hour)
    wait_for(lambda: run_status(settings, run_id) in ("SUCCESS", "FAILURE", "CANCELED"), timeout_s=120)
    assert run_status(settings, run_id) == "SUCCESS"
    answer = ask(settings, CHECKS, {"key": {"path": asset_keys.FUTURES.bars.path}, "name": "row_count"})
    (of_run,) = [item for item in answer["assetCheckExecutions"] if item["runId"] == run_id]
    assert of_run["status"] == "SUCCEEDED"
    assert of_run["evaluation"]["description"] == "Bronze holds 8 rows; read 8, accounted for 8"
    nodes = {tuple(node["assetKey"]["path"]): node for node in ask(settings, GRAPH)["assetNodes"]}
    assert nodes[tuple(asset_keys.FUTURES.bars.path)]["freshnessStatusInfo"]["freshnessStatus"] == "HEALTHY"


def test_api_reports_assets_and_checks(live: tuple[Settings, list[Trade]]) -> None:
    settings, _ = live
    with serving(settings) as api:
        assets = {item["asset"]: item for item in api.get("/operations/assets").json()["assets"]}
        assert assets["silver/futures_ohlcv_1m"]["freshness"] == "HEALTHY"
        assert assets["silver/futures_ohlcv_1m"]["last_partition"] is not None
        assert assets["marts/ohlcv_1h"]["last_materialized_at"] is None
        checks = {(item["asset"], item["check"]): item for item in api.get("/quality/checks").json()["checks"]}
        row_count = checks["silver/futures_ohlcv_1m", "row_count"]
        assert (row_count["status"], row_count["blocking"]) == ("SUCCEEDED", True)
        # A day and two hours by the backfill; the planned checks of its runs do not count as partitions.
        assert row_count["partitions"]["passed"] == row_count["partitions"]["evaluated"] >= len(HOURS)
        assert (row_count["partitions"]["unit"], row_count["partitions"]["first"]) == ("hour", hour_key(FIRST))
        assert row_count["run_url"] == f"{settings.dagster_pages}/runs/{row_count['run_id']}"
        parts = {item["name"]: item["state"] for item in api.get("/operations/parts").json()["parts"]}
        assert (parts["dagster-daemon"], parts["producer"]) == ("running", "stopped")


def test_manual_run_validates_its_arguments_and_reports_its_failure(live: tuple[Settings, list[Trade]]) -> None:
    settings, _ = live
    silver_name, hour = asset_keys.FUTURES.bars.to_user_string(), hour_key(WITH_TRADES[0])
    day = f"{FIRST.date()}"

    def materialize(*arguments: str) -> tuple[int, str, str]:
        done = run_cryptolake(settings, "materialize", *arguments, timeout_s=180)
        return done.returncode, done.stdout, done.stderr

    code, _, error = materialize("silver/futures_ohlcv_1", "--partition", hour)
    assert (code, error.splitlines()[-1]) == (
        1,
        "argument asset: no asset is called silver/futures_ohlcv_1. Did you mean silver/futures_ohlcv_1m?",
    )
    for partition in ((), ("--partition", day), ("--partition", "2999-12-31-23:00")):
        code, _, error = materialize(silver_name, *partition)
        assert (code, error.startswith("argument --partition: ")) == (1, True), error
        assert "Give one from " in error

    code, out, error = materialize(silver_name, "--partition", hour)
    assert (code, out.startswith(f"materialized {silver_name} [{hour}]: http://")) == (0, True), error

    # No exchange is running here.
    code, _, error = materialize("bronze/futures_funding_raw", "--partition", day)
    assert code == 1
    assert (
        f"dagster: the run of bronze/futures_funding_raw [{day}] failed: bronze__futures_funding_raw: exchange: "
        in error
    )
    assert "Traceback" not in error


@pytest.mark.nightly
def test_killed_daemon_and_code_server_repeat_no_hour(live: tuple[Settings, list[Trade]]) -> None:
    settings, _ = live
    hours = [FIRST + timedelta(days=4, hours=number) for number in range(3)]
    late = [trade(hour + timedelta(minutes=3), 9_000 + number) for number, hour in enumerate(hours)]

    def requested() -> list[dict[str, Any]]:
        """Return the follower's runs of these hours."""
        runs = ask(settings, RUN_TAGS, {"filter": {}})["runsOrError"]["results"]
        tagged = [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in runs]
        keys = {hour_key(hour) for hour in hours}
        return [run for run in tagged if REQUEST_TAG in run["tags"] and run["tags"].get("dagster/partition") in keys]

    append(settings, late)
    wait_for(lambda: bool(requested()), timeout_s=60)
    for part in (DAGSTER_DAEMON, "code-cryptolake"):
        pid = Supervisor(settings).processes()[part].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(bars(settings, hours[0], hours=len(hours))) == len(hours), timeout_s=240)
    wait_for(lambda: all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in requested()), timeout_s=240)
    succeeded = [run["tags"][REQUEST_TAG] for run in requested() if run["status"] == "SUCCESS"]
    assert len(succeeded) == len(set(succeeded)), "no request was made twice"
    assert {key: bar["trades"] for key, bar in bars(settings, hours[0], hours=len(hours)).items()} == {
        key: bar["trades"] for key, bar in reference_bars(late).items()
    }
