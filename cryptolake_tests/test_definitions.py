"""The graph loads fast, touches neither network nor JVM, and is on in a fresh home."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs.instance.pools import ARCHIVE_POOL, MAINTENANCE_POOL
from cryptolake_assets.ingest.archive_checks import KLINES_OF_DAY, WARNING
from cryptolake_assets.lake.maintenance.tasks import Task
from cryptolake_assets.model.tables import POOLED_TABLES
from cryptolake_assets.quality import batch_checks
from cryptolake_assets.quality.bar_checks import (
    DEPENDENCIES,
    FRAMES_ACCEPTED,
    HEARTBEAT,
    SILVER_OBSERVATIONS,
    UP_TO_DATE,
)
from cryptolake_assets.quality.stream_minute_checks import MINUTES_WITHOUT_ROW
from cryptolake_assets.settings import PROJECT_ROOT

LIGHT = {"dagster", "filelock", "httpx", "msgspec", "pydantic", "pydantic-settings", "pyyaml", "rich", "structlog"}
"""The project's packages that the graph may load; every other one is imported inside the functions that need it."""
LIGHT_BY_DAGSTER = {"tenacity"}
"""Loaded by the light ones themselves."""
PROBE = """
import importlib.metadata, json, socket, sys, time
def refuse(*_): raise AssertionError("the network was touched")
socket.socket.connect = refuse
began = time.process_time()
import cryptolake_assets.definitions
seconds = time.process_time() - began
loaded = {name.partition(".")[0] for name in sys.modules}
packages = importlib.metadata.packages_distributions()
print(json.dumps([seconds, sorted({name for module in loaded for name in packages.get(module, ())})]))
"""


def packages_of_the_project() -> set[str]:
    """Return the names of every package that pyproject.toml asks for, extras included."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    return {re.split(r"[\[=<>~! ;]", requirement)[0].lower() for requirement in wanted}


def test_definitions_load_in_under_two_seconds_without_network_jvm_or_heavy_packages() -> None:
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seconds, names = json.loads(answer.stdout.splitlines()[-1])
    loaded = {name.lower().replace("_", "-") for name in names}
    assert loaded >= LIGHT, "the list names what is not loaded any more"
    assert loaded & packages_of_the_project() - LIGHT - LIGHT_BY_DAGSTER == set()
    assert loaded & {"pandas", "numpy", "py4j", "sqlglot"} == set()
    assert seconds < 2.0


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions().get_repository_def()


def test_the_assets_and_their_partitions(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == {
        "bronze/futures_trades",
        "bronze/futures_mark_prices",
        "bronze/futures_liquidations",
        "bronze/futures_trades_archive",
        "silver/futures_ohlcv_1m",
        "bronze/futures_klines_1m",
        "gold/futures_daily_stats",
        "bronze/fear_greed_raw",
        "silver/fear_greed_daily",
        "bronze/coingecko_raw",
        "silver/coingecko_markets",
        "silver/coingecko_global",
        "bronze/futures_funding_raw",
        "silver/futures_funding_rates",
        "bronze/futures_open_interest_raw",
        "silver/futures_open_interest",
        "silver/futures_mark_price_1m",
        "silver/futures_liquidations_1m",
        *(f"maintenance/{task.value}" for task in Task),
        "maintenance/dagster_event_log",
    }
    hourly = graph.get(dg.AssetKey(["silver", "futures_ohlcv_1m"])).partitions_def
    daily = graph.get(dg.AssetKey(["gold", "futures_daily_stats"])).partitions_def
    assert isinstance(hourly, dg.HourlyPartitionsDefinition)
    assert isinstance(daily, dg.DailyPartitionsDefinition)
    assert hourly.get_first_partition_key() == "2024-07-18-00:00"
    assert daily.get_first_partition_key() == "2024-07-18"


BATCH_OBSERVATIONS = (
    batch_checks.DAYS_MISSING,
    batch_checks.NEWEST_ROW,
    batch_checks.ROWS_REJECTED,
    batch_checks.FUNDING_GAPS,
    batch_checks.PERIODS_MISSING,
    batch_checks.SYMBOLS_BEHIND,
)
OF_NOW = (HEARTBEAT, FRAMES_ACCEPTED, UP_TO_DATE, "small_files")
"""Checks that warn of how things are at the moment."""
SENSORS = {
    *("bronze_follower", "automation", "stream_health", "run_failures", "run_recoveries"),
    "fear_greed_automation",  # the shipped capture has no answers of other sources
}
SCHEDULES = {
    "ingest_realtime_to_bronze_schedule",
    "bronze_to_silver_1m_hourly",
    "silver_to_gold_daily_daily",
    "event_log_retention_daily",
    *(f"maintenance_{task.value}_schedule" for task in Task),
}


def test_sensors_and_schedules_are_on_in_a_fresh_home(repository: dg.RepositoryDefinition) -> None:
    assert {sensor.name for sensor in repository.sensor_defs} == SENSORS
    for sensor in repository.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert {schedule.name for schedule in repository.schedule_defs} == SCHEDULES
    for schedule in repository.schedule_defs:
        assert "dagster/max_runtime" in repository.get_job(schedule.job_name).run_tags
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        assert schedule.execution_timezone == "UTC"


def test_every_job_that_users_know_has_a_schedule_a_timeout_and_retries(repository: dg.RepositoryDefinition) -> None:
    scheduled = {schedule.job_name for schedule in repository.schedule_defs}
    for name in ("ingest_realtime_to_bronze", "bronze_to_silver_1m", "silver_to_gold_daily"):
        assert name in scheduled
        tags = repository.get_job(name).tags
        assert int(tags["dagster/max_runtime"]) > 0
        assert int(tags["dagster/max_retries"]) > 0


@pytest.mark.parametrize("task", Task)
def test_maintenance_is_scheduled_in_utc_on_in_a_fresh_home_and_ends(
    repository: dg.RepositoryDefinition, task: Task
) -> None:
    schedule = repository.get_schedule_def(f"maintenance_{task.value}_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.execution_timezone == "UTC"
    job = repository.get_job(f"maintenance_{task.value}")
    assert int(job.tags["dagster/max_runtime"]) > 0
    nodes = {node.name: node.definition for node in job.graph.nodes}
    op = nodes.pop(f"maintenance__{task.value}")
    assert isinstance(op, dg.OpDefinition)
    assert op.retry_policy is not None
    assert op.retry_policy.backoff is dg.Backoff.EXPONENTIAL
    with_check = task in (Task.COMPACTION, Task.SNAPSHOTS)
    assert list(nodes) == (["maintenance__compaction_small_files"] if with_check else [])


def test_gate_checks_block_and_every_check_has_its_assets_partitions(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert specs
    for spec in specs:
        of_all_time = spec.name in (HEARTBEAT, FRAMES_ACCEPTED, UP_TO_DATE, DEPENDENCIES)
        warns_only = (
            *(*SILVER_OBSERVATIONS, *BATCH_OBSERVATIONS, MINUTES_WITHOUT_ROW),
            *(*OF_NOW, *WARNING, KLINES_OF_DAY),
        )
        assert spec.blocking == (spec.name not in warns_only)
        assert spec.partitions_def == (None if of_all_time else graph.get(spec.asset_key).partitions_def)


def test_every_asset_says_what_it_is(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.owners, key
        assert node.kinds, key
        assert node.tags["layer"] == node.group_name
        assert node.description, key
        assert node.freshness_policy, key
        if node.group_name == "maintenance":  # which is of all tables
            continue
        assert {"dagster/table_name", "dagster/column_schema"} <= set(node.metadata), key
        if node.group_name != "bronze":  # which is not computed from a table
            assert node.code_version, key
            assert "dagster/column_lineage" in node.metadata


def test_every_table_that_runs_write_has_its_pool(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    named = {pool for key in graph.materializable_asset_keys for pool in graph.get(key).pools or ()}
    assert named == {*(table.writer_pool for table in POOLED_TABLES), ARCHIVE_POOL, MAINTENANCE_POOL}
