"""The marts' code location: its assets, its load time, and its entry in the workspace."""

from __future__ import annotations

import json
import subprocess
import sys

import dagster as dg
import pytest

from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.instance.pools import MARTS_POOL
from cryptolake_assets.marts_definitions import build_definitions
from cryptolake_assets.platform import graphql
from cryptolake_assets.platform.code_servers import locations
from cryptolake_assets.settings import load_settings

OVERVIEW = dg.AssetKey(["marts", "market_overview"])
PROBE = """
import json, socket, sys, time
def fail(*_): raise AssertionError("the network was touched")
socket.socket.connect = fail
began = time.process_time()
import cryptolake_assets.marts_definitions
print(json.dumps([time.process_time() - began, [n for n in ("pyspark", "pyiceberg", "duckdb") if n in sys.modules]]))
"""
BUDGET_S = 6.0
"""CPU seconds; dagster-dbt imports dbt, which imports many of its modules at once."""


def test_location_loads_within_its_budget_without_network_or_spark() -> None:
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seconds, heavy_modules = json.loads(result.stdout.splitlines()[-1])
    assert heavy_modules == []
    assert seconds < BUDGET_S


def test_workspace_names_both_locations() -> None:
    assert {location.name: location.module for location in locations()} == {
        graphql.LOCATION: "cryptolake_assets.definitions",
        graphql.MARTS_LOCATION: "cryptolake_assets.marts_definitions",
    }
    assert graphql.location_of(["marts", "ohlcv_5m"]) == graphql.MARTS_LOCATION
    assert graphql.location_of(["silver", "futures_ohlcv_1m"]) == graphql.LOCATION


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions().get_repository_def()


def test_every_mart_has_complete_metadata(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    bars = {f"marts/ohlcv_{timeframe}" for timeframe in ("5m", "15m", "1h", "4h", "1d")}
    others = {
        "marts/daily_returns",
        "marts/volume_profile_hourly",
        "marts/market_overview",
        "marts/sentiment_vs_market",
    }
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == bars | others
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.group_name == node.tags["layer"] == "marts"
        assert {"dbt", "spark", "iceberg"} <= node.kinds
        assert node.owners
        assert node.description
        assert node.code_version
        assert node.pools == {MARTS_POOL}
        assert {"dagster/table_name", "dagster/column_schema", "dagster/column_lineage"} <= set(node.metadata)
        assert (node.partitions_def is None) == (key == OVERVIEW)
        assert key == OVERVIEW or node.backfill_policy == dg.BackfillPolicy.single_run()


def test_marts_are_downstream_of_silver_and_gold(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    assert graph.get(dg.AssetKey(["marts", "ohlcv_1h"])).parent_keys == {
        asset_keys.FUTURES.bars,
        asset_keys.FUTURES.daily,
    }
    assert graph.get(dg.AssetKey(["marts", "daily_returns"])).parent_keys == {asset_keys.FUTURES.daily}
    parents = {
        asset_keys.FUTURES.daily,
        dg.AssetKey(["silver", "fear_greed_daily"]),
        dg.AssetKey(["silver", "coingecko_global"]),
    }
    assert graph.get(dg.AssetKey(["marts", "sentiment_vs_market"])).parent_keys == parents
    assert graph.get(OVERVIEW).parent_keys == {asset_keys.FUTURES.bars}


@pytest.mark.parametrize(
    ("markets", "families"),
    [
        ("usdm,spot", [asset_keys.FUTURES, asset_keys.SPOT]),
        ("spot", [asset_keys.SPOT]),
        ("coinm", [asset_keys.FUTURES]),
    ],
)
def test_marts_follow_the_tracked_families(markets: str, families: list[asset_keys.FamilyKeys]) -> None:
    settings = load_settings(markets=markets, source="binance")
    graph = build_definitions(settings).get_repository_def().asset_graph
    bars, daily = {keys.bars for keys in families}, {keys.daily for keys in families}
    assert graph.get(OVERVIEW).parent_keys == bars
    assert graph.get(dg.AssetKey(["marts", "ohlcv_1h"])).parent_keys == bars | daily
    assert graph.get(dg.AssetKey(["marts", "daily_returns"])).parent_keys == daily
    lineage = graph.get(OVERVIEW).metadata["dagster/column_lineage"].deps_by_column
    assert [(dep.asset_key, dep.column_name) for dep in lineage["exchange"]] == [
        (keys.bars, "exchange") for keys in families
    ]
    untracked = {key for keys in (asset_keys.FUTURES, asset_keys.SPOT) for key in vars(keys).values()}
    assert not graph.get_all_asset_keys() & (untracked - bars - daily)


def test_dbt_tests_are_blocking_checks(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for key in graph.materializable_asset_keys:
        blocking = {
            check.name: graph.get_check_spec(check).blocking for check in graph.get_check_keys_for_assets({key})
        }
        assert sum(name.startswith("unique_rows_") for name in blocking) == 1, key
        assert len(blocking) >= 3, key
        assert blocking == dict.fromkeys(blocking, True), key


def test_automation_runs_by_default(repository: dg.RepositoryDefinition) -> None:
    (sensor,) = repository.sensor_defs
    assert sensor.name == "marts_automation"
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
