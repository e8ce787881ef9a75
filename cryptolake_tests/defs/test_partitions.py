"""GraphPartitions of a replay end with its capture; an hour that is not loaded yet is kept, not lost."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from cryptolake_assets.binance.stream_types import EXTRA_STREAM_TYPES
from cryptolake_assets.captures.tracked_symbols import archived_to, default_end_date, note_archived
from cryptolake_assets.defs import jobs, silver, stream_minutes
from cryptolake_assets.defs.automation import VERSION_TAG, follows_upstream
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.run_requests import hours_asked

HOUR = datetime(2024, 11, 2, 22, tzinfo=UTC)

Loaded = Callable[..., Graph]


@pytest.fixture
def loaded(lake: Settings) -> Loaded:
    """Load the graph of the lake with these settings changed; no exchange answers."""

    def load(**changed: Any) -> Graph:
        return Graph.of(load_settings(**lake.model_dump(exclude_unset=True) | {"exchange_port": 1} | changed))

    return load


def follow(graph: Graph, cursor: str | None) -> tuple[set[str], str, str]:
    """One look of the follower: the hours that it asks for, its cursor, and what it says."""
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor=cursor) as context:
        result = tick(context, graph, silver.FOLLOWED)
        if isinstance(result, dg.SkipReason):
            return set(), str(context.cursor), str(result.skip_message)
        hours = {hour for request in result.run_requests or () for hour in hours_asked(request)}
        return hours, str(result.cursor), ""


def test_the_partitions_of_a_replay_end_with_its_last_day(loaded: Loaded) -> None:
    partitions = loaded(end_date=None).partitions
    assert partitions.daily.get_partition_keys() == ["2024-07-18", "2024-07-19"]
    assert partitions.hourly.get_partition_keys()[-1] == "2024-07-19-23:00"
    assert partitions.have_ended


def test_live_partitions_reach_to_the_open_hour(loaded: Loaded) -> None:
    partitions = loaded(end_date=None, source="binance").partitions
    assert partitions.hourly.get_last_partition_key() == hour_key(datetime.now(UTC).replace(minute=0))
    assert not partitions.have_ended


def test_a_later_day_of_the_archive_moves_the_end_of_a_replay(loaded: Loaded) -> None:
    settings = loaded(end_date=None).settings
    note_archived(settings, date(2024, 9, 1))
    note_archived(settings, date(2024, 8, 1))
    assert archived_to(settings) == default_end_date(settings) == date(2024, 9, 1)
    assert loaded(end_date=None).partitions.daily.get_last_partition_key() == "2024-09-01"
    assert loaded(end_date="2024-10-01").partitions.daily.get_last_partition_key() == "2024-10-01"


def test_an_hour_after_the_loaded_partitions_is_asked_for_once_they_are_loaded(loaded: Loaded) -> None:
    graph = loaded(end_date="2024-11-01")
    append(graph.settings, [trade(HOUR, 1), trade(HOUR - timedelta(days=2), 2)])
    asked, cursor, _ = follow(graph, None)
    assert asked == {hour_key(HOUR - timedelta(days=2))}, "and the other hour does not fail the look"
    asked, cursor, _ = follow(graph, cursor)
    assert hour_key(HOUR) not in asked
    asked, _, _ = follow(loaded(end_date="2024-11-02"), cursor)
    assert hour_key(HOUR) in asked


def test_the_follower_says_which_hours_wait_for_their_partitions(loaded: Loaded) -> None:
    graph = loaded(end_date="2024-11-01")
    append(graph.settings, [trade(HOUR, 1)])
    _, cursor, _ = follow(graph, None)
    asked, _, said = follow(graph, cursor)
    assert asked == set()
    assert f"1 from {hour_key(HOUR)} on are no partitions" in said


def test_an_hour_before_the_loaded_partitions_is_asked_for_once_they_begin_earlier(loaded: Loaded) -> None:
    graph = loaded(start_date="2024-11-05")
    append(graph.settings, [trade(HOUR, 1), trade(HOUR + timedelta(days=4), 2)])
    asked, cursor, _ = follow(graph, None)
    assert hour_key(HOUR) not in asked
    asked, _, _ = follow(loaded(start_date="2024-11-01"), cursor)
    assert asked == {hour_key(HOUR)}


def test_an_hour_of_another_stream_waits_for_its_partition_too(loaded: Loaded) -> None:
    mark_price = EXTRA_STREAM_TYPES[0]
    graph = loaded(end_date="2024-11-01")
    row = dict.fromkeys(mark_price.bronze.column_names) | {
        **{"exchange": "binance_futures", "symbol": "币安人生USDT", "event_time": HOUR, "ingest_ts": HOUR},
        **dict.fromkeys(("mark_price", "index_price", "funding_rate"), Decimal(1)),
        "next_funding_time": HOUR,
    }
    events = pa.Table.from_pylist([row], schema=mark_price.bronze.arrow_schema())
    load_table(graph.settings, mark_price.bronze).append(events)

    def asked(graph: Graph, cursor: str | None) -> tuple[list[str | None], str]:
        with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor=cursor) as context:
            result = tick(context, graph, stream_minutes.followed(mark_price))
        assert isinstance(result, dg.SensorResult)
        return [request.partition_key for request in result.run_requests or ()], str(result.cursor)

    requests, cursor = asked(graph, None)
    assert requests == []
    assert asked(loaded(end_date="2024-11-02"), cursor)[0] == [hour_key(HOUR)]


def test_the_last_day_of_a_replay_is_over(loaded: Loaded) -> None:
    partitions = loaded(end_date=None).partitions
    condition = follows_upstream(5, "follows", partitions)
    up = dg.AssetSpec("up", partitions_def=partitions.daily)

    @dg.asset(deps=[up], partitions_def=partitions.daily, automation_condition=condition)
    def down() -> None: ...

    definitions = dg.Definitions(assets=[up, down])
    cursor, asked = None, []
    with dg.DagsterInstance.ephemeral() as instance:
        for second in range(3):
            now = datetime(2026, 3, 1, 12, 0, second, tzinfo=UTC)
            result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor, evaluation_time=now)
            cursor = result.cursor
            asked.append(set(result.get_requested_partitions(down.key)))
            tags = {VERSION_TAG: str(second)}
            instance.report_runless_asset_event(dg.AssetMaterialization("up", partition="2024-07-19", tags=tags))
    assert asked == [set(), {"2024-07-19"}, {"2024-07-19"}], "an open day would wait for five minutes to pass"


def test_a_schedule_asks_for_no_hour_after_the_last_partition(loaded: Loaded) -> None:
    hourly = loaded(end_date="2024-11-02").partitions.hourly
    (asked,) = jobs._request(hourly, HOUR, hour_key(HOUR))
    assert isinstance(asked, dg.RunRequest)
    (asked,) = jobs._request(hourly, HOUR + timedelta(hours=2), hour_key(HOUR + timedelta(hours=2)))
    assert isinstance(asked, dg.SkipReason)
    assert "after the last partition" in str(asked.skip_message)
