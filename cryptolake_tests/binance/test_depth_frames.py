"""Depth updates, snapshots and book tickers: structure of all markets, and bytes that stay the exchange's own."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.binance.book_ticker_frames import book_ticker_parser
from cryptolake_assets.binance.depth_frames import STREAMS, depth_parser, parse_snapshot
from cryptolake_assets.model.events import BookTickerEvent, DepthSnapshotEvent, DepthUpdateEvent, RejectedFrame
from cryptolake_assets.model.markets import COIN_M, SPOT, USD_M, Venue
from cryptolake_assets.settings import load_settings
from cryptolake_tests.support.documented_frames import (
    BOOK_TICKER_FRAME,
    DEPTH_FRAME,
    SPOT_BOOK_TICKER_FRAME,
    SPOT_DEPTH_FRAME,
)

RECEIVED_US = 1_700_000_000_123_456


def depth(frame: dict[str, Any], venue: Venue = USD_M) -> Any:
    return depth_parser(venue)(json.dumps(frame).encode(), RECEIVED_US)


@pytest.mark.parametrize("venue", [USD_M, COIN_M])
def test_documented_futures_update_is_parsed(venue: Venue) -> None:
    event = depth({"stream": "btcusdt@depth", "data": DEPTH_FRAME}, venue)
    assert isinstance(event, DepthUpdateEvent)
    assert (event.symbol, event.event_time, event.transaction_time) == ("BTCUSDT", 123456789000, 123456788000)
    assert (event.first_update_id, event.final_update_id, event.previous_update_id) == (157, 160, 149)
    assert (event.exchange, event.ingest_ts) == (venue.exchange, RECEIVED_US)
    sent = json.loads(msgspec.json.encode(event))
    assert (sent["bids"], sent["asks"]) == ([["0.0024", "10"]], [["0.0026", "100"]])


def test_documented_spot_update_has_no_transaction_time_and_no_previous_id() -> None:
    event = depth(SPOT_DEPTH_FRAME, SPOT)
    assert isinstance(event, DepthUpdateEvent)
    assert (event.transaction_time, event.previous_update_id) == (None, None)
    assert event.exchange == "binance_spot"


def test_levels_keep_the_bytes_of_the_exchange() -> None:
    levels = [["61837.63000000", "0.00000000"], ["1", "2.5"]]
    raw = json.dumps({**DEPTH_FRAME, "b": levels, "a": []}, separators=(",", ":")).encode()
    event = depth_parser(USD_M)(raw, RECEIVED_US)
    assert isinstance(event, DepthUpdateEvent)
    assert bytes(event.bids) == json.dumps(levels, separators=(",", ":")).encode()
    assert bytes(event.asks) == b"[]"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"b": [["1", "-1"]]}, "levels_format: "),
        ({"b": [["-1", "1"]]}, "levels_format: "),
        ({"a": [["NaN", "1"]]}, "levels_format: "),
        ({"a": [["1", "1e5"]]}, "levels_format: "),
        ({"a": [["1.123456789", "1"]]}, "levels_format: "),
        ({"a": [["12345678901", "1"]]}, "levels_format: "),
        ({"a": [["1"]]}, "levels_format: "),
        ({"a": [["1", "2", "3"]]}, "levels_format: "),
        ({"a": [[1, "2"]]}, "levels_format: "),
        ({"a": None}, "levels_format: "),
        ({"a": {}}, "levels_format: "),
        ({"b": ...}, "wrong_shape: "),
        ({"pu": ...}, "wrong_shape: "),
        ({"T": ...}, "wrong_shape: "),
        ({"u": ...}, "wrong_shape: "),
        ({"u": 156}, "id_order: "),
        ({"U": -1}, "wrong_shape: "),
        ({"u": 2**63}, "wrong_shape: "),
        ({"s": "BTC USDT"}, "symbol_format: "),
        ({"e": "depth"}, "wrong_shape: "),
    ],
)
def test_update_of_another_structure_is_rejected_unchanged(changed: dict[str, Any], reason: str) -> None:
    frame = {name: value for name, value in (DEPTH_FRAME | changed).items() if value is not ...}
    event = depth(frame)
    assert isinstance(event, RejectedFrame)
    assert event.raw == json.dumps(frame).encode()
    assert event.reason.startswith(reason)


NUMBERS = st.from_regex(r"\A[0-9]{1,10}(\.[0-9]{1,8})?\Z")


@given(st.lists(st.tuples(NUMBERS, NUMBERS)), st.booleans())
def test_all_levels_that_fit_are_accepted_with_and_without_spaces(
    levels: list[tuple[str, str]], has_spaces: bool
) -> None:
    separators = (", ", ": ") if has_spaces else (",", ":")
    raw = json.dumps({**DEPTH_FRAME, "b": levels}, separators=separators).encode()
    event = depth_parser(USD_M)(raw, RECEIVED_US)
    assert isinstance(event, DepthUpdateEvent)
    assert json.loads(bytes(event.bids)) == [list(level) for level in levels]
    assert b" " not in bytes(event.bids)


def test_snapshots_of_all_markets_are_parsed() -> None:
    spot = parse_snapshot(
        b'{"lastUpdateId":7,"bids":[["4.0","431.0"]],"asks":[]}', "BTCUSDT", "binance_spot", RECEIVED_US
    )
    assert isinstance(spot, DepthSnapshotEvent)
    assert (spot.symbol, spot.last_update_id, spot.event_time, spot.transaction_time) == ("BTCUSDT", 7, None, None)
    futures = parse_snapshot(
        b'{"lastUpdateId":7,"E":1589436922972,"T":1589436922959,"bids":[],"asks":[["4.1","2"]]}',
        "BTCUSDT",
        "binance_futures",
        RECEIVED_US,
    )
    assert isinstance(futures, DepthSnapshotEvent)
    assert (futures.event_time, futures.transaction_time) == (1589436922972000, 1589436922959000)


def test_documented_book_tickers_are_parsed() -> None:
    futures = book_ticker_parser(COIN_M)(json.dumps(BOOK_TICKER_FRAME).encode(), RECEIVED_US)
    assert isinstance(futures, BookTickerEvent)
    assert (futures.event_time, futures.transaction_time) == (1568014460893000, 1568014460891000)
    assert futures.exchange == "binance_futures_coin"
    spot = book_ticker_parser(SPOT)(json.dumps(SPOT_BOOK_TICKER_FRAME).encode(), RECEIVED_US)
    assert isinstance(spot, BookTickerEvent)
    assert (spot.symbol, spot.event_time, spot.transaction_time, spot.update_id) == ("BNBUSDT", None, None, 400900217)
    assert Decimal(spot.bid_price) == Decimal("25.3519")


def test_books_have_their_own_path_on_usd_m() -> None:
    futures, spot = STREAMS
    usd_m = load_settings(exchange_ws_url="ws://127.0.0.1:1")
    assert futures.url(usd_m, ("BTCUSDT",)) == "ws://127.0.0.1:1/public/stream?streams=btcusdt@depth@100ms"
    of_spot = load_settings(exchange_ws_url="ws://127.0.0.1:1", market="spot")
    assert spot.url(of_spot, ("BTCUSDT",)) == "ws://127.0.0.1:1/stream?streams=btcusdt@depth@100ms"
