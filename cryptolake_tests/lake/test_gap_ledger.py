"""`bronze.futures_trade_gaps`: gaps are opened and closed, and a replay does not reopen them."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cryptolake_assets.lake import gap_ledger, touched_files
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.gap_ledger import (
    ClosedBy,
    GapOutcome,
    IcebergGapSink,
    OpenBecause,
    TradeGap,
    read_gaps,
    read_missing,
)
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family, Market
from cryptolake_assets.settings import Settings

SEEN = datetime(2024, 7, 19, tzinfo=UTC)
LAST_OF_JULY_US = 1_722_470_399_999_999
GAP = TradeGap("binance_futures", "BTCUSDT", "trade", 5, 9, 5, LAST_OF_JULY_US, LAST_OF_JULY_US + 2, SEEN)
CLOSED = replace(
    GAP,
    ids_missing=0,
    closed_at=SEEN,
    closed_by=ClosedBy.STREAM,
    outcome=GapOutcome.ARRIVED,
    kafka_partition=3,
    kafka_offset=44,
)


def test_gap_is_read_back_as_written_and_as_closed(lake: Settings) -> None:
    sink = IcebergGapSink(lake)
    other = replace(GAP, symbol="ETHUSDT", after_us=LAST_OF_JULY_US + 1)
    sink.write([GAP, other])
    assert sorted(read_gaps(lake), key=lambda gap: gap.symbol) == [GAP, other]
    sink.write([CLOSED])
    assert sorted(read_gaps(lake), key=lambda gap: gap.symbol) == [CLOSED, other]
    assert sink.open_gaps() == [other]


def test_closed_gap_is_not_reopened_and_unchanged_gaps_commit_nothing(lake: Settings) -> None:
    sink = IcebergGapSink(lake)
    sink.write([CLOSED])
    before = load_table(lake, FUTURES.gaps).metadata.current_snapshot_id
    sink.write([GAP])
    sink.write([CLOSED])
    assert read_gaps(lake) == [CLOSED]
    assert load_table(lake, FUTURES.gaps).metadata.current_snapshot_id == before


def test_gap_of_another_market_is_another_row(lake: Settings) -> None:
    coinm, spot = lake.of_market(Market.COIN_M), lake.of_family(Family.SPOT)
    gaps = [replace(GAP, exchange=view.venue.exchange) for view in (lake, coinm, spot)]
    for view, gap in zip((lake, coinm, spot), gaps, strict=True):
        IcebergGapSink(view).write([gap])
    IcebergGapSink(coinm).write([replace(CLOSED, exchange=coinm.venue.exchange)])
    assert IcebergGapSink(lake).open_gaps() == gaps[:1]
    assert IcebergGapSink(coinm).open_gaps() == []
    assert {gap.exchange: gap.closed_at for gap in read_gaps(lake)} == {GAP.exchange: None, gaps[1].exchange: SEEN}
    assert read_gaps(spot) == gaps[2:]
    assert [gap.exchange for gap in read_missing(coinm, {3: 43})] == [GAP.exchange, gaps[1].exchange]
    assert read_missing(spot, {3: 44}) == gaps[2:]


def test_gap_wider_than_the_closed_one_is_stored_as_open(lake: Settings) -> None:
    sink = IcebergGapSink(lake)
    sink.write([CLOSED])
    wider = replace(GAP, last_missing_id=GAP.last_missing_id + 5, open_because=OpenBecause.NEEDS_KEY)
    sink.write([wider])
    assert sink.open_gaps() == [wider]


def test_gaps_whose_trades_are_in_bronze_are_not_missing(lake: Settings) -> None:
    by_klines = replace(CLOSED, symbol="SOLUSDT", kafka_partition=None, kafka_offset=None)
    sink = IcebergGapSink(lake)
    sink.write([CLOSED, replace(GAP, symbol="ETHUSDT"), by_klines])

    def missing(offsets: dict[int, int]) -> set[str]:
        return {gap.symbol for gap in read_missing(lake, offsets)}

    assert missing({3: 44}) == {"ETHUSDT"}
    assert missing({3: 43}) == {"BTCUSDT", "ETHUSDT"}
    assert missing({0: 99}) == {"BTCUSDT", "ETHUSDT"}


DAY_US = 86_400_000_000


def random_gap(chosen: random.Random, day: int) -> TradeGap:
    """Return a gap of the last days, of earlier ones at times: open, closed or wider than one of the same key."""
    symbol, first = chosen.choice(["BTCUSDT", "ETHUSDT"]), chosen.randrange(6)
    after_us = LAST_OF_JULY_US + (day - chosen.choice([0, 0, 1, 1, 9, 40])) * DAY_US + first
    key = first + 10 * (after_us // DAY_US)
    found = replace(GAP, symbol=symbol, first_missing_id=key, last_missing_id=key + chosen.randrange(3))
    found = replace(found, after_us=after_us, before_us=after_us + 5)
    if chosen.randrange(3):
        return replace(
            found,
            ids_missing=0,
            closed_at=SEEN,
            closed_by=ClosedBy.REST,
            outcome=GapOutcome.REPAIRED,
            kafka_partition=chosen.randrange(3),
            kafka_offset=chosen.randrange(100),
        )
    return replace(found, open_because=chosen.choice([None, OpenBecause.NEEDS_KEY]))


@pytest.mark.parametrize("seed", range(4))
def test_ledger_equals_a_plain_table_of_the_same_writes(
    lake: Settings, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(touched_files, "CLOSED_ROWS", 4)
    monkeypatch.setattr(gap_ledger, "MAX_SPANS", 2)
    chosen, plain = random.Random(seed), dict[tuple[str, str, str, int], TradeGap]()  # noqa: S311 - reproducible
    sink = IcebergGapSink(lake)
    for day in range(0, 60, 2):
        written = [random_gap(chosen, day) for _ in range(chosen.randrange(1, 5))]
        sink.write(written)
        before = dict(plain)
        for gap in written:
            known = before.get(gap.key)
            if known is None or known.closed_at is None or gap.last_missing_id > known.last_missing_id:
                plain[gap.key] = gap
        if day % 10 == 0:
            assert {gap.key: gap for gap in read_gaps(lake)} == plain
            assert len(read_gaps(lake)) == len(plain)
    assert len(load_table(lake, FUTURES.gaps).inspect.files()) > 5
    for _ in range(5):
        offsets = {number: chosen.randrange(120) for number in chosen.sample(range(3), chosen.randrange(4))}
        expected = {
            gap.key
            for gap in plain.values()
            if gap.closed_at is None or (gap.kafka_offset or 0) > offsets.get(gap.kafka_partition or 0, 0)
        }
        assert {gap.key for gap in read_missing(lake, offsets)} == expected
    assert {gap.key for gap in sink.open_gaps()} == {gap.key for gap in plain.values() if gap.closed_at is None}


def test_write_leaves_the_files_of_old_closed_gaps(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touched_files, "CLOSED_ROWS", 3)
    sink = IcebergGapSink(lake)
    first_us = int(SEEN.timestamp()) * 1_000_000

    def at(day: int, gap: TradeGap) -> TradeGap:
        return replace(
            gap, first_missing_id=day, after_us=first_us + day * DAY_US, before_us=first_us + day * DAY_US + 2
        )

    def files() -> set[str]:
        return {task.file.file_path for task in load_table(lake, FUTURES.gaps).scan().plan_files()}

    sink.write([at(day, CLOSED) for day in range(5)])
    sink.write([at(6, GAP)])
    before = files()
    sink.write([at(7, GAP)])
    sink.write([at(7, CLOSED), at(8, GAP)])
    assert len(files()) <= len(before) + 2
    assert files() & before, "a file of closed gaps stays"
    assert [gap.first_missing_id for gap in sorted(sink.open_gaps(), key=lambda gap: gap.key)] == [6, 8]
    old = files()
    sink.write([replace(at(1, CLOSED), last_missing_id=20)])
    assert len(old - files()) == 1, "a change of an old gap replaces its file only"


def test_records_lost_in_kafka_reopen_a_gap_and_only_an_open_gap_replaces_it(lake: Settings) -> None:
    sink = IcebergGapSink(lake)
    sink.write([CLOSED])
    assert sink.lost_gaps() == []
    lost = replace(GAP, open_because=OpenBecause.LOST_IN_KAFKA)
    IcebergGapSink(lake).write([lost])
    assert sink.lost_gaps() == [lost]
    sink.write([CLOSED])
    assert sink.lost_gaps() == [lost], "the producer closed the gap before it knew of the loss"
    sink.write([GAP])
    assert (sink.lost_gaps(), read_gaps(lake)) == ([], [GAP])
    sink.write([CLOSED])
    assert read_gaps(lake) == [CLOSED]
