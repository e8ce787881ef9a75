"""A Silver run that changes no bar requests no downstream run, and still keeps the hour fresh."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.defs.resources import EngineResource
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.silver_runs import refresh

HOUR = datetime(2024, 11, 2, 22, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)
DAY = HOUR.date().isoformat()


class Runs:
    """Silver runs on an ephemeral instance, and the automation's ticks after them."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.definitions = build_definitions(settings)
        self.cursor: dg.AutomationConditionCursor | None = None
        self.tick()

    def tick(self) -> tuple[set[str | None], set[str | None]]:
        """Return the requested hours of klines and days of Gold; their runs succeed at once."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        followers = (asset_keys.FUTURES.klines, asset_keys.FUTURES.daily)
        requested = tuple(set(result.get_requested_partitions(key)) for key in followers)
        for key, partitions in zip(followers, requested, strict=True):
            for partition in partitions:
                self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
        return requested[0], requested[1]

    def silver(self, first: datetime, last: datetime | None = None) -> None:
        """Run an hour, or a range of hours."""
        tags = {"dagster/partition": hour_key(first)}
        if last is not None:
            tags = {
                "dagster/asset_partition_range_start": hour_key(first),
                "dagster/asset_partition_range_end": hour_key(last),
            }
        job = self.definitions.resolve_implicit_global_asset_job_def()
        selected = [asset_keys.FUTURES.bars]
        assert job.execute_in_process(instance=self.instance, asset_selection=selected, tags=tags).success

    def materialized_at(self, hour: datetime) -> float:
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset_keys.FUTURES.bars, asset_partitions=[hour_key(hour)]), limit=1
        )
        return records.records[0].timestamp


@pytest.fixture
def runs(lake: Settings) -> Iterator[Runs]:
    """Runs on an empty lake; the exchange is unreachable."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runs(lake.model_copy(update={"exchange_port": 1}), instance)


@pytest.mark.parametrize("last", [None, HOUR], ids=["hour", "range"])
def test_only_a_run_that_changes_bars_requests_downstream_runs(runs: Runs, last: datetime | None) -> None:
    append(runs.settings, [trade(HOUR, 1)])
    runs.silver(HOUR, last)
    assert runs.tick() == ({hour_key(HOUR)}, {DAY})

    before = runs.materialized_at(HOUR)
    runs.silver(HOUR, last)
    assert runs.tick() == (set(), set())
    assert runs.materialized_at(HOUR) > before, "the hour was materialized again and is fresh"

    append(runs.settings, [trade(HOUR + timedelta(seconds=1), 2)])
    runs.silver(HOUR, last)
    assert runs.tick() == ({hour_key(HOUR)}, {DAY})


def test_range_run_requests_downstream_runs_of_changed_hours_only(runs: Runs) -> None:
    append(runs.settings, [trade(HOUR, 1), trade(NEXT, 2)])
    runs.silver(HOUR, NEXT)
    assert runs.tick()[0] == {hour_key(HOUR), hour_key(NEXT)}
    append(runs.settings, [trade(NEXT + timedelta(minutes=1), 3)])
    runs.silver(HOUR, NEXT)
    assert runs.tick() == ({hour_key(NEXT)}, {DAY})


def test_second_run_of_an_empty_hour_requests_no_downstream_run(runs: Runs) -> None:
    append(runs.settings, [trade(HOUR, 1)])
    runs.silver(NEXT)
    runs.tick()
    runs.silver(NEXT)
    assert runs.tick() == (set(), set())


def test_bars_of_a_run_that_died_after_its_commit_request_downstream_runs(runs: Runs) -> None:
    append(runs.settings, [trade(HOUR, 1)])
    runs.silver(HOUR)
    runs.tick()
    append(runs.settings, [trade(HOUR + timedelta(seconds=1), 2)])
    _, publication = refresh(runs.settings, EngineResource(settings=runs.settings).engine(), HOUR)
    assert publication is not None
    assert publication.committed
    assert runs.tick() == (set(), set()), "no event reports the publication"
    runs.silver(HOUR)
    assert runs.tick() == ({hour_key(HOUR)}, {DAY})
