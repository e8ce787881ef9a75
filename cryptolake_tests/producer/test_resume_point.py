"""Parsing the topic's records into the trades of an earlier producer."""

from __future__ import annotations

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.kafka.topics import PeekedRecord
from cryptolake_assets.producer.gap_tracker import KnownTrade
from cryptolake_assets.producer.resume_point import FETCHED_HEADERS, trades_of
from cryptolake_tests.support.captures import agg_trade_frame, trade_frame
from cryptolake_tests.support.fakes import NOON_MS


def record(frame: str, *, is_fetched: bool = False, exchange: str = "binance_futures") -> PeekedRecord:
    parsed = parse_frame(frame, ingest_time_us=0, exchange=exchange)
    assert isinstance(parsed, AcceptedFrame)
    return PeekedRecord(0, 0, 0, None, parsed.event.encode(), tuple(FETCHED_HEADERS) if is_fetched else ())


def test_trades_of_the_stream_keep_their_order_and_source() -> None:
    records = [record(trade_frame("BTCUSDT", 9, NOON_MS)), record(trade_frame("BTCUSDT", 7, NOON_MS), is_fetched=True)]
    records += [record(agg_trade_frame("BTCUSDT", 99, NOON_MS)), record(trade_frame("ETHUSDT", 1, NOON_MS))]
    records += [PeekedRecord(0, 0, 0, None, value, ()) for value in (None, b"", b"{}", b"\xff", b'{"symbol":1}')]
    assert trades_of(records, "binance_futures", "trade") == [
        KnownTrade("BTCUSDT", 9, NOON_MS * 1000, is_fetched=False),
        KnownTrade("BTCUSDT", 7, NOON_MS * 1000, is_fetched=True),
        KnownTrade("ETHUSDT", 1, NOON_MS * 1000, is_fetched=False),
    ]
    assert trades_of(records, "binance_futures", "aggTrade") == [
        KnownTrade("BTCUSDT", 99, NOON_MS * 1000, is_fetched=False)
    ]


def test_trades_of_another_exchange_on_the_topic_are_skipped() -> None:
    records = [record(trade_frame("BTCUSDT", number, NOON_MS), exchange=name) for number, name in enumerate("abba")]
    assert [trade.trade_id for trade in trades_of(records, "a", "trade")] == [0, 3]
