"""The graph loads fast, touches neither network nor JVM, and is on in a fresh home."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.lake.tables import POOLED_TABLES, pools
from cryptolake_assets.platform.pools import ensure_pools
from cryptolake_assets.settings import PROJECT_ROOT, load_settings
from cryptolake_assets.transform.checks import SILVER_OBSERVATIONS

HEAVY = ("pyspark", "pyiceberg", "pyarrow", "duckdb", "pandas", "dagster_pyspark", "aiokafka", "aiohttp")
PROBE = f"""
import json, socket, sys, time
def refuse(*_): raise AssertionError("the network was touched")
socket.socket.connect = refuse
began = time.process_time()
import cryptolake_assets.definitions
print(json.dumps([time.process_time() - began, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def test_definitions_load_in_under_two_seconds_without_network_jvm_or_heavy_packages() -> None:
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(answer.stdout.splitlines()[-1])
    assert heavy == []
    assert seconds < 2.0


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions().get_repository_def()


def test_the_assets_and_their_partitions(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == {
        "bronze/futures_trades",
        "silver/futures_ohlcv_1m",
        "gold/futures_daily_stats",
    }
    hourly = graph.get(dg.AssetKey(["silver", "futures_ohlcv_1m"])).partitions_def
    daily = graph.get(dg.AssetKey(["gold", "futures_daily_stats"])).partitions_def
    assert isinstance(hourly, dg.HourlyPartitionsDefinition)
    assert isinstance(daily, dg.DailyPartitionsDefinition)
    assert hourly.get_first_partition_key() == "2024-07-18-00:00"
    assert daily.get_first_partition_key() == "2024-07-18"


@pytest.mark.parametrize("name", ["bronze_follower", "automation"])
def test_sensors_are_on_in_a_fresh_home(repository: dg.RepositoryDefinition, name: str) -> None:
    assert repository.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


def test_every_sensor_and_schedule_is_named_above(repository: dg.RepositoryDefinition) -> None:
    assert {sensor.name for sensor in repository.sensor_defs} == {"bronze_follower", "automation"}
    assert list(repository.schedule_defs) == []


def test_gate_checks_block_and_every_check_has_its_assets_partitions(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert specs
    for spec in specs:
        assert spec.blocking == (spec.name not in SILVER_OBSERVATIONS)
        assert spec.partitions_def == graph.get(spec.asset_key).partitions_def


def test_every_asset_says_what_it_is(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.owners, key
        assert node.kinds, key
        assert node.tags["layer"] == node.group_name
        assert node.description, key
        assert {"dagster/table_name", "dagster/column_schema"} <= set(node.metadata), key
        if node.group_name != "bronze":  # which is not computed from a table
            assert node.code_version, key
            assert "dagster/column_lineage" in node.metadata


def test_every_table_that_runs_write_has_its_pool(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    named = {pool for key in graph.materializable_asset_keys for pool in graph.get(key).pools or ()}
    assert named == {table.writer_pool for table in POOLED_TABLES}


def test_a_pool_blocks_from_its_first_use_on(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    settings.dagster_home.mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "dagster.yaml", settings.dagster_home)
    ensure_pools(settings)
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for pool in pools():
            assert instance.event_log_storage.get_concurrency_info(pool).slot_count == 1
