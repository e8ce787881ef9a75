"""The follower finds bars that new coverage completes: recent ones at once, older ones at the next full search."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.lake.bronze_follower import FollowerState
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, IcebergGapSink, TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import DAY, HOUR
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import follow_bronze, load_inputs
from cryptolake_assets.transform.follow_bronze import RECENT, StoredLake, mark_touched_hours

NOW = datetime(2024, 7, 19, 12, tzinfo=UTC)
OLD = NOW - RECENT - DAY
BROKEN = NOW - HOUR  # a gap that is open at first
GRACE = timedelta(seconds=2)


@pytest.fixture
def follower(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> Follower:
    """Follow a lake with an incomplete bar per hour from `OLD` on, and no coverage but that of the newest minute."""
    offsets = {0: 10**9}
    for module in (load_inputs, follow_bronze):
        monkeypatch.setattr(module, "committed_offsets", lambda *_: offsets)
    update = {"exchange_port": 1, "start_date": OLD.date(), "watermark_grace_ms": 2_000, "replay_speed": 1.0}
    settings = lake.model_copy(update=update)
    hours = [OLD + number * HOUR for number in range((NOW - OLD) // HOUR + 1)]
    bars = [bar(hour, is_complete=False) for hour in hours]
    load_table(settings, FUTURES.bars).append(pa.Table.from_pylist(bars, FUTURES.bars.arrow_schema()))
    IcebergGapSink(settings).write([gap(BROKEN)])
    return Follower(settings, offsets, FollowerState())


def bar(start: datetime, **columns: Any) -> dict[str, Any]:
    key = {"exchange": "binance_futures", "symbol": "BTCUSDT", "window_start": start}
    return {**dict.fromkeys(FUTURES.bars.column_names), **key, **columns}


def gap(at: datetime) -> TradeGap:
    after_us = round(at.timestamp() * 1_000_000)
    return TradeGap("binance_futures", "BTCUSDT", "trade", 1, 1, 1, after_us, after_us + 1_000_000, NOW)


class Follower:
    def __init__(self, settings: Settings, offsets: dict[int, int], state: FollowerState) -> None:
        self.settings, self.offsets, self.state = settings, offsets, state

    def cover(self, *hours: datetime, offset: int = 10) -> None:
        """Claim the first minute of these hours."""
        ends = [(hour, hour + timedelta(minutes=1) + GRACE) for hour in hours]
        claim = CoverageRow("binance_futures", "BTCUSDT", "trade", 0, 0, 0, offset, "ws://x", Evidence.IDS)
        IcebergCoverageSink(self.settings).write(
            [replace(claim, connected_from_ms=epoch_ms(first), connected_to_ms=epoch_ms(last)) for first, last in ends]
        )

    def tick(self) -> set[datetime]:
        """Return the hours that the tick marked, as if their runs succeeded at once."""
        table = load_table(self.settings, FUTURES.trades)
        mark_touched_hours(StoredLake(self.settings, table), self.state, TRADES.capabilities)
        found = {datetime.fromisoformat(hour) for hour in self.state.pending}
        self.state.pending.clear()
        return found


def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[datetime | None, ...]]:
    """Record the bounds of all inputs that are loaded from now on."""
    bounds: list[tuple[datetime | None, ...]] = []

    def recorded(settings: Settings, *window: datetime | None) -> object:
        bounds.append(window)
        return load_inputs.load_run_inputs(settings, *window)

    monkeypatch.setattr(follow_bronze, "load_run_inputs", recorded)
    return bounds


def test_recent_coverage_completes_its_hours_without_reading_the_history(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower.cover(NOW)
    assert follower.tick() == {NOW}
    bounds = loaded(monkeypatch)
    follower.cover(NOW - 2 * HOUR, NOW - 20 * HOUR, offset=20)
    assert follower.tick() == {NOW - 2 * HOUR, NOW - 20 * HOUR}
    assert bounds
    assert all(window and window[0] is not None for window in bounds)
    assert follower.tick() == set()


def test_closed_gap_completes_its_hour(follower: Follower) -> None:
    follower.cover(NOW, BROKEN)
    assert follower.tick() == {NOW}
    closed = replace(
        gap(BROKEN),
        ids_missing=0,
        closed_at=NOW,
        closed_by=ClosedBy.REST,
        outcome=GapOutcome.REPAIRED,
        kafka_partition=0,
        kafka_offset=30,
    )
    IcebergGapSink(follower.settings).write([closed])
    assert follower.tick() == {BROKEN}


@pytest.mark.parametrize("knows_earlier_coverage", [True, False], ids=["recent", "full search"])
def test_gap_found_in_a_complete_bar_marks_its_hour(
    follower: Follower, monkeypatch: pytest.MonkeyPatch, knows_earlier_coverage: bool
) -> None:
    hour, old = NOW - 5 * HOUR, OLD + HOUR
    complete = {"stream": "trade", "is_complete": True, "evidence": "barrier", "trades_dropped": 0}
    bars = [bar(start, **complete) for start in (hour + timedelta(minutes=1), old + timedelta(minutes=1))]
    load_table(follower.settings, FUTURES.bars).append(pa.Table.from_pylist(bars, FUTURES.bars.arrow_schema()))
    follower.cover(NOW)
    assert follower.tick() == {NOW}
    if not knows_earlier_coverage:
        monkeypatch.setattr(follow_bronze, "FULL_SEARCH_S", -1.0)
    found = replace(gap(hour + timedelta(seconds=90)), first_missing_id=2, last_missing_id=2)
    IcebergGapSink(follower.settings).write([found])
    assert follower.tick() - {NOW} == {hour}


def test_coverage_counts_once_bronze_has_its_records(follower: Follower) -> None:
    follower.cover(NOW)
    assert follower.tick() == {NOW}
    follower.offsets[0] = 15
    follower.cover(NOW - 3 * HOUR, offset=20)
    assert follower.tick() == set()
    follower.offsets[0] = 20
    assert follower.tick() == {NOW - 3 * HOUR}


def test_late_coverage_of_an_old_hour_is_found_by_the_next_full_search(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower.cover(NOW)
    follower.tick()
    follower.cover(OLD, offset=20)
    assert follower.tick() == set()
    monkeypatch.setattr(follow_bronze, "FULL_SEARCH_S", -1.0)
    follower.cover(NOW - HOUR * 4, offset=30)
    assert follower.tick() == {OLD, NOW - 4 * HOUR, NOW}


def test_fast_replay_compares_more_of_the_exchanges_time(follower: Follower) -> None:
    follower.settings = follower.settings.model_copy(update={"replay_speed": 1_000.0})
    follower.cover(NOW)
    follower.tick()
    follower.cover(OLD, offset=20)
    assert follower.tick() == {OLD}
