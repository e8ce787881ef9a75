"""The graph is assembled from the given settings and resources, without reading the environment."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import StreamResource
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import Settings, load_settings

NOW = datetime(2026, 3, 1, 0, 20, tzinfo=UTC)


@pytest.fixture
def live(tmp_path: Path) -> Settings:
    """Live settings with a separate home and an unreachable exchange."""
    return load_settings(
        home=tmp_path, source="binance", start_date=date(2026, 1, 1), exchange_rest_url="http://127.0.0.1:1"
    )


def ticked(settings: Settings, schedule: str, **resources: Any) -> list[str | None] | str | None:
    """Return the partitions that a tick requests, or the reason of a skip."""
    definitions = build_definitions(settings, resources)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=NOW,
            repository_def=definitions.get_repository_def(),
            resources=resources,
        ) as context,
    ):
        result = definitions.resolve_schedule_def(schedule).evaluate_tick(context)
    return [request.partition_key for request in result.run_requests or []] or result.skip_message


def test_partitions_and_intervals_follow_the_settings(live: Settings, tmp_path: Path) -> None:
    other = load_settings(home=tmp_path, start_date=date(2024, 7, 18), follower_interval_s=7, gold_interval_min=30)
    graphs = {settings.start_date: build_definitions(settings).get_repository_def() for settings in (live, other, live)}
    for settings in (live, other):
        repository = graphs[settings.start_date]
        node = repository.asset_graph.get(asset_keys.FUTURES.daily)
        assert node.partitions_def is not None
        assert node.partitions_def.get_first_partition_key() == str(settings.start_date)
        follower = repository.get_sensor_def("bronze_follower")
        assert follower.minimum_interval_seconds == settings.follower_interval_s
        assert f"*/{settings.gold_interval_min} * * * *" in str(node.automation_condition)


def test_replay_partitions_end_and_live_partitions_do_not(live: Settings, tmp_path: Path) -> None:
    assert Graph.of(load_settings(home=tmp_path, end_date=date(2024, 7, 19))).partitions.have_ended
    assert not Graph.of(live).partitions.have_ended


class Stopped(StreamResource):
    """A stream that is down."""

    def is_running(self) -> bool:
        return False

    def lag(self, stream_type: StreamType) -> int | None:
        return 3

    def status(self) -> dict[str, Any]:
        return {"state": "stopped", "pid": None, "log": None, "lag": 3}

    def catch_up(self, *stream_types: StreamType) -> str:
        return "available-now"


class Running(Stopped):
    """A running stream that must not be caught up."""

    def is_running(self) -> bool:
        return True

    def catch_up(self, *stream_types: StreamType) -> str:
        raise AssertionError("a running stream must not be caught up")


def test_catch_up_of_a_stopped_stream_is_recorded_as_an_observation_of_each_family(live: Settings) -> None:
    both = live.model_copy(update={"markets": (Market.USD_M, Market.SPOT)})
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions(both, {"stream": Stopped(settings=both)}).resolve_job_def("ingest_realtime_to_bronze")
        assert job.execute_in_process(instance=instance).success
        for keys in (asset_keys.FUTURES, asset_keys.SPOT):
            observed = instance.fetch_observations(keys.trades, limit=1).records[0].asset_observation
            assert observed is not None
            assert {name: value.value for name, value in observed.metadata.items()} == {
                "caught_up_by": "available-now",
                "state": "stopped",
                "lag_before": 3,
            }


def test_running_stream_is_not_caught_up(live: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions(live, {"stream": Running(settings=live)}).resolve_job_def("ingest_realtime_to_bronze")
        assert job.execute_in_process(instance=instance).success
        assert instance.fetch_observations(asset_keys.FUTURES.trades, limit=1).records == []


@pytest.mark.parametrize(
    ("stream", "expected"), [(Stopped, [None]), (Running, "the stream runs")], ids=["stopped", "running"]
)
def test_catch_up_is_requested_only_while_the_stream_is_down(
    live: Settings, stream: type[StreamResource], expected: list[None] | str
) -> None:
    assert ticked(live, "ingest_realtime_to_bronze_schedule", stream=stream(settings=live)) == expected


@pytest.mark.parametrize(
    ("schedule", "partition"),
    [("bronze_to_silver_1m_hourly", "2026-02-28-23:00"), ("silver_to_gold_daily_daily", "2026-02-28")],
)
def test_last_closed_partition_follows_the_local_clock_if_the_exchange_is_unreachable(
    live: Settings, schedule: str, partition: str
) -> None:
    assert ticked(live, schedule) == [partition]


@pytest.mark.parametrize("schedule", ["bronze_to_silver_1m_hourly", "silver_to_gold_daily_daily"])
def test_schedule_skips_partitions_before_the_first(live: Settings, schedule: str) -> None:
    young = live.model_copy(update={"start_date": date(2026, 3, 2)})
    assert "is before the first partition" in str(ticked(young, schedule))


def test_only_extra_streams_in_use_have_followers(live: Settings) -> None:
    def followers(*streams: str) -> set[str]:
        repository = build_definitions(live.model_copy(update={"extra_streams": streams})).get_repository_def()
        return {sensor.name for sensor in repository.sensor_defs if sensor.name.endswith("_follower")}

    assert followers("none") == {"bronze_follower"}
    assert followers("markPrice", "forceOrder") == {"bronze_follower", "markPrice_follower", "forceOrder_follower"}


@pytest.mark.parametrize("name", ["bronze_to_silver_1m", "silver_to_gold_daily"])
def test_jobs_run_their_asset_with_its_checks(live: Settings, name: str) -> None:
    job = build_definitions(live).resolve_job_def(name)
    (key,) = job.asset_layer.selected_asset_keys
    assert (
        key == {"bronze_to_silver_1m": asset_keys.FUTURES.bars, "silver_to_gold_daily": asset_keys.FUTURES.daily}[name]
    )
    assert job.tags["dagster/max_runtime"] == "1800"
