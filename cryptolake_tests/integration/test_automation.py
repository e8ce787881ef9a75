"""Runs requested by the automation conditions, on an ephemeral instance with a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.checks import specs
from cryptolake_assets.defs.partitions import GraphPartitions, hour_key
from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.quality.bar_checks import SILVER_CHECKS
from cryptolake_assets.settings import Settings, get_settings

NOW = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
TICK = timedelta(seconds=5)
INTERVAL = timedelta(minutes=Settings.model_fields["gold_interval_min"].default)


class Days:
    """Simulated Silver publications and automation ticks; requested Gold runs succeed at once."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = build_definitions()
        self.cursor: dg.AutomationConditionCursor | None = None

    def silver(self, hour: datetime, *, passed: bool = True, version: str = "") -> None:
        """Run an hour whose gate has this outcome; its bars change unless `version` equals the last run's."""
        hourly = GraphPartitions.of(get_settings()).hourly

        @dg.asset(
            key=asset_keys.FUTURES.bars,
            partitions_def=hourly,
            check_specs=specs(asset_keys.FUTURES.bars, SILVER_CHECKS, hourly),
            output_required=False,
        )
        def gated() -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
            results = [dg.AssetCheckResult(passed=passed, check_name=name) for name in SILVER_CHECKS]
            if passed:
                yield dg.MaterializeResult(check_results=results, data_version=dg.DataVersion(version or uuid4().hex))
            else:
                yield from results

        dg.materialize([gated], instance=self.instance, partition_key=hour_key(hour), raise_on_error=False)

    def tick(self, now: datetime) -> set[str]:
        """Evaluate the conditions; return the requested days of Gold."""
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=now
        )
        self.cursor = result.cursor
        days = set(result.get_requested_partitions(asset_keys.FUTURES.daily))
        for day in days:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset_keys.FUTURES.daily, partition=str(day))
            )
        return {str(day) for day in days}


@pytest.fixture
def days() -> Iterator[Days]:
    with dg.DagsterInstance.ephemeral() as instance:
        made = Days(instance)
        made.tick(NOW - TICK)
        yield made


def test_open_day_runs_at_most_once_per_interval(days: Days) -> None:
    requested = []
    for number in range(2 * INTERVAL // TICK):  # Silver is refreshed once a minute
        now = NOW + number * TICK
        if number % 12 == 0:
            days.silver(NOW)
        requested += [(now, day) for day in days.tick(now)]
    assert [day for _, day in requested] == ["2026-03-01"] * 2
    assert requested[1][0] - requested[0][0] >= INTERVAL - TICK


def test_update_within_the_interval_is_requested_after_it(days: Days) -> None:
    days.silver(NOW)
    assert days.tick(NOW) == {"2026-03-01"}
    days.silver(NOW)
    assert days.tick(NOW + TICK) == set()
    assert days.tick(NOW + INTERVAL - MINUTE) == set()
    assert days.tick(NOW + INTERVAL) == {"2026-03-01"}
    assert days.tick(NOW + 2 * INTERVAL) == set(), "nothing new"


def test_silver_run_without_changes_requests_no_run(days: Days) -> None:
    yesterday = NOW - timedelta(days=1)
    days.silver(yesterday, version="1")
    assert days.tick(NOW) == {"2026-02-28"}
    days.silver(yesterday, version="1")
    assert days.tick(NOW + TICK) == set()
    days.silver(yesterday, version="2")
    days.silver(yesterday, version="2")
    assert days.tick(NOW + 2 * TICK) == {"2026-02-28"}


def test_closed_day_runs_at_once(days: Days) -> None:
    yesterday = NOW - timedelta(days=1)
    for number in range(3):
        days.silver(yesterday)
        assert days.tick(NOW + (number + 1) * TICK) == {"2026-02-28"}


def test_day_waits_only_for_its_own_failed_hours(days: Days) -> None:
    yesterday = NOW - timedelta(days=1)
    days.silver(yesterday - timedelta(hours=1))
    days.silver(yesterday, passed=False)
    days.silver(NOW - timedelta(days=2))
    assert days.tick(NOW) == {"2026-02-27"}
    days.silver(yesterday)
    assert days.tick(NOW + TICK) == {"2026-02-28"}
