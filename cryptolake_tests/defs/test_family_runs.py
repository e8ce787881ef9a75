"""The graph of a platform that tracks USD-M futures and Spot: each family has its own runs, cursors and health."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from cryptolake_assets.bronze.stream_health import StreamSignals
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys, silver
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.health import evaluate
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.files import read_text
from cryptolake_assets.model.markets import Family
from cryptolake_assets.quality.bar_checks import HEARTBEAT
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.run_requests import followed_by_runs

HOUR = datetime(2024, 11, 2, 22, tzinfo=UTC)
LATER = HOUR + timedelta(hours=1)


@pytest.fixture
def settings(lake: Settings) -> Settings:
    """Live settings of both markets; the exchange is unreachable."""
    unset = lake.model_dump(exclude_unset=True)
    changed = {"markets": "usdm,spot", "source": "binance", "exchange_rest_url": "http://127.0.0.1:1"}
    return load_settings(**unset | changed | {"start_date": "2024-11-01", "end_date": "2024-11-03"})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def put(settings: Settings, family: Family, hour: datetime, price: str) -> None:
    """Append a trade of BTCUSDT, which both markets list."""
    of_family = settings.of_family(family)
    append(of_family, [trade(hour, 1, price, exchange=of_family.venue.exchange)])


def test_each_follower_requests_the_hours_of_its_family(settings: Settings, instance: dg.DagsterInstance) -> None:
    put(settings, Family.FUTURES, HOUR, "100")
    put(settings, Family.SPOT, LATER, "200")
    found = {}
    for family in Family:
        context = dg.build_sensor_context(instance, cursor=None)
        result = tick(context, Graph.of(settings), followed_by_runs(family))
        assert isinstance(result, dg.SensorResult)
        (request,), (event,) = result.run_requests or (), result.asset_events
        assert isinstance(event, dg.AssetMaterialization)
        found[family] = request.asset_selection, request.partition_key, event.asset_key, event.partition
        followed = silver.followed(family).stream.follower_location(settings)
        assert read_text(settings, followed) == result.cursor
    assert found == {
        family: ([keys.bars], hour_key(hour), keys.trades, hour_key(hour))
        for (family, keys), hour in zip(FAMILY_KEYS.items(), (HOUR, LATER), strict=True)
    }


def test_spot_run_writes_spot_bars_and_requests_only_spot_assets(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    definitions = build_definitions(settings)
    cursor = dg.evaluate_automation_conditions(definitions, instance).cursor
    for family, price in ((Family.FUTURES, "100"), (Family.SPOT, "200")):
        put(settings, family, HOUR, price)
    job = definitions.resolve_job_def("spot_bronze_to_silver_1m")
    result = job.execute_in_process(instance=instance, partition_key=hour_key(HOUR), raise_on_error=False)
    assert all(event.passed for event in result.get_asset_check_evaluations() if event.blocking)
    (bar,) = bars(settings.of_family(Family.SPOT), HOUR).values()
    assert (bar["exchange"], bar["symbol"], str(bar["close"])) == ("binance_spot", "BTCUSDT", "200.00000000")
    assert bars(settings.of_family(Family.FUTURES), HOUR) == {}
    evaluated = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
    keys = asset_keys.SPOT
    assert {one.key for one in evaluated.results if one.true_subset.size} == {keys.klines, keys.daily}


def test_stalled_query_of_a_family_fails_its_heartbeat_and_requests_one_restart(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    graph, now = Graph.of(settings), time.time()
    cursor: str | None = None
    heartbeats: dict[dg.AssetKey, bool] = {}
    requests: list[dg.RunRequest] = []
    for number in range(4):
        well = StreamSignals("futures_trades", "running", report_age_s=1.0, committed=100 + number, lag=1)
        stalled = StreamSignals("spot_trades", "running", report_age_s=1.0, committed=100, lag=5)
        context = dg.build_sensor_context(instance, cursor=cursor)
        signals = {Family.FUTURES: well, Family.SPOT: stalled}
        result = evaluate(context, graph, signals, now + number * 0.6 * settings.stream_stall_s)
        if isinstance(result, dg.SkipReason):
            cursor = context.cursor
            continue
        cursor = result.cursor
        requests += result.run_requests or ()
        for event in result.asset_events:
            if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == HEARTBEAT:
                heartbeats[event.asset_key] = event.passed
    assert heartbeats == {asset_keys.FUTURES.trades: True, asset_keys.SPOT.trades: False}
    (request,) = requests
    assert "spot_trades: no progress while Kafka holds 5 more records" in str(request.run_config)
