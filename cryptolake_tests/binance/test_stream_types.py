"""Contracts of the extra streams: the exchange's documented frames, hostile frames, and their tables."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from cryptolake_assets.binance.stream_type import EventStream, MinuteStream, Parsed
from cryptolake_assets.binance.stream_types import (
    EVENT_STREAMS,
    EXTRA_STREAM_TYPES,
    MINUTE_STREAMS,
    SPOT_TRADES,
    STREAM_TYPES,
    TRADES,
)
from cryptolake_assets.bronze.offsets import query_of, rejected_query_of
from cryptolake_assets.captures.tracked_symbols import extra_streams_in_use, streams_in_use
from cryptolake_assets.errors import SettingsError
from cryptolake_assets.kafka.kafka_records import KafkaRecordFormat
from cryptolake_assets.model.columns import LEVELS
from cryptolake_assets.model.events import MAX_REASON_CHARS, LiquidationEvent, MarkPriceEvent, RejectedFrame
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import VENUES
from cryptolake_assets.model.symbols import is_symbol
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.settings import Source, load_settings
from cryptolake_assets.settings.extra_streams import EXTRA_STREAMS
from cryptolake_tests.support.documented_frames import (
    BOOK_TICKER_FRAME,
    DEPTH_FRAME,
    FORCE_FRAME,
    MARK_FRAME,
    ORDER,
    SPOT_BOOK_TICKER_FRAME,
    SPOT_DEPTH_FRAME,
)
from cryptolake_tests.support.strategies import HOSTILE

MARK_PRICE, FORCE_ORDER = MINUTE_STREAMS
RECEIVED_US = 1_700_000_000_123_456

FRAMES = {
    MARK_PRICE.name: MARK_FRAME,
    FORCE_ORDER.name: FORCE_FRAME,
    "depth": DEPTH_FRAME,
    "spot_depth": SPOT_DEPTH_FRAME,
    "bookTicker": BOOK_TICKER_FRAME,
    "spot_bookTicker": SPOT_BOOK_TICKER_FRAME,
}


def parse(stream_type: EventStream, frame: bytes) -> Parsed:
    return stream_type.parser(VENUES[min(stream_type.markets)])(frame, RECEIVED_US)


def raw(data: Any, stream: str | None = None) -> bytes:
    return json.dumps(data if stream is None else {"stream": stream, "data": data}).encode()


def test_documented_mark_price_is_parsed_bare_and_in_its_envelope() -> None:
    event = parse(MARK_PRICE, raw(MARK_FRAME))
    assert event == MarkPriceEvent(
        symbol="BTCUSDT",
        event_time=1562305380000000,
        mark_price="11794.15000000",
        index_price="11784.62659091",
        settle_price="11784.25641265",
        funding_rate="0.00038167",
        next_funding_time=1562306400000000,
        exchange="binance_futures",
        ingest_ts=RECEIVED_US,
    )
    newer = {**MARK_FRAME, "ap": "11794.15000000", "st": 1}  # fields that the exchange added later are ignored
    assert parse(MARK_PRICE, raw(newer, "btcusdt@markPrice@1s")) == event


def test_contract_with_a_delivery_date_has_no_funding() -> None:
    event = parse(MARK_PRICE, raw({**MARK_FRAME, "r": "", "T": 0}))
    assert isinstance(event, MarkPriceEvent)
    assert (event.funding_rate, event.next_funding_time) == (None, None)


def test_documented_liquidation_is_parsed() -> None:
    event = parse(FORCE_ORDER, raw(FORCE_FRAME, "btcusdt@forceOrder"))
    assert event == LiquidationEvent(
        symbol="BTCUSDT",
        event_time=1568014460893000,
        side="sell",
        order_type="LIMIT",
        time_in_force="IOC",
        qty="0.014",
        price="9910",
        average_price="9910",
        status="FILLED",
        last_filled_qty="0.014",
        filled_qty="0.014",
        exchange="binance_futures",
        ingest_ts=RECEIVED_US,
    )


@pytest.mark.parametrize(
    ("stream_type", "frame", "reason"),
    [
        (MARK_PRICE, b"{", "not_json: "),
        (MARK_PRICE, b"\xff", "not_json: "),
        (MARK_PRICE, b"[" * 10_000, "not_json: "),
        (MARK_PRICE, b"7", "not_an_object: "),
        (MARK_PRICE, raw({"e": "trade"}), "wrong_shape: Invalid value 'trade' - at `$.e`"),
        (MARK_PRICE, raw({**MARK_FRAME, "p": 1.5}, "a@markPrice@1s"), "wrong_shape: Expected `str`, got `float`"),
        (MARK_PRICE, raw({**MARK_FRAME, "p": "1.123456789"}), "wrong_shape: "),
        (MARK_PRICE, raw({**MARK_FRAME, "p": "NaN"}), "wrong_shape: "),
        (MARK_PRICE, raw({**MARK_FRAME, "p": "1\n"}), "wrong_shape: "),
        (MARK_PRICE, raw({**MARK_FRAME, "i": ""}), "wrong_shape: "),
        (MARK_PRICE, raw({**MARK_FRAME, "E": -1}), "wrong_shape: "),
        (MARK_PRICE, raw({**MARK_FRAME, "E": 10**16}), "wrong_shape: "),
        (MARK_PRICE, raw({**MARK_FRAME, "s": "BTC USDT"}), "symbol_format: the symbol is 'BTC USDT'"),
        (MARK_PRICE, raw({**MARK_FRAME, "s": "x" * 65}), "wrong_shape: "),
        (FORCE_ORDER, raw({**FORCE_FRAME, "o": {**ORDER, "s": "A/B"}}), "symbol_format: "),
        (MARK_PRICE, raw({key: MARK_FRAME[key] for key in "eEspi"}), "wrong_shape: Object missing required field"),
        (FORCE_ORDER, raw({**FORCE_FRAME, "o": [ORDER]}), "wrong_shape: "),
        (FORCE_ORDER, raw({**FORCE_FRAME, "o": {**ORDER, "S": "sell"}}), "wrong_shape: "),
        (FORCE_ORDER, raw({**FORCE_FRAME, "o": {**ORDER, "z": "123456789012345678901"}}), "wrong_shape: "),
    ],
)
def test_frame_of_another_structure_is_rejected_unchanged_with_a_reason(
    stream_type: EventStream, frame: bytes, reason: str
) -> None:
    parsed = parse(stream_type, frame)
    assert isinstance(parsed, RejectedFrame)
    assert parsed.raw == frame
    assert parsed.reason.startswith(reason)


@pytest.mark.parametrize("name", ["币安人生USDT", "BTCUSDT_251226", "ÜSDT"])
def test_symbol_of_any_script_is_accepted(name: str) -> None:
    liquidation = parse(FORCE_ORDER, raw({**FORCE_FRAME, "o": {**ORDER, "s": name}}))
    mark_price = parse(MARK_PRICE, raw({**MARK_FRAME, "s": name}))
    assert isinstance(liquidation, LiquidationEvent)
    assert isinstance(mark_price, MarkPriceEvent)
    assert (liquidation.symbol, mark_price.symbol) == (name, name)


DECIMALS = {"decimal(18, 8)": (10, 8), "decimal(18, 12)": (6, 12), "decimal(28, 8)": (20, 8)}


@pytest.mark.parametrize("stream_type", EVENT_STREAMS, ids=lambda stream_type: stream_type.name)
@given(data=st.data())
def test_hostile_value_is_rejected_or_fits_the_columns(stream_type: EventStream, data: st.DataObject) -> None:
    frame = json.loads(json.dumps(FRAMES[stream_type.name]))
    inside = data.draw(st.sampled_from([frame, *(part for part in frame.values() if isinstance(part, dict))]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(HOSTILE)
    parsed = parse(stream_type, raw(frame, "x@y"))
    if isinstance(parsed, RejectedFrame):
        assert parsed.reason.isascii()
        assert parsed.reason.isprintable()
        assert len(parsed.reason) <= MAX_REASON_CHARS
        return
    sent = json.loads(msgspec.json.encode(parsed))
    for column in stream_type.contract:
        value = sent[column.name]
        if value is None:
            assert column.name in stream_type.optional
        elif column.type in DECIMALS:
            digits, scale = DECIMALS[column.type]
            assert abs(Decimal(value)) < 10**digits
            assert -int(Decimal(value).as_tuple().exponent) <= scale
        elif column.type == "timestamptz":
            assert 0 <= value < 253_402_300_800_000_000
        elif column.name == "symbol":
            assert is_symbol(value)
        elif column.type == LEVELS:
            for price, quantity in value:
                assert 0 <= Decimal(price) < 10**10
                assert 0 <= Decimal(quantity) < 10**20
        elif column.type == "long":
            assert 0 <= value < 2**63
        else:
            assert value.isascii()


@pytest.mark.parametrize("name", ["p", "r"])
def test_some_hostile_values_are_accepted(name: str) -> None:
    """Otherwise the test above would never check a column."""

    def is_accepted(value: object) -> bool:
        return isinstance(parse(MARK_PRICE, raw({**MARK_FRAME, name: value})), MarkPriceEvent)

    assert isinstance(find(HOSTILE, is_accepted), str)
    assert find(HOSTILE, lambda value: isinstance(value, str) and not is_accepted(value)) is not None


@given(st.binary(max_size=60))
def test_random_bytes_are_rejected_unchanged(frame: bytes) -> None:
    for stream_type in EVENT_STREAMS:
        parsed = parse(stream_type, frame)
        assert isinstance(parsed, RejectedFrame)
        assert parsed.raw == frame


@pytest.mark.parametrize("stream_type", EVENT_STREAMS, ids=lambda stream_type: stream_type.name)
def test_stream_is_fully_defined(stream_type: EventStream) -> None:
    """Its event has the fields of its contract, and its tables are registered."""
    event = parse(stream_type, raw(FRAMES[stream_type.name]))
    names = [field.encode_name for field in msgspec.structs.fields(event)]  # type: ignore[arg-type]
    assert names == [column.name for column in stream_type.contract]
    assert {"symbol", "event_time", "exchange", "ingest_ts", *stream_type.identity, *stream_type.optional} <= set(names)
    assert stream_type.bronze in TABLES
    # The names of the Kafka columns are equal, their descriptions are not.
    assert stream_type.bronze.columns[-3:] != FUTURES.trades.columns[-3:]
    assert stream_type.bronze.column_names[-3:] == FUTURES.trades.column_names[-3:]
    assert stream_type.option in EXTRA_STREAMS
    if isinstance(stream_type, MinuteStream):
        assert stream_type.silver in TABLES
        assert stream_type.counted in stream_type.silver.column_names


def test_extra_streams_have_unique_names_topics_and_tables() -> None:
    settings = load_settings()
    for names in (
        [stream_type.name for stream_type in EXTRA_STREAM_TYPES],
        [stream_type.topic(settings) for stream_type in EXTRA_STREAM_TYPES],
        [stream_type.bronze.name for stream_type in EXTRA_STREAM_TYPES],
    ):
        assert len(set(names)) == len(EXTRA_STREAM_TYPES)
    assert {stream_type.option for stream_type in EXTRA_STREAM_TYPES} == set(EXTRA_STREAMS)


def test_url_contains_the_stream_of_each_symbol() -> None:
    settings = load_settings(exchange_ws_url="ws://127.0.0.1:1/")
    url = MARK_PRICE.url(settings, ("BTCUSDT", "ETHUSDT"))
    assert url == "ws://127.0.0.1:1/market/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice@1s"
    assert TRADES.url(settings, ("BTCUSDT",), "aggTrade").endswith("?streams=btcusdt@aggTrade")


def test_every_stream_has_a_unique_topic_table_and_queries() -> None:
    settings = load_settings(source=Source.BINANCE, markets="usdm,spot", extra_streams=",".join(EXTRA_STREAMS))
    assert {one.name for one in streams_in_use(settings)} == {one.name for one in STREAM_TYPES}
    for names in (
        [stream_type.topic(settings) for stream_type in STREAM_TYPES],
        [stream_type.bronze.full_name for stream_type in STREAM_TYPES],
        [query for stream_type in STREAM_TYPES for query in (query_of(stream_type), rejected_query_of(stream_type))],
    ):
        assert len(set(names)) == len(names)
    assert [stream_type.name for stream_type in STREAM_TYPES if stream_type.capabilities.coverage] == [
        "trades",
        "spot_trades",
    ]


def test_trades_use_the_names_of_existing_lakes() -> None:
    assert (query_of(TRADES), rejected_query_of(TRADES)) == ("bronze_futures_trades", "bronze_futures_trades_rejected")
    assert TRADES.topic(load_settings()) == "binance_futures_realtime"
    assert query_of(SPOT_TRADES) == "bronze_spot_trades"
    assert SPOT_TRADES.topic(load_settings()) == "binance_spot_realtime"


def test_streams_in_use_are_those_of_the_tracked_markets() -> None:
    def names(markets: str) -> list[str]:
        settings = load_settings(source=Source.BINANCE, markets=markets, extra_streams="markPrice")
        return [stream_type.name for stream_type in streams_in_use(settings)]

    assert names("usdm,coinm") == ["trades", "markPrice"]
    assert names("spot") == ["spot_trades"]
    assert names("spot,usdm") == ["spot_trades", "trades", "markPrice"]


def test_extra_streams_follow_the_settings() -> None:
    assert extra_streams_in_use(load_settings()) == ()  # the shipped capture has none
    assert extra_streams_in_use(load_settings(source=Source.BINANCE)) == ()
    assert (
        extra_streams_in_use(load_settings(source=Source.BINANCE, extra_streams="forceOrder, markPrice"))
        == MINUTE_STREAMS
    )
    assert extra_streams_in_use(load_settings(extra_streams="none")) == ()
    with pytest.raises(SettingsError, match=r"CRYPTOLAKE_EXTRA_STREAMS.*'depths' is not one of"):
        load_settings(extra_streams="markPrice,depths")


def test_only_optional_fields_may_be_null_on_the_topic() -> None:
    predicate = KafkaRecordFormat(MARK_PRICE.contract, MARK_PRICE.optional).is_sound
    assert "mark_price IS NOT NULL AND" in predicate
    assert "funding_rate IS NOT NULL" not in predicate
    assert "(funding_rate IS NULL OR funding_rate RLIKE '\\\\A-?[0-9]{1,6}(?:\\\\.[0-9]{1,12})?\\\\z')" in predicate
