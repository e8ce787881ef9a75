"""Request times of batch sources: the conditions on an ephemeral instance with a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.ingest.batch_sources import BATCH_SOURCES
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import Settings, Source, load_settings
from cryptolake_tests.support.batch import keys_of

NOW = datetime(2026, 3, 1, 12, 30, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = [source.name for source in BATCH_SOURCES]
RECORDED = {
    "fear_greed": "fear_greed.json",
    "coingecko": "coingecko_global.json",
    "futures_funding": "funding_rate_BTCUSDT.json",
    "futures_open_interest": "open_interest_history.json",
}


class SensorTicks:
    """Ticks of a source's sensor; requested days are materialized at once, unless `fails` is set."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, name: str) -> None:
        self.instance, self.keys = instance, keys_of(name)
        self.definitions = build_definitions(settings)
        self.cursor: dg.AutomationConditionCursor | None = None
        self.fails = False

    def tick(self, now: datetime) -> set[str]:
        """Return the requested days; assert that they are the same for Bronze and Silver."""
        result = dg.evaluate_automation_conditions(
            self.definitions,
            self.instance,
            asset_selection=dg.AssetSelection.assets(*self.keys),
            cursor=self.cursor,
            evaluation_time=now,
        )
        self.cursor = result.cursor
        days = {key: {str(day) for day in result.get_requested_partitions(key)} for key in self.keys}
        assert all(of_table == days[self.keys[0]] for of_table in days.values())
        for key, of_table in days.items():
            for day in () if self.fails else of_table:
                self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))
        return days[self.keys[0]]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def live(home: Path) -> Settings:
    return load_settings(home=home, source=Source.BINANCE, start_date=date(2026, 2, 1))


@pytest.mark.parametrize("name", NAMES)
def test_source_is_requested_at_start_and_then_once_an_hour(
    tmp_path: Path, instance: dg.DagsterInstance, name: str
) -> None:
    ticks = SensorTicks(live(tmp_path), instance, name)
    assert ticks.tick(NOW) == {"2026-03-01"}
    found = [now for number in range(1, 180) if ticks.tick(now := NOW + number * timedelta(minutes=1))]
    assert [f"{now:%H:%M}" for now in found] == ["13:00", "14:00", "15:00"]


def test_new_day_is_requested_when_it_begins(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    ticks = SensorTicks(live(tmp_path), instance, "fear_greed")
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert ticks.tick(midnight - timedelta(minutes=2)) == {"2026-03-01"}
    assert ticks.tick(midnight - timedelta(minutes=1)) == set()
    assert ticks.tick(midnight) == {"2026-03-02"}
    assert ticks.tick(midnight + timedelta(minutes=1)) == set()


def test_failed_run_is_requested_again_within_the_hour(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    ticks = SensorTicks(live(tmp_path), instance, "coingecko")
    ticks.fails = True
    assert ticks.tick(NOW) == {"2026-03-01"}
    assert ticks.tick(NOW + timedelta(minutes=10)) == set()
    assert ticks.tick(NOW + HOUR) == {"2026-03-01"}


@pytest.mark.parametrize("name", NAMES)
def test_replay_requests_only_sources_with_recorded_responses(
    tmp_path: Path, instance: dg.DagsterInstance, name: str
) -> None:
    replay = load_settings(home=tmp_path, replay_dir=tmp_path, start_date=date(2024, 7, 18), end_date=date(2024, 7, 19))
    assert SensorTicks(replay, instance, name).tick(NOW) == set()
    assert f"{name}_automation" not in sensors(replay)
    (tmp_path / RECORDED[name]).write_text("[]")
    assert SensorTicks(replay, instance, name).tick(NOW) == {"2024-07-19"}
    assert f"{name}_automation" in sensors(replay)


def test_futures_sources_are_not_requested_on_other_markets(tmp_path: Path) -> None:
    assert set(sensors(live(tmp_path))) >= {f"{name}_automation" for name in NAMES}
    spot = live(tmp_path).model_copy(update={"market": Market.SPOT})
    assert {name for name in NAMES if f"{name}_automation" in sensors(spot)} == {"fear_greed", "coingecko"}


def sensors(settings: Settings) -> list[str]:
    return [sensor.name for sensor in build_definitions(settings).get_repository_def().sensor_defs]


def test_every_automated_asset_has_a_sensor_of_the_graph(tmp_path: Path) -> None:
    assert "default_automation_condition_sensor" not in sensors(live(tmp_path))
