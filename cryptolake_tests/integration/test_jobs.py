"""The documented jobs on the real broker, Spark and catalog, each run entirely in an ephemeral instance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from cryptolake_assets.bronze.offsets import bronze_lag, committed_offsets
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys, jobs
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.defs.resources import StreamResource
from cryptolake_assets.kafka.topics import end_offsets
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import keys_of, publish, read_window
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.lake.stream_checkpoints import checkpoint_lock
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.quality.bar_checks import DEPENDENCIES, PUBLISHED_COUNT
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.published_count import check_published
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.records import event, send
from cryptolake_tests.support.reference import reference_bars

HOUR = datetime(2024, 12, 12, 10, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def run_job(instance: dg.DagsterInstance, name: str, **more: Any) -> dg.ExecuteInProcessResult:
    job = build_definitions().resolve_job_def(name)
    return job.execute_in_process(instance=instance, raise_on_error=False, **more)


def run_silver(instance: dg.DagsterInstance, hour: datetime, **config: Any) -> dg.ExecuteInProcessResult:
    return run_job(
        instance,
        "bronze_to_silver_1m",
        partition_key=hour_key(hour),
        run_config={"ops": {asset_keys.FUTURES.bars.to_python_identifier(): {"config": config}}} if config else None,
    )


def check_results(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {event.check_name: event.passed for event in result.get_asset_check_evaluations()}


def test_silver_job_runs_its_dependency_checks_first_and_the_count_last(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    trades = [trade(HOUR + timedelta(seconds=30 * number), number) for number in range(60)]
    append(settings, [*trades, *trades[:7], trade(HOUR, 900, price="-1")])
    result = run_silver(instance, HOUR)
    assert result.success
    outcomes = check_results(result)
    assert outcomes[DEPENDENCIES]
    assert outcomes[PUBLISHED_COUNT]
    order = [event.step_key for event in result.all_events if event.is_step_success]
    assert order.index("bronze__futures_trades_dependencies") < order.index(
        asset_keys.FUTURES.bars.to_python_identifier()
    )
    got = bars(settings, HOUR)
    assert {key: bar["trades"] for key, bar in got.items()} == {
        key: bar["trades"] for key, bar in reference_bars(trades).items()
    }


def test_published_bars_that_differ_from_bronze_are_detected(settings: Settings, instance: dg.DagsterInstance) -> None:
    hour = HOUR + timedelta(days=1)
    append(settings, [trade(hour + timedelta(minutes=number), number) for number in range(10)])
    assert run_silver(instance, hour).success
    table = load_table(settings, FUTURES.bars)
    present = read_window(table, silver_day(hour))
    (position,) = [n for n, start in enumerate(present["window_start"].to_pylist()) if start.minute == 3]
    changed = present.slice(position, 1)
    column = changed.schema.get_field_index("trades")
    changed = changed.set_column(column, changed.schema.field(column), pa.array([5], pa.int64()))
    publish(table, FUTURES.bars, silver_day(hour), changed, keys_of(FUTURES.bars, changed), {})

    outcome = check_published(settings, hour)
    assert not outcome.passed
    assert "9 of 10 minutes" in outcome.description
    assert "14 trades" in outcome.description
    minute = f"{hour + timedelta(minutes=3):%Y-%m-%d %H:%M}"
    assert outcome.failing_rows == [
        {
            "exchange": "binance_futures",
            "symbol": "BTCUSDT",
            "window_start": minute,
            "trades in Silver": "5",
            "trades in Bronze": "1",
        }
    ]


@pytest.mark.parametrize("engine", ["duckdb", "spark"])
def test_silver_job_accepts_symbols_window_and_engine(
    settings: Settings, instance: dg.DagsterInstance, engine: str
) -> None:
    hour = HOUR + timedelta(days=2 if engine == "duckdb" else 3)
    number = {"BTCUSDT": 0, "ETHUSDT": 1_000}
    trades = [
        trade(hour + timedelta(minutes=minute), first + minute, symbol=symbol)
        for symbol, first in number.items()
        for minute in range(30)
    ]
    append(settings, trades)
    result = run_silver(
        instance,
        hour,
        symbols=["ethusdt"],
        window_start=(hour + timedelta(minutes=5)).isoformat(),
        window_end=(hour + timedelta(minutes=8)).isoformat(),
        engine=engine,
    )
    (materialization,) = result.asset_materializations_for_node(asset_keys.FUTURES.bars.to_python_identifier())
    assert materialization.metadata["engine"].value == engine
    assert set(bars(settings, hour)) == {
        ("binance_futures", "ETHUSDT", hour + timedelta(minutes=minute)) for minute in (5, 6, 7)
    }
    assert not check_results(result)[PUBLISHED_COUNT], "the count check reports the missing rest of the hour"
    assert not result.success
    assert run_silver(instance, hour).success
    assert len(bars(settings, hour)) == 60


def test_invalid_window_is_rejected(settings: Settings, instance: dg.DagsterInstance) -> None:
    result = run_silver(instance, HOUR, window_start="noon")
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert "window_start" in str(failure.step_failure_data.error)
    assert result.asset_materializations_for_node(asset_keys.FUTURES.bars.to_python_identifier()) == []


async def test_job_ingests_kafka_while_the_stream_is_stopped(settings: Settings, instance: dg.DagsterInstance) -> None:
    await send(settings, *((settings.kafka_topic_futures, event(number), []) for number in range(5_000, 5_003)))
    assert bronze_lag(settings) > 0
    result = run_job(instance, "ingest_realtime_to_bronze")
    assert result.success
    assert committed_offsets(settings) == end_offsets(settings, settings.kafka_topic_futures)
    observed = instance.fetch_observations(asset_keys.FUTURES.trades, limit=1).records[0].asset_observation
    assert observed is not None
    assert observed.metadata["caught_up_by"].value == "available-now"
    assert run_job(instance, "ingest_realtime_to_bronze").success


def test_catch_up_is_requested_only_while_the_stream_is_stopped(settings: Settings) -> None:
    schedule = build_definitions().resolve_schedule_def("ingest_realtime_to_bronze_schedule")
    repository = build_definitions().get_repository_def()
    resources = {"stream": StreamResource(settings=settings)}

    def ticked() -> tuple[int, str | None]:
        with dg.build_schedule_context(repository_def=repository, resources=resources) as context:
            tick = schedule.evaluate_tick(context)
        return len(tick.run_requests or []), tick.skip_message

    assert ticked() == (1, None)
    with checkpoint_lock(settings):
        assert ticked() == (0, "the stream runs")


def test_schedules_request_the_last_closed_partition_by_exchange_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = datetime(2024, 7, 19, 0, 1, 10, tzinfo=UTC)
    monkeypatch.setattr(
        "cryptolake_assets.binance.exchange_clock.exchange_clock_ms", lambda _: round(clock.timestamp() * 1000)
    )
    definitions = build_definitions()
    for name, partition in (
        ("bronze_to_silver_1m_hourly", "2024-07-18-23:00"),
        ("silver_to_gold_daily_daily", "2024-07-18"),
    ):
        schedule = definitions.resolve_schedule_def(name)
        context = dg.build_schedule_context(
            scheduled_execution_time=datetime(2026, 3, 1, 0, 5, tzinfo=UTC),
            repository_def=definitions.get_repository_def(),
        )
        ticked = schedule.evaluate_tick(context)
        assert [request.partition_key for request in ticked.run_requests or []] == [partition]


def test_partition_is_closed_once_the_watermark_has_passed_its_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    monkeypatch.setattr("cryptolake_assets.binance.exchange_clock.exchange_clock_ms", lambda _: None)
    grace = timedelta(milliseconds=settings.watermark_grace_ms)
    hour = timedelta(hours=1)
    assert jobs.last_closed(settings, hour, midnight + grace / 2) == midnight - 2 * hour
    assert jobs.last_closed(settings, hour, midnight + grace) == midnight - hour
    assert jobs.last_closed(settings, 24 * hour, midnight + grace) == midnight - 24 * hour
