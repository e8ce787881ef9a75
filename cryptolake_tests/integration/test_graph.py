"""The graph on the real Spark server and catalog: the follower requests changed hours, the gate blocks failed ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.bronze.offsets import committed_offsets, lag
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys, silver
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.defs.resources import StreamResource
from cryptolake_assets.kafka.topics import end_offsets
from cryptolake_assets.lake.bronze_files import current_sequence
from cryptolake_assets.lake.bronze_follower import RETRY_FIRST_S, FollowerState
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.quality.bar_checks import SILVER_CHECKS
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.reference import reference_bars
from cryptolake_tests.support.run_requests import followed_by_runs, run_silver_request

HOUR = datetime(2024, 10, 5, 10, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def run_asset(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str, **more: Any) -> dg.ExecuteInProcessResult:
    """Run one partition as the daemon does."""
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, asset_selection=[key], partition_key=partition, raise_on_error=False, **more
    )


def run_request(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return run_silver_request(job, instance, request, raise_on_error=False)


def evaluate(
    instance: dg.DagsterInstance,
    settings: Settings,
    cursor: str | None,
    *,
    in_tick: bool = False,
    now: float | None = None,
) -> dg.SensorResult | dg.SkipReason:
    """Run a tick of the follower; `in_tick`: it executes small runs itself."""
    followed = silver.followed(Family.FUTURES) if in_tick else followed_by_runs(Family.FUTURES)
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=build_definitions())
    return tick(context, Graph.of(settings), followed, now)


def cursor_at_head(settings: Settings) -> str:
    """Return the cursor of a follower that has read everything, including archive days."""
    seen = datetime.now(UTC).isoformat()
    return FollowerState(sequence=current_sequence(load_table(settings, FUTURES.trades)), archive=seen).to_cursor()


def test_follower_requests_only_changed_hours_despite_trades_out_of_range(
    settings: Settings, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    cursor = cursor_at_head(settings)
    valid = [trade(HOUR + timedelta(hours=number), 10 + number) for number in (0, 1)]
    out_of_range = [trade(datetime(2099, 1, 1, tzinfo=UTC), 8_000), trade(datetime(2019, 1, 1, tzinfo=UTC), 8_001)]
    sequence = append(settings, [*valid, *out_of_range])
    with caplog.at_level(logging.WARNING):
        result = evaluate(instance, settings, cursor)
    assert isinstance(result, dg.SensorResult)
    assert result.run_requests is not None
    assert {request.partition_key for request in result.run_requests} == {
        hour_key(HOUR),
        hour_key(HOUR + timedelta(hours=1)),
    }
    assert {(event.asset_key, event.partition) for event in result.asset_events} == {
        (asset_keys.FUTURES.trades, hour_key(HOUR)),
        (asset_keys.FUTURES.trades, hour_key(HOUR + timedelta(hours=1))),
    }
    for request in result.run_requests:
        assert (
            request.run_config["ops"][asset_keys.FUTURES.bars.to_python_identifier()]["config"]["from_sequence"]
            == sequence
        )
        assert run_request(instance, request).success
    assert bars(settings, HOUR, hours=2).keys() == reference_bars(valid).keys()
    quarantined = run_sql(
        settings,
        "SELECT trade_id FROM cryptolake.silver.futures_trades_quarantine WHERE trade_id IN (8000, 8001)",
    )
    assert quarantined.num_rows == 2
    after = evaluate(instance, settings, result.cursor)
    assert isinstance(after, dg.SkipReason)
    assert "0 hours pending" in str(after.skip_message)


def test_hour_that_fails_its_gate_stays_pending_until_it_passes(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    hour = HOUR + timedelta(days=1)
    good = [trade(hour + timedelta(seconds=number), number) for number in range(20)]
    append(settings, good)
    assert run_asset(instance, asset_keys.FUTURES.bars, hour_key(hour)).success
    published = bars(settings, hour)

    cursor = cursor_at_head(settings)
    bad = [trade(hour + timedelta(seconds=number), 100 + number, price="-1") for number in range(15)]
    other_hour = hour + timedelta(hours=2)
    append(settings, [*bad, trade(other_hour, 200)])
    first = evaluate(instance, settings, cursor)
    assert isinstance(first, dg.SensorResult)
    outcomes = {request.partition_key: run_request(instance, request) for request in first.run_requests or []}
    failed = outcomes[hour_key(hour)]
    assert not failed.success
    assert outcomes[hour_key(other_hour)].success
    evaluations = {event.check_name: event for event in failed.get_asset_check_evaluations()}
    assert not evaluations["drop_ratio"].passed
    assert evaluations["unique_key"].passed
    assert failed.asset_materializations_for_node(asset_keys.FUTURES.bars.to_python_identifier()) == []
    assert bars(settings, hour) == published

    # More valid trades bring the drop ratio below the limit: the hour is requested again from its first failure on.
    more = [trade(hour + timedelta(seconds=number), 300 + number) for number in range(400)]
    append(settings, more)
    second = evaluate(instance, settings, first.cursor)
    assert isinstance(second, dg.SensorResult)
    (request,) = second.run_requests or []
    assert request.partition_key == hour_key(hour)
    assert run_request(instance, request).success
    expected = reference_bars(good + more)
    got = bars(settings, hour)
    assert {key: got[key]["trades"] for key in got} == {key: bar["trades"] for key, bar in expected.items()}


def test_tick_runs_the_newest_hours_itself(settings: Settings, instance: dg.DagsterInstance) -> None:
    hour = HOUR + timedelta(days=20)
    trades = [trade(hour + timedelta(minutes=59), 1), trade(hour + timedelta(minutes=60), 2)]
    cursor = cursor_at_head(settings)
    append(settings, [*trades, trade(hour - timedelta(hours=5), 3)])
    result = evaluate(instance, settings, cursor, in_tick=True)
    assert isinstance(result, dg.SensorResult)
    (older,) = result.run_requests or []
    assert older.partition_key == hour_key(hour - timedelta(hours=5)), "an older hour gets a process of its own"
    assert bars(settings, hour, hours=2).keys() == reference_bars(trades).keys()
    runs = {run.tags["dagster/partition"]: run for run in instance.get_runs()}
    assert runs.keys() == {hour_key(hour), hour_key(hour + timedelta(hours=1))}
    assert all(run.is_success for run in runs.values())
    evaluated = {
        (evaluation.check_name, evaluation.passed)
        for record in instance.get_records_for_run(
            runs[hour_key(hour)].run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ).records
        if (event := record.event_log_entry.dagster_event) is not None
        for evaluation in (event.asset_check_evaluation_data,)
    }
    assert {name for name, _ in evaluated} == {key.name for key in silver.check_keys(Family.FUTURES)}
    assert {(name, True) for name in SILVER_CHECKS} <= evaluated
    assert isinstance(evaluate(instance, settings, result.cursor, in_tick=True), dg.SkipReason)


def test_run_that_fails_in_a_tick_keeps_the_bars_and_is_requested_again(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    hour = HOUR + timedelta(days=22)
    cursor = cursor_at_head(settings)
    append(settings, [trade(hour + timedelta(seconds=number), number, price="-1") for number in range(15)])
    first = evaluate(instance, settings, cursor, in_tick=True)
    assert isinstance(first, dg.SensorResult)
    assert not first.run_requests
    (failed,) = instance.get_runs()
    assert failed.is_failure
    assert bars(settings, hour) == {}
    second = evaluate(instance, settings, first.cursor, in_tick=True, now=time.time() + RETRY_FIRST_S + 1)
    assert isinstance(second, dg.SensorResult)
    (request,) = second.run_requests or []
    assert request.partition_key == hour_key(hour)
    assert not run_request(instance, request).success


def test_late_trade_updates_its_minute_and_its_day(settings: Settings, instance: dg.DagsterInstance) -> None:
    hour = HOUR + timedelta(days=10)
    two_days_later = hour + timedelta(days=2)
    days = hour.date().isoformat(), two_days_later.date().isoformat()
    on_time = [trade(hour, 1, price="100"), trade(hour + timedelta(minutes=1), 2, price="101")]
    start = cursor_at_head(settings)
    append(settings, [*on_time, trade(two_days_later, 3, price="102")])
    cursor, automation = follow(instance, settings, start, None, expected_days=days)
    silver_before, gold_before = bars(settings, hour, hours=49), daily(settings, *days)

    late = trade(hour + timedelta(seconds=30), 4, price="250")
    append(settings, [late])
    _, automation = follow(instance, settings, cursor, automation, expected_days=days[:1])
    settled = dg.evaluate_automation_conditions(build_definitions(), instance, cursor=automation)
    assert settled.total_requested == 0
    silver_after, gold_after = bars(settings, hour, hours=49), daily(settings, *days)
    minute = ("binance_futures", "BTCUSDT", hour)
    assert silver_after[minute]["high"] == gold_after[days[0]]["high"] == 250
    assert silver_after[minute]["updated_at"] > silver_before[minute]["updated_at"]
    assert gold_after[days[0]]["updated_at"] > gold_before[days[0]]["updated_at"]
    del silver_after[minute], silver_before[minute], gold_after[days[0]], gold_before[days[0]]
    assert (silver_after, gold_after) == (silver_before, gold_before)


def follow(
    instance: dg.DagsterInstance,
    settings: Settings,
    cursor: str | None,
    automation: dg.AutomationConditionCursor | None,
    expected_days: tuple[str, ...],
) -> tuple[str | None, dg.AutomationConditionCursor]:
    """Run one tick of the follower and of the automation with their requested runs; return the new cursors."""
    definitions = build_definitions()
    if automation is None:
        automation = dg.evaluate_automation_conditions(definitions, instance).cursor
    ticked = evaluate(instance, settings, cursor, in_tick=True)
    assert isinstance(ticked, dg.SensorResult)
    for request in ticked.run_requests or []:
        assert run_request(instance, request).success
    evaluated = dg.evaluate_automation_conditions(definitions, instance, cursor=automation)
    assert evaluated.get_requested_partitions(asset_keys.FUTURES.daily) == set(expected_days)
    for day in expected_days:
        assert run_asset(instance, asset_keys.FUTURES.daily, day).success
    return ticked.cursor, evaluated.cursor


def daily(settings: Settings, *days: str) -> dict[str, dict[str, Any]]:
    """Return BTCUSDT's rows of Gold by day."""
    rows = run_sql(settings, "SELECT * FROM cryptolake.gold.futures_daily_stats WHERE symbol = 'BTCUSDT'").to_pylist()
    return {str(row["trade_date"]): row for row in rows if str(row["trade_date"]) in days}


def test_manual_bronze_run_ingests_kafka_and_counts_the_hour(settings: Settings, instance: dg.DagsterInstance) -> None:
    result = run_asset(instance, asset_keys.FUTURES.trades, hour_key(HOUR))
    assert result.success
    (materialization,) = result.asset_materializations_for_node(asset_keys.FUTURES.trades.to_python_identifier())
    counted = run_sql(
        settings,
        "SELECT count(*) AS n FROM cryptolake.bronze.futures_trades "
        f"WHERE date_trunc('hour', event_time) = '{HOUR.isoformat()}'",
    ).to_pylist()[0]["n"]
    assert materialization.metadata["dagster/row_count"].value == counted
    assert materialization.metadata["lag"].value == 0
    assert lag(end_offsets(settings, settings.kafka_topic_futures), committed_offsets(settings)) == 0
    status = StreamResource(settings=settings).status()
    assert (status["state"], status["pid"], status["lag"]) == ("stopped", None, 0)


def test_manual_gold_run_materializes_the_day(settings: Settings, instance: dg.DagsterInstance) -> None:
    hour = HOUR + timedelta(days=2)
    append(settings, [trade(hour + timedelta(minutes=number), number) for number in range(5)])
    assert run_asset(instance, asset_keys.FUTURES.bars, hour_key(hour)).success
    assert run_asset(instance, asset_keys.FUTURES.daily, hour.date().isoformat()).success
    rows = run_sql(settings, f"SELECT * FROM cryptolake.gold.futures_daily_stats WHERE trade_date = '{hour.date()}'")
    assert rows.to_pylist()[0]["minutes_with_trades"] == 5
