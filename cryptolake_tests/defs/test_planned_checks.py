"""Every planned check of a run is evaluated, for each partition of the run."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.partitions import GraphPartitions, hour_key
from cryptolake_assets.quality.bar_checks import (
    DEPENDENCIES,
    LIVE_BARS,
    PUBLISHED_COUNT,
    SILVER_CHECKS,
    SILVER_OBSERVATIONS,
    UP_TO_DATE,
)
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

FIRST = datetime(2024, 11, 2, 22, tzinfo=UTC)
HOURS = [FIRST + timedelta(hours=number) for number in range(4)]
KEYS = {hour_key(hour) for hour in HOURS}
OF_SILVER = {*SILVER_CHECKS, *SILVER_OBSERVATIONS, PUBLISHED_COUNT, UP_TO_DATE, LIVE_BARS}


@pytest.fixture
def settings(lake: Settings) -> Settings:
    """The lake's settings; the exchange is unreachable."""
    return lake.model_copy(update={"exchange_port": 1})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def run_silver(settings: Settings, instance: dg.DagsterInstance, **selected: Any) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, asset_selection=[asset_keys.FUTURES.bars], raise_on_error=False, **selected
    )


def of_range(first: datetime, last: datetime) -> dict[str, str]:
    """Return the tags of a backfill run of a range of hours."""
    return {
        "dagster/asset_partition_range_start": hour_key(first),
        "dagster/asset_partition_range_end": hour_key(last),
    }


def statuses(settings: Settings, instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str | None], str]:
    """Return the status in Dagster's storage of every check of the run, by name and partition."""
    graph = build_definitions(settings).resolve_asset_graph()
    records = [
        record
        for key in graph.asset_check_keys
        for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=1_000)
        if record.run_id == run_id
    ]
    return {(record.key.name, record.partition): record.status.value for record in records}


def test_range_run_evaluates_every_planned_check_of_every_hour(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(settings, [trade(hour + timedelta(minutes=minute), minute) for hour in HOURS for minute in (1, 30)])
    result = run_silver(settings, instance, tags=of_range(HOURS[0], HOURS[-1]))
    assert result.success
    found = statuses(settings, instance, result.run_id)
    assert set(found) == {(name, key) for name in OF_SILVER for key in KEYS}
    assert "PLANNED" not in found.values()
    assert {found[PUBLISHED_COUNT, key] for key in KEYS} == {"SUCCEEDED"}


def test_range_run_with_a_rejected_hour_evaluates_every_planned_check(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    bad = HOURS[1]
    append(settings, [trade(hour, number) for number, hour in enumerate(HOURS)])
    append(settings, [trade(bad + timedelta(minutes=40), 900 + number, price="-1") for number in range(5)])
    result = run_silver(settings, instance, tags=of_range(HOURS[0], HOURS[-1]))
    assert not result.success
    found = statuses(settings, instance, result.run_id)
    assert set(found) == {(name, key) for name in OF_SILVER for key in KEYS}
    assert "PLANNED" not in found.values()
    assert found[PUBLISHED_COUNT, hour_key(bad)] == "FAILED", "Bronze has a valid trade without a published bar"
    assert found[PUBLISHED_COUNT, hour_key(HOURS[0])] == "SUCCEEDED"


@pytest.mark.parametrize("price", ["100.5", "-1"])
def test_manual_run_of_an_hour_evaluates_every_planned_check(
    settings: Settings, instance: dg.DagsterInstance, price: str
) -> None:
    append(settings, [trade(FIRST, 1, price=price)])
    result = run_silver(settings, instance, partition_key=hour_key(FIRST))
    assert result.success == (price != "-1")
    found = statuses(settings, instance, result.run_id)
    assert set(found) >= {(name, hour_key(FIRST)) for name in OF_SILVER}
    assert "PLANNED" not in found.values()


def test_unpartitioned_check_of_the_job_completes_its_plan(settings: Settings, instance: dg.DagsterInstance) -> None:
    append(settings, [trade(FIRST, 1)])
    job = build_definitions(settings).resolve_job_def("bronze_to_silver_1m")
    result = job.execute_in_process(instance=instance, partition_key=hour_key(FIRST), raise_on_error=False)
    found = statuses(settings, instance, result.run_id)
    assert found[DEPENDENCIES, hour_key(FIRST)] == found[DEPENDENCIES, None] != "PLANNED"


def test_unpartitioned_check_is_evaluated_for_each_day_of_a_range(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    key = dg.AssetKey("table")
    spec = dg.AssetCheckSpec("tests", asset=key)

    daily, at_once = GraphPartitions.of(settings).daily, dg.BackfillPolicy.single_run()

    @dg.asset(key=key, partitions_def=daily, backfill_policy=at_once, check_specs=[spec])
    def table(context: dg.AssetExecutionContext) -> Iterator[Any]:
        warning = dg.AssetCheckSeverity.WARN
        result = dg.AssetCheckResult(asset_key=key, check_name="tests", passed=False, severity=warning)
        yield dg.MaterializeResult(check_results=[result])
        yield from checks.of_partitions(result, checks.planned(context))

    days = ("2024-11-02", "2024-11-03")
    tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[1]}
    assert dg.materialize([table], instance=instance, tags=tags).success
    records = instance.event_log_storage.get_asset_check_execution_history(spec.key, limit=10)
    found = {record.partition: record.status.value for record in records}
    assert found == dict.fromkeys((*days, None), "FAILED")
