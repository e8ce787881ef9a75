"""Books of recorded updates on a real catalog: equal to a plain reconstruction, in any steps, with gaps named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cryptolake_assets.lake.bronze_files import current_sequence
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.events import DepthSnapshotEvent, DepthUpdateEvent
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import hour_of
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.book_run import BookCandidate, run_books
from cryptolake_tests.support.books import BookEvent, append_events, naive_seconds, recorded_events

HOUR = datetime(2024, 8, 8, 23, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module", params=list(Market))
def market(request: pytest.FixtureRequest) -> Market:
    return Market(request.param)


@pytest.fixture(scope="module")
def events(market: Market) -> list[BookEvent]:
    return recorded_events(market)


@pytest.fixture
def settings(lake: Settings, market: Market) -> Settings:
    return lake.of_family(VENUES[market].family)


def append(settings: Settings, events: Sequence[BookEvent]) -> int:
    """Append the events; return the lowest sequence number of their files."""
    sequence = current_sequence(load_table(settings, settings.tables.depth_updates))
    append_events(settings, settings.venue.family, events)
    return sequence + 1


def run(settings: Settings, from_sequence: int | None = None, hour: datetime = HOUR) -> BookCandidate:
    candidate, publication = run_books(settings, hour, "run", from_sequence=from_sequence)
    assert publication is not None, candidate.outcomes
    return candidate


def stored(settings: Settings, spec: TableSpec) -> list[dict[str, Any]]:
    rows = load_table(settings, spec).scan().to_arrow().drop_columns(["updated_at"]).to_pylist()
    return sorted(rows, key=lambda row: row["window_start"])


def state(settings: Settings) -> list[list[dict[str, Any]]]:
    tables = settings.tables
    return [stored(settings, spec) for spec in (tables.book_1s, tables.book_checkpoints, tables.book_gaps)]


def updates_of(events: Sequence[BookEvent]) -> list[DepthUpdateEvent]:
    return [event for event in events if isinstance(event, DepthUpdateEvent)]


def test_seconds_equal_a_plain_reconstruction(settings: Settings, market: Market, events: list[BookEvent]) -> None:
    append(settings, events)
    candidate = run(settings)
    expected = naive_seconds(events)
    found = {row["window_start"]: row for row in stored(settings, settings.tables.book_1s)}
    assert len(expected) >= 17
    for second, values in expected.items():
        row = found[second]
        assert {name: row[name] for name in values} == values, second
        assert (row["exchange"], row["symbol"]) == (VENUES[market].exchange, events[0].symbol)
    assert all(row["bid_price"] is None for second, row in found.items() if second not in expected)
    assert candidate.compared >= 20
    assert candidate.different == []
    assert run(settings).seconds.num_rows == len(found)


def test_runs_after_each_part_give_the_same_tables(settings: Settings, events: list[BookEvent]) -> None:
    append(settings, events)
    run(settings)
    whole = state(settings)
    for spec in (settings.tables.book_1s, settings.tables.book_checkpoints, settings.tables.depth_updates):
        load_table(settings, spec).delete("exchange is not null")
    parts = 4
    for number in range(parts):
        part = events[number * len(events) // parts : (number + 1) * len(events) // parts]
        run(settings, append(settings, part))
    assert state(settings) == whole


def test_removed_updates_are_found_and_their_seconds_have_no_book(settings: Settings, events: list[BookEvent]) -> None:
    updates = updates_of(events)
    size = len(updates) // 8
    removed = [updates[begin : begin + size // 2] for begin in (2 * size, 4 * size, 6 * size)]
    left = [event for event in events if not any(event in each for each in removed)]
    append(settings, left)
    candidate = run(settings)
    gaps = stored(settings, settings.tables.book_gaps)
    before = [
        max(update.final_update_id for update in updates if update.final_update_id < each[0].first_update_id)
        for each in removed
    ]
    after = [
        min(update.first_update_id for update in updates if update.first_update_id > each[-1].final_update_id)
        for each in removed
    ]
    assert [(gap["after_update_id"], gap["before_update_id"]) for gap in gaps] == list(zip(before, after, strict=True))
    assert {gap["reason"] for gap in gaps} == {"missing_updates"}
    assert all(gap["synced_at"] is None for gap in gaps)
    seconds = stored(settings, settings.tables.book_1s)
    for row in seconds:
        if row["window_start"] + SECOND > gaps[0]["window_start"]:
            assert not row["is_synced"]
            assert row["mid"] is None
    assert any(row["is_synced"] for row in seconds)
    assert candidate.different == []


def test_late_updates_fill_their_gap(settings: Settings, events: list[BookEvent]) -> None:
    updates = updates_of(events)
    late = updates[len(updates) // 3 : len(updates) // 2]
    run(settings, append(settings, [event for event in events if event not in late]))
    assert len(stored(settings, settings.tables.book_gaps)) == 1
    run(settings, append(settings, late))
    found = state(settings)
    for spec in (settings.tables.book_1s, settings.tables.book_checkpoints):
        load_table(settings, spec).delete("exchange is not null")
    run(settings)
    assert state(settings) == found
    assert found[2] == []
    assert all(row["is_synced"] for row in found[0][2:])


def test_end_of_an_hour_is_completed_by_the_next_hour(settings: Settings, events: list[BookEvent]) -> None:
    shift = timedelta(hours=1) - (timedelta(microseconds=events[0].ingest_ts) % timedelta(hours=1)) - 10 * SECOND
    shift_us = shift // timedelta(microseconds=1) // 10**6 * 10**6
    moved = [_moved(event, shift_us) for event in events]
    append(settings, moved)
    hour = hour_of(datetime.fromtimestamp(updates_of(moved)[0].event_time / 1e6, UTC))
    first = run(settings, hour=hour)
    second = run(settings, hour=hour + timedelta(hours=1))
    seconds = [row["window_start"] for row in stored(settings, settings.tables.book_1s)]
    assert seconds == [seconds[0] + number * SECOND for number in range(len(seconds))]
    assert first.seconds.num_rows + second.seconds.num_rows >= len(seconds)
    assert seconds[0] < hour + timedelta(hours=1) < seconds[-1]


def _moved(event: BookEvent, shift_us: int) -> BookEvent:
    import msgspec

    times = {
        name: getattr(event, name) + shift_us
        for name in ("event_time", "transaction_time")
        if getattr(event, name) is not None
    }
    return msgspec.structs.replace(event, **times)


def test_books_without_a_snapshot_have_no_values(settings: Settings, events: list[BookEvent]) -> None:
    append(settings, [event for event in events if not isinstance(event, DepthSnapshotEvent)])
    candidate = run(settings)
    assert candidate.checkpoints.num_rows == candidate.gaps.num_rows == candidate.compared == 0
    rows = stored(settings, settings.tables.book_1s)
    assert sum(row["updates"] for row in rows) + candidate.unfinished == len(updates_of(events))
    assert not any(row["is_synced"] for row in rows)
