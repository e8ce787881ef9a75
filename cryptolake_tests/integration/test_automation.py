"""What the conditions ask for, driven on an ephemeral instance with a simulated clock."""

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
from cryptolake_assets.quality.bar_checks import SILVER_CHECKS
from cryptolake_assets.settings import get_settings

NOW = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
TICK = timedelta(seconds=5)


class Days:
    """Silver's publications by hand, the automation's ticks, and Gold's runs, which succeed at once."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = build_definitions()
        self.cursor: dg.AutomationConditionCursor | None = None

    def silver(self, hour: datetime, *, passed: bool = True, version: str = "") -> None:
        """Run an hour whose gate has this outcome; its bars change, unless `version` is that of the last run."""
        hourly = GraphPartitions.of(get_settings()).hourly

        @dg.asset(
            key=asset_keys.SILVER,
            partitions_def=hourly,
            check_specs=specs(asset_keys.SILVER, SILVER_CHECKS, hourly),
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
        """The days of Gold that are asked for."""
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=now
        )
        self.cursor = result.cursor
        days = set(result.get_requested_partitions(asset_keys.GOLD))
        for day in days:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset_keys.GOLD, partition=str(day)))
        return {str(day) for day in days}


@pytest.fixture
def days() -> Iterator[Days]:
    with dg.DagsterInstance.ephemeral() as instance:
        made = Days(instance)
        made.tick(NOW - TICK)
        yield made


def test_the_open_day_runs_at_most_once_in_five_minutes(days: Days) -> None:
    asked = []
    for number in range(120):  # ten minutes; Silver is refreshed once a minute
        now = NOW + number * TICK
        if number % 12 == 0:
            days.silver(NOW)
        asked += [(now, day) for day in days.tick(now)]
    assert [day for _, day in asked] == ["2026-03-01"] * 2
    assert asked[1][0] - asked[0][0] >= timedelta(minutes=4, seconds=55)


def test_what_came_within_the_slot_is_not_forgotten(days: Days) -> None:
    days.silver(NOW)
    assert days.tick(NOW) == {"2026-03-01"}
    days.silver(NOW)
    assert days.tick(NOW + TICK) == set()
    assert days.tick(NOW + timedelta(minutes=4)) == set()
    assert days.tick(NOW + timedelta(minutes=5)) == {"2026-03-01"}
    assert days.tick(NOW + timedelta(minutes=10)) == set(), "nothing new"


def test_a_run_that_changes_nothing_asks_for_nothing(days: Days) -> None:
    yesterday = NOW - timedelta(days=1)
    days.silver(yesterday, version="1")
    assert days.tick(NOW) == {"2026-02-28"}
    days.silver(yesterday, version="1")
    assert days.tick(NOW + TICK) == set()
    days.silver(yesterday, version="2")
    days.silver(yesterday, version="2")
    assert days.tick(NOW + 2 * TICK) == {"2026-02-28"}


def test_a_closed_day_runs_at_once(days: Days) -> None:
    yesterday = NOW - timedelta(days=1)
    for number in range(3):
        days.silver(yesterday)
        assert days.tick(NOW + (number + 1) * TICK) == {"2026-02-28"}


def test_a_day_is_held_back_while_one_of_its_hours_is_and_no_other(days: Days) -> None:
    yesterday = NOW - timedelta(days=1)
    days.silver(yesterday - timedelta(hours=1))
    days.silver(yesterday, passed=False)
    days.silver(NOW - timedelta(days=2))
    assert days.tick(NOW) == {"2026-02-27"}
    days.silver(yesterday)
    assert days.tick(NOW + TICK) == {"2026-02-28"}
