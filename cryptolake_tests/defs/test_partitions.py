"""Partitions of a replay end with its capture; hours outside the loaded partitions stay pending."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from cryptolake_assets.binance.stream_types import MINUTE_STREAMS
from cryptolake_assets.captures.tracked_symbols import default_end_date, last_archived_day, store_last_archived_day
from cryptolake_assets.defs import jobs, stream_minutes
from cryptolake_assets.defs.automation import VERSION_TAG, follows_upstream
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.run_requests import followed_by_runs, requested_hours

HOUR = datetime(2024, 11, 2, 22, tzinfo=UTC)

Loaded = Callable[..., Graph]


@pytest.fixture
def loaded(lake: Settings) -> Loaded:
    """Return a function that loads the graph with changed settings; the exchange is unreachable."""

    def load(**changed: Any) -> Graph:
        return Graph.of(load_settings(**lake.model_dump(exclude_unset=True) | {"exchange_port": 1} | changed))

    return load


def follow(graph: Graph, cursor: str | None) -> tuple[set[str], str, str]:
    """Run one tick of the follower; return the requested hours, the cursor and the skip message."""
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor=cursor) as context:
        result = tick(context, graph, followed_by_runs(Family.FUTURES))
        if isinstance(result, dg.SkipReason):
            return set(), str(context.cursor), str(result.skip_message)
        hours = {hour for request in result.run_requests or () for hour in requested_hours(request)}
        return hours, str(result.cursor), ""


def test_replay_partitions_end_with_the_last_day_of_the_capture(loaded: Loaded) -> None:
    partitions = loaded(end_date=None).partitions
    assert partitions.daily.get_partition_keys() == ["2024-07-18", "2024-07-19"]
    assert partitions.hourly.get_partition_keys()[-1] == "2024-07-19-23:00"
    assert partitions.have_ended


def test_live_partitions_include_the_open_hour(loaded: Loaded) -> None:
    partitions = loaded(end_date=None, source="binance").partitions
    assert partitions.hourly.get_last_partition_key() == hour_key(datetime.now(UTC).replace(minute=0))
    assert not partitions.have_ended


def test_later_archive_day_extends_replay_partitions(loaded: Loaded) -> None:
    settings = loaded(end_date=None).settings
    store_last_archived_day(settings, date(2024, 9, 1))
    store_last_archived_day(settings, date(2024, 8, 1))
    assert last_archived_day(settings) == default_end_date(settings) == date(2024, 9, 1)
    assert loaded(end_date=None).partitions.daily.get_last_partition_key() == "2024-09-01"
    assert loaded(end_date="2024-10-01").partitions.daily.get_last_partition_key() == "2024-10-01"


def test_hour_after_the_loaded_partitions_is_requested_once_loaded(loaded: Loaded) -> None:
    graph = loaded(end_date="2024-11-01")
    append(graph.settings, [trade(HOUR, 1), trade(HOUR - timedelta(days=2), 2)])
    requested, cursor, _ = follow(graph, None)
    assert requested == {hour_key(HOUR - timedelta(days=2))}, "the other hour does not fail the tick"
    requested, cursor, _ = follow(graph, cursor)
    assert hour_key(HOUR) not in requested
    requested, _, _ = follow(loaded(end_date="2024-11-02"), cursor)
    assert hour_key(HOUR) in requested


def test_skip_message_lists_hours_outside_the_loaded_partitions(loaded: Loaded) -> None:
    graph = loaded(end_date="2024-11-01")
    append(graph.settings, [trade(HOUR, 1)])
    _, cursor, _ = follow(graph, None)
    requested, _, message = follow(graph, cursor)
    assert requested == set()
    assert f"1 hours from {hour_key(HOUR)} on are not in the loaded partitions" in message


def test_hour_before_the_first_partition_is_requested_after_an_earlier_start(loaded: Loaded) -> None:
    graph = loaded(start_date="2024-11-05")
    append(graph.settings, [trade(HOUR, 1), trade(HOUR + timedelta(days=4), 2)])
    requested, cursor, _ = follow(graph, None)
    assert hour_key(HOUR) not in requested
    requested, _, _ = follow(loaded(start_date="2024-11-01"), cursor)
    assert requested == {hour_key(HOUR)}


def test_hour_of_another_stream_waits_for_its_partition(loaded: Loaded) -> None:
    mark_price = MINUTE_STREAMS[0]
    graph = loaded(end_date="2024-11-01")
    row = dict.fromkeys(mark_price.bronze.column_names) | {
        **{"exchange": "binance_futures", "symbol": "币安人生USDT", "event_time": HOUR, "ingest_ts": HOUR},
        **dict.fromkeys(("mark_price", "index_price", "funding_rate"), Decimal(1)),
        "next_funding_time": HOUR,
    }
    events = pa.Table.from_pylist([row], schema=mark_price.bronze.arrow_schema())
    load_table(graph.settings, mark_price.bronze).append(events)

    def requested(graph: Graph, cursor: str | None) -> tuple[list[str | None], str]:
        with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor=cursor) as context:
            result = tick(context, graph, stream_minutes.followed(mark_price))
        assert isinstance(result, dg.SensorResult)
        return [request.partition_key for request in result.run_requests or ()], str(result.cursor)

    requests, cursor = requested(graph, None)
    assert requests == []
    assert requested(loaded(end_date="2024-11-02"), cursor)[0] == [hour_key(HOUR)]


def test_last_day_of_a_replay_is_closed(loaded: Loaded) -> None:
    partitions = loaded(end_date=None).partitions
    condition = follows_upstream(5, "follows", partitions)
    up = dg.AssetSpec("up", partitions_def=partitions.daily)

    @dg.asset(deps=[up], partitions_def=partitions.daily, automation_condition=condition)
    def down() -> None: ...

    definitions = dg.Definitions(assets=[up, down])
    cursor, requested = None, []
    with dg.DagsterInstance.ephemeral() as instance:
        for second in range(3):
            now = datetime(2026, 3, 1, 12, 0, second, tzinfo=UTC)
            result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor, evaluation_time=now)
            cursor = result.cursor
            requested.append(set(result.get_requested_partitions(down.key)))
            tags = {VERSION_TAG: str(second)}
            instance.report_runless_asset_event(dg.AssetMaterialization("up", partition="2024-07-19", tags=tags))
    assert requested == [set(), {"2024-07-19"}, {"2024-07-19"}], "an open day would wait for five minutes"


def test_schedule_skips_hours_after_the_last_partition(loaded: Loaded) -> None:
    hourly = loaded(end_date="2024-11-02").partitions.hourly
    (requested,) = jobs._request(hourly, HOUR, hour_key(HOUR))
    assert isinstance(requested, dg.RunRequest)
    (requested,) = jobs._request(hourly, HOUR + timedelta(hours=2), hour_key(HOUR + timedelta(hours=2)))
    assert isinstance(requested, dg.SkipReason)
    assert "after the last partition" in str(requested.skip_message)
