"""`bronze.futures_trade_gaps`: gaps are opened and closed, and a replay does not reopen them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

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
