"""A backfill run of many hours: each hour has its own event and checks, and a failed one does not block others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.quality.bar_checks import (
    LIVE_BARS,
    PUBLISHED_COUNT,
    SILVER_CHECKS,
    SILVER_OBSERVATIONS,
    UP_TO_DATE,
)
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.reference import reference_bars

FIRST = datetime(2024, 11, 2, 22, tzinfo=UTC)
HOURS = [FIRST + timedelta(hours=number) for number in range(4)]
BAD = HOURS[2]


def run_range(instance: dg.DagsterInstance, first: datetime, last: datetime) -> dg.ExecuteInProcessResult:
    """Run a range of partitions as the daemon does for a backfill."""
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[asset_keys.FUTURES.bars],
        tags={
            "dagster/asset_partition_range_start": hour_key(first),
            "dagster/asset_partition_range_end": hour_key(last),
        },
        raise_on_error=False,
    )


def test_run_of_many_hours_publishes_every_hour_that_passes(settings: Settings) -> None:
    good = [
        trade(hour + timedelta(minutes=minute), 60 * n + minute) for n, hour in enumerate(HOURS) for minute in (1, 30)
    ]
    invalid = [trade(BAD + timedelta(minutes=40), 900 + number, price="-1") for number in range(5)]
    append(settings, [*good, *invalid])
    before = len(load_table(settings, FUTURES.bars).snapshots())
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_range(instance, HOURS[0], HOURS[-1])
        materialized = instance.get_materialized_partitions(asset_keys.FUTURES.bars)
    assert not result.success
    passed = {hour_key(hour) for hour in HOURS if hour != BAD}
    assert materialized == passed
    evaluations = result.get_asset_check_evaluations()
    assert {(event.check_name, event.partition) for event in evaluations} == {
        (name, hour_key(hour))
        for name in (*SILVER_CHECKS, *SILVER_OBSERVATIONS, PUBLISHED_COUNT, UP_TO_DATE, LIVE_BARS)
        for hour in HOURS
    }
    assert {event.partition for event in evaluations if event.blocking and not event.passed} == {hour_key(BAD)}

    expected = reference_bars([item for item in good if not BAD <= item["event_time"] < BAD + timedelta(hours=1)])
    assert set(bars(settings, FIRST, hours=len(HOURS))) == set(expected)
    assert len(load_table(settings, FUTURES.bars).snapshots()) - before == 2, "one commit for each of the two days"
    (failure,) = result.get_step_failure_events()
    assert hour_key(BAD) in str(failure.step_failure_data.user_failure_data)


def test_range_of_one_hour_is_materialized(settings: Settings) -> None:
    hour = FIRST + timedelta(days=2)
    append(settings, [trade(hour, 5_000)])
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_range(instance, hour, hour)
    assert result.success
    assert {event.partition for event in result.get_asset_check_evaluations()} == {hour_key(hour)}
    assert len(bars(settings, hour)) == 1
