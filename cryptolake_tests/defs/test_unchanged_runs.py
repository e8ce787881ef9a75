"""A run of Silver that changes no bar starts nothing downstream, and the hour stays fresh all the same."""

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
    """Runs of Silver on an ephemeral instance, and the ticks of the automation after them."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.definitions = build_definitions(settings)
        self.cursor: dg.AutomationConditionCursor | None = None
        self.tick()

    def tick(self) -> tuple[set[str | None], set[str | None]]:
        """The hours of klines and the days of Gold that are asked for; their runs succeed at once."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        asked = tuple(set(result.get_requested_partitions(key)) for key in (asset_keys.KLINES, asset_keys.GOLD))
        for key, partitions in zip((asset_keys.KLINES, asset_keys.GOLD), asked, strict=True):
            for partition in partitions:
                self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
        return asked[0], asked[1]

    def silver(self, first: datetime, last: datetime | None = None) -> None:
        """A run of an hour, or of a range of hours."""
        tags = {"dagster/partition": hour_key(first)}
        if last is not None:
            tags = {
                "dagster/asset_partition_range_start": hour_key(first),
                "dagster/asset_partition_range_end": hour_key(last),
            }
        job = self.definitions.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=self.instance, asset_selection=[asset_keys.SILVER], tags=tags).success

    def materialized_at(self, hour: datetime) -> float:
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset_keys.SILVER, asset_partitions=[hour_key(hour)]), limit=1
        )
        return records.records[0].timestamp


@pytest.fixture
def runs(lake: Settings) -> Iterator[Runs]:
    """On an empty lake; no exchange answers."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runs(lake.model_copy(update={"exchange_port": 1}), instance)


@pytest.mark.parametrize("last", [None, HOUR], ids=["hour", "range"])
def test_only_a_run_that_changes_bars_starts_what_follows(runs: Runs, last: datetime | None) -> None:
    append(runs.settings, [trade(HOUR, 1)])
    runs.silver(HOUR, last)
    assert runs.tick() == ({hour_key(HOUR)}, {DAY})

    before = runs.materialized_at(HOUR)
    runs.silver(HOUR, last)
    assert runs.tick() == (set(), set())
    assert runs.materialized_at(HOUR) > before, "the hour was looked at, and is fresh"

    append(runs.settings, [trade(HOUR + timedelta(seconds=1), 2)])
    runs.silver(HOUR, last)
    assert runs.tick() == ({hour_key(HOUR)}, {DAY})


def test_a_range_starts_what_follows_its_changed_hours_only(runs: Runs) -> None:
    append(runs.settings, [trade(HOUR, 1), trade(NEXT, 2)])
    runs.silver(HOUR, NEXT)
    assert runs.tick()[0] == {hour_key(HOUR), hour_key(NEXT)}
    append(runs.settings, [trade(NEXT + timedelta(minutes=1), 3)])
    runs.silver(HOUR, NEXT)
    assert runs.tick() == ({hour_key(NEXT)}, {DAY})


def test_an_hour_without_trades_starts_nothing_the_second_time(runs: Runs) -> None:
    append(runs.settings, [trade(HOUR, 1)])
    runs.silver(NEXT)
    runs.tick()
    runs.silver(NEXT)
    assert runs.tick() == (set(), set())


def test_bars_of_a_run_that_died_after_its_commit_start_what_follows(runs: Runs) -> None:
    append(runs.settings, [trade(HOUR, 1)])
    runs.silver(HOUR)
    runs.tick()
    append(runs.settings, [trade(HOUR + timedelta(seconds=1), 2)])
    _, publication = refresh(runs.settings, EngineResource(settings=runs.settings).engine(), HOUR)
    assert publication is not None
    assert publication.committed
    assert runs.tick() == (set(), set()), "no event tells of it"
    runs.silver(HOUR)
    assert runs.tick() == ({hour_key(HOUR)}, {DAY})
