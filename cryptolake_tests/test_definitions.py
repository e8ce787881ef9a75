"""The graph loads fast without network and JVM; its sensors and schedules run in a new home."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.instance.pools import ARCHIVE_POOLS, MAINTENANCE_POOL
from cryptolake_assets.ingest.archive_checks import KLINES_OF_DAY, WARNING
from cryptolake_assets.lake.maintenance.tasks import Task
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.tables import POOLED_TABLES
from cryptolake_assets.quality import batch_checks
from cryptolake_assets.quality.bar_checks import (
    DEPENDENCIES,
    FRAMES_ACCEPTED,
    HEARTBEAT,
    LIVE_BARS,
    SILVER_OBSERVATIONS,
    UP_TO_DATE,
)
from cryptolake_assets.quality.book_checks import TOPS_EQUAL
from cryptolake_assets.quality.stream_minute_checks import MINUTES_WITHOUT_ROW
from cryptolake_assets.settings import PROJECT_ROOT, load_settings

# The project's packages that the graph may load; all others are imported inside the functions that need them.
LIGHT = {"dagster", "filelock", "httpx", "msgspec", "pydantic", "pydantic-settings", "pyyaml", "rich", "structlog"}
"""Packages of the project that the graph may load; functions import all others."""
LIGHT_BY_DAGSTER = {"tenacity"}
"""Packages that the light packages load."""
PROBE = """
import importlib.metadata, json, socket, sys, time
def fail(*_): raise AssertionError("a module opened a network connection")
socket.socket.connect = fail
began = time.process_time()
import cryptolake_assets.definitions
seconds = time.process_time() - began
loaded = {name.partition(".")[0] for name in sys.modules}
packages = importlib.metadata.packages_distributions()
print(json.dumps([seconds, sorted({name for module in loaded for name in packages.get(module, ())})]))
"""


def packages_of_the_project() -> set[str]:
    """Return the names of all packages that pyproject.toml requires, including extras."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    return {re.split(r"[\[=<>~! ;]", requirement)[0].lower() for requirement in requirements}


def test_definitions_load_in_under_two_seconds_without_network_jvm_or_heavy_packages() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seconds, names = json.loads(probe.stdout.splitlines()[-1])
    loaded = {name.lower().replace("_", "-") for name in names}
    assert loaded >= LIGHT, "LIGHT lists packages that are no longer loaded"
    assert loaded & packages_of_the_project() - LIGHT - LIGHT_BY_DAGSTER == set()
    assert loaded & {"pandas", "numpy", "py4j", "sqlglot"} == set()
    assert seconds < 2.0


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions().get_repository_def()


def repository_of(*markets: str) -> dg.RepositoryDefinition:
    """Return the graph of a live platform that tracks these markets."""
    settings = load_settings(markets=",".join(markets), source="binance", start_date="2026-01-01")
    return build_definitions(settings).get_repository_def()


def names_of_assets(repository: dg.RepositoryDefinition) -> set[str]:
    return {key.to_user_string() for key in repository.asset_graph.materializable_asset_keys}


@pytest.fixture(scope="module")
def of_both_families() -> dg.RepositoryDefinition:
    return repository_of("usdm", "spot")


SPOT_ASSETS = {
    "bronze/spot_trades",
    "bronze/spot_trades_archive",
    "bronze/spot_klines_1m",
    "silver/spot_ohlcv_1m",
    "gold/spot_daily_stats",
    "bronze/spot_depth_updates",
    "bronze/spot_depth_snapshots",
    "bronze/spot_book_tickers",
    "silver/spot_book_1s",
}


def test_graph_has_the_assets_of_the_tracked_families(of_both_families: dg.RepositoryDefinition) -> None:
    of_futures, of_spot = names_of_assets(repository_of("usdm")), names_of_assets(repository_of("spot"))
    assert names_of_assets(of_both_families) == of_futures | SPOT_ASSETS
    assert of_spot == {name for name in of_futures if "futures" not in name} | SPOT_ASSETS
    assert names_of_assets(repository_of("usdm", "coinm")) == names_of_assets(repository_of("coinm")) == of_futures


def test_spot_has_what_futures_have(of_both_families: dg.RepositoryDefinition) -> None:
    """Both come from the same factories: partitions, upstream assets, checks, automation, freshness and retries."""
    graph = of_both_families.asset_graph

    def described(keys: asset_keys.FamilyKeys, family: Family) -> list[object]:
        found: list[object] = []
        for key in vars(keys).values():
            node = graph.get(key)
            checks = {
                check.name: graph.get_check_spec(check).blocking for check in graph.get_check_keys_for_assets({key})
            }
            parents = {parent.to_user_string().replace(family, "") for parent in node.parent_keys}
            assert node.tags["market_family"] == family
            assert node.pools == ({key.to_user_string().replace("/", "_")} if node.pools else set())
            found.append(
                (
                    node.partitions_def,
                    parents,
                    checks,
                    str(node.automation_condition),
                    node.freshness_policy,
                    node.kinds,
                )
            )
        return found

    assert described(asset_keys.SPOT, Family.SPOT) == described(asset_keys.FUTURES, Family.FUTURES)
    sensors = {sensor.name for sensor in of_both_families.sensor_defs}
    assert {"bronze_follower", "spot_trades_follower", "stream_health"} <= sensors
    jobs = {schedule.name: schedule.job_name for schedule in of_both_families.schedule_defs}
    for job, schedule in (
        ("bronze_to_silver_1m", "bronze_to_silver_1m_hourly"),
        ("silver_to_gold_daily", "silver_to_gold_daily_daily"),
    ):
        assert jobs[schedule] == job
        assert jobs[f"spot_{schedule}"] == f"spot_{job}"
        assert of_both_families.get_job(f"spot_{job}").tags["dagster/max_runtime"] == "1800"


def test_graph_has_the_documented_assets_and_partitions(repository: dg.RepositoryDefinition) -> None:
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
        "bronze/futures_depth_updates",
        "bronze/futures_depth_snapshots",
        "bronze/futures_book_tickers",
        "silver/futures_book_1s",
        *(f"maintenance/{task.value}" for task in Task),
        "maintenance/dagster_event_log",
    }
    hourly = graph.get(asset_keys.FUTURES.bars).partitions_def
    daily = graph.get(asset_keys.FUTURES.daily).partitions_def
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
OF_NOW = (HEARTBEAT, FRAMES_ACCEPTED, UP_TO_DATE, LIVE_BARS, "small_files")
"""Non-blocking checks of the current state."""
SENSORS = {
    *("bronze_follower", "automation", "stream_health", "run_failures", "run_recoveries"),
    "fear_greed_automation",  # the shipped capture has no responses of other sources
}
SCHEDULES = {
    "ingest_realtime_to_bronze_schedule",
    "bronze_to_silver_1m_hourly",
    "silver_to_gold_daily_daily",
    "event_log_retention_daily",
    *(f"maintenance_{task.value}_schedule" for task in Task),
}


def test_sensors_and_schedules_run_by_default(repository: dg.RepositoryDefinition) -> None:
    assert {sensor.name for sensor in repository.sensor_defs} == SENSORS
    for sensor in repository.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert {schedule.name for schedule in repository.schedule_defs} == SCHEDULES
    for schedule in repository.schedule_defs:
        assert "dagster/max_runtime" in repository.get_job(schedule.job_name).run_tags
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        assert schedule.execution_timezone == "UTC"


def test_every_documented_job_has_a_schedule_a_timeout_and_retries(repository: dg.RepositoryDefinition) -> None:
    scheduled = {schedule.job_name for schedule in repository.schedule_defs}
    for name in ("ingest_realtime_to_bronze", "bronze_to_silver_1m", "silver_to_gold_daily"):
        assert name in scheduled
        tags = repository.get_job(name).tags
        assert int(tags["dagster/max_runtime"]) > 0
        assert int(tags["dagster/max_retries"]) > 0


@pytest.mark.parametrize("task", Task)
def test_maintenance_is_scheduled_in_utc_by_default_with_timeout_and_retries(
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


def test_audit_checks_block_and_checks_have_the_partitions_of_their_asset(
    of_both_families: dg.RepositoryDefinition,
) -> None:
    graph = of_both_families.asset_graph
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert specs
    for spec in specs:
        is_unpartitioned = spec.name in (HEARTBEAT, FRAMES_ACCEPTED, UP_TO_DATE, LIVE_BARS, DEPENDENCIES)
        warns_only = (
            *(*SILVER_OBSERVATIONS, *BATCH_OBSERVATIONS, MINUTES_WITHOUT_ROW),
            *(*OF_NOW, *WARNING, KLINES_OF_DAY, TOPS_EQUAL),
        )
        assert spec.blocking == (spec.name not in warns_only)
        assert spec.partitions_def == (None if is_unpartitioned else graph.get(spec.asset_key).partitions_def)


def test_every_asset_has_owner_kind_description_and_freshness(of_both_families: dg.RepositoryDefinition) -> None:
    graph = of_both_families.asset_graph
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.owners, key
        assert node.kinds, key
        assert node.tags["layer"] == node.group_name
        assert node.description, key
        assert node.freshness_policy, key
        if node.group_name == "maintenance":  # an asset of all tables
            continue
        assert {"dagster/table_name", "dagster/column_schema"} <= set(node.metadata), key
        if node.group_name != "bronze":  # Bronze is not computed from a table
            assert node.code_version, key
            assert "dagster/column_lineage" in node.metadata


def test_every_table_written_by_runs_has_a_pool(of_both_families: dg.RepositoryDefinition) -> None:
    graph = of_both_families.asset_graph
    named = {pool for key in graph.materializable_asset_keys for pool in graph.get(key).pools or ()}
    assert named == {*(table.writer_pool for table in POOLED_TABLES), *ARCHIVE_POOLS.values(), MAINTENANCE_POOL}
