"""When batch sources are asked: the conditions on an ephemeral instance with a simulated clock."""

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


class Asked:
    """The ticks of a source's sensor; what is requested is materialized at once, unless it `fails`."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, name: str) -> None:
        self.instance, self.keys = instance, keys_of(name)
        self.definitions = build_definitions(settings)
        self.cursor: dg.AutomationConditionCursor | None = None
        self.fails = False

    def tick(self, now: datetime) -> set[str]:
        """Return the days that are asked for; of Silver the same ones are."""
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
def test_source_is_asked_at_the_start_then_once_an_hour(
    tmp_path: Path, instance: dg.DagsterInstance, name: str
) -> None:
    asked = Asked(live(tmp_path), instance, name)
    assert asked.tick(NOW) == {"2026-03-01"}
    found = [now for number in range(1, 180) if asked.tick(now := NOW + number * timedelta(minutes=1))]
    assert [f"{now:%H:%M}" for now in found] == ["13:00", "14:00", "15:00"]


def test_new_day_is_asked_for_when_it_begins(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    asked = Asked(live(tmp_path), instance, "fear_greed")
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert asked.tick(midnight - timedelta(minutes=2)) == {"2026-03-01"}
    assert asked.tick(midnight - timedelta(minutes=1)) == set()
    assert asked.tick(midnight) == {"2026-03-02"}
    assert asked.tick(midnight + timedelta(minutes=1)) == set()


def test_failed_request_is_repeated_within_the_hour(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    asked = Asked(live(tmp_path), instance, "coingecko")
    asked.fails = True
    assert asked.tick(NOW) == {"2026-03-01"}
    assert asked.tick(NOW + timedelta(minutes=10)) == set()
    assert asked.tick(NOW + HOUR) == {"2026-03-01"}


@pytest.mark.parametrize("name", NAMES)
def test_source_of_a_replay_is_asked_only_where_its_answers_are_recorded(
    tmp_path: Path, instance: dg.DagsterInstance, name: str
) -> None:
    replay = load_settings(home=tmp_path, replay_dir=tmp_path, start_date=date(2024, 7, 18), end_date=date(2024, 7, 19))
    assert Asked(replay, instance, name).tick(NOW) == set()
    assert f"{name}_automation" not in sensors(replay)
    (tmp_path / RECORDED[name]).write_text("[]")
    assert Asked(replay, instance, name).tick(NOW) == {"2024-07-19"}
    assert f"{name}_automation" in sensors(replay)


def test_futures_sources_are_not_asked_of_other_markets(tmp_path: Path) -> None:
    assert set(sensors(live(tmp_path))) >= {f"{name}_automation" for name in NAMES}
    spot = live(tmp_path).model_copy(update={"market": Market.SPOT})
    assert {name for name in NAMES if f"{name}_automation" in sensors(spot)} == {"fear_greed", "coingecko"}


def sensors(settings: Settings) -> list[str]:
    return [sensor.name for sensor in build_definitions(settings).get_repository_def().sensor_defs]


def test_no_asset_is_left_to_a_sensor_of_dagsters_own(tmp_path: Path) -> None:
    assert "default_automation_condition_sensor" not in sensors(live(tmp_path))
