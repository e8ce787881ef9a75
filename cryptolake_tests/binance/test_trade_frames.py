"""The trade contract: real frames become exact events, hostile ones are rejected with a stable reason code."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptolake_assets.binance import trade_frames
from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.trade_frames import AcceptedFrame, IdWithoutTrade, parse_frame
from cryptolake_assets.model.events import (
    CONTRACT_VERSION,
    MAX_ID,
    MAX_REASON_CHARS,
    MAX_TIME_MS,
    RejectedFrame,
    TradeEvent,
)
from cryptolake_assets.settings import DEMO_CAPTURE_DIR

TRADE: dict[str, Any] = {
    "e": "trade",
    "E": 1721347022708,
    "T": 1721347022707,
    "s": "ETHUSDT",
    "t": 4217896584,
    "p": "3424.98",
    "q": "0.007",
    "X": "MARKET",
    "m": True,
}
AGG_TRADE: dict[str, Any] = {
    "e": "aggTrade",
    "E": 1626992741321,
    "a": 73541,
    "s": "SUSHIUSDT",
    "p": "7.6110",
    "q": "18",
    "f": 94480,
    "l": 94483,
    "T": 1626992741166,
    "m": False,
}
DECIMAL = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,8})?", re.ASCII)


def parse(frame: object, *, combined: bool = True) -> AcceptedFrame | IdWithoutTrade | RejectedFrame | ControlFrame:
    if isinstance(frame, dict):
        frame = json.dumps({"stream": "x@trade", "data": frame} if combined else frame)
    assert isinstance(frame, str | bytes)
    return parse_frame(frame, ingest_time_us=1721347021186954, exchange="binance_futures")


def accepted(frame: object, *, combined: bool = True) -> TradeEvent:
    result = parse(frame, combined=combined)
    assert isinstance(result, AcceptedFrame), result
    return result.event


def reason(frame: object) -> str:
    result = parse(frame)
    assert isinstance(result, RejectedFrame), result
    return result.reason


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def test_every_frame_of_the_demo_capture_becomes_an_event() -> None:
    path = next(DEMO_CAPTURE_DIR.glob("usdm-trade-frames-*.ndjson.gz"))
    count = 0
    with gzip.open(path, "rt") as lines:
        for line in lines:
            frame = line.split(" ", 1)[1]
            data = json.loads(frame)["data"]
            result = parse(frame)
            assert isinstance(result, AcceptedFrame)
            assert result.exchange_time_ms == data["E"]
            assert result.event == TradeEvent(
                symbol=data["s"],
                event_time=data["T"] * 1000,
                price=data["p"],
                qty=data["q"],
                side="sell" if data["m"] else "buy",
                trade_id=data["t"],
                exchange="binance_futures",
                ingest_ts=1721347021186954,
                first_trade_id=data["t"],
                last_trade_id=data["t"],
                trade_type=data["X"],
                stream="trade",
            )
            count += 1
    assert count == 24_356


def test_event_is_encoded_with_its_fields_in_order() -> None:
    assert accepted(TRADE).encode() == (
        b'{"symbol":"ETHUSDT","event_time":1721347022707000,"price":"3424.98","qty":"0.007","side":"sell",'
        b'"trade_id":4217896584,"exchange":"binance_futures","ingest_ts":1721347021186954,'
        b'"first_trade_id":4217896584,"last_trade_id":4217896584,"trade_type":"MARKET","stream":"trade"}'
    )


def test_aggregate_keeps_the_ids_of_its_trades() -> None:
    event = accepted(AGG_TRADE)
    assert (event.trade_id, event.first_trade_id, event.last_trade_id) == (73541, 94480, 94483)
    assert (event.stream, event.trade_type, event.side) == ("aggTrade", "MARKET", "buy")


@pytest.mark.parametrize("fields", [TRADE, AGG_TRADE])
def test_bare_object_is_parsed_like_the_combined_one(fields: dict[str, Any]) -> None:
    assert accepted(fields, combined=False) == accepted(fields)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"nq": "1", "st": [{}], "zz": None}, "symbol", "ETHUSDT"),
        ({"p": "-1.5"}, "price", "-1.5"),
        ({"p": "0"}, "price", "0"),
        ({"q": "-0.00000000"}, "qty", "-0.00000000"),
        ({"q": "9999999999.99999999"}, "qty", "9999999999.99999999"),
        ({"p": "0007.10"}, "price", "0007.10"),
        ({"s": ""}, "symbol", ""),
        ({"s": "x" * 64}, "symbol", "x" * 64),
        ({"s": "币安人生USDT"}, "symbol", "币安人生USDT"),
        ({"s": "BTCUSDT_251226"}, "symbol", "BTCUSDT_251226"),
        ({"T": 0}, "event_time", 0),
        ({"T": MAX_TIME_MS}, "event_time", MAX_TIME_MS * 1000),
        ({"t": MAX_ID}, "trade_id", MAX_ID),
        ({"X": "INSURANCE_FUND"}, "trade_type", "INSURANCE_FUND"),
    ],
)
def test_unusual_but_well_formed_values_are_accepted(change: dict[str, Any], field: str, value: object) -> None:
    assert getattr(accepted(TRADE | change), field) == value


def test_trade_without_a_type_is_not_a_market_trade() -> None:
    assert accepted(without(TRADE, "X")).trade_type == "NA"


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "Infinity", "1e5", "1E5", "1_000", "+1", ".5", "1.", "", " 1", "1 ", "1\n", "1.0\n", "--1", "1,5"),
        *("0x10", "1.123456789", "123456789012345678901", "٣", "１", "1|1", "1\u0000", "−1"),  # noqa: RUF001
    ],
)
@pytest.mark.parametrize(("name", "code"), [("p", "price_format"), ("q", "qty_format")])
def test_numbers_that_do_not_fit_are_rejected(name: str, code: str, text: str) -> None:
    assert reason(TRADE | {name: text}).startswith(f"{code}: {name} is ")
    assert reason(AGG_TRADE | {name: text}).startswith(f"{code}: {name} is ")


def test_quantity_has_up_to_20_integer_digits_and_price_10() -> None:
    large = "12345678901234567890.12345678"
    assert accepted(TRADE | {"q": large, "p": "1234567890.12345678"}).qty == large
    assert accepted(AGG_TRADE | {"q": "-" + large}).qty == "-" + large
    assert reason(TRADE | {"p": "12345678901"}).startswith("price_format: p is ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"p": 3424.98}, "wrong_type: p is of type number, not a string"),
        ({"p": 3424}, "wrong_type: p is of type integer, not a string"),
        ({"q": None}, "wrong_type: q is of type null, not a string"),
        ({"q": ["1"]}, "wrong_type: q is of type array, not a string"),
        ({"s": 7}, "wrong_type: s is of type integer, not a string"),
        ({"T": "1721347022707"}, "wrong_type: T is of type string, not an integer"),
        ({"T": 1721347022707.0}, "wrong_type: T is of type number, not an integer"),
        ({"E": True}, "wrong_type: E is of type boolean, not an integer"),
        ({"t": {}}, "wrong_type: t is of type object, not an integer"),
        ({"m": 1}, "wrong_type: m is of type integer, not a boolean"),
        ({"m": "true"}, "wrong_type: m is of type string, not a boolean"),
        ({"X": 5}, "wrong_type: X is of type integer, not a string"),
        ({"e": 5}, "wrong_type: e is of type integer, not a string"),
        ({"T": -1}, f"out_of_range: T is -1, outside 0 to {MAX_TIME_MS}"),
        ({"T": MAX_TIME_MS + 1}, f"out_of_range: T is {MAX_TIME_MS + 1}, outside 0 to {MAX_TIME_MS}"),
        ({"E": MAX_TIME_MS + 1}, f"out_of_range: E is {MAX_TIME_MS + 1}, outside 0 to {MAX_TIME_MS}"),
        ({"t": -1}, f"out_of_range: t is -1, outside 0 to {MAX_ID}"),
        ({"t": MAX_ID + 1}, f"out_of_range: t is {MAX_ID + 1}, outside 0 to {MAX_ID}"),
        ({"t": 10**300}, f"out_of_range: t is beyond 128 bits, outside 0 to {MAX_ID}"),
        ({"s": "BTC\n"}, "symbol_format: s is 'BTC\\n'"),
        ({"s": "BTC💥"}, "symbol_format: s is 'BTC\\U0001f4a5'"),
        ({"s": "币" * 22}, "symbol_format: s is '" + "\\u5e01" * 22 + "'"),
        ({"s": "x" * 65}, f"symbol_format: s is '{'x' * 65}'"),
        ({"X": "\u0000"}, "trade_type_format: X is '\\x00'"),
        ({"X": "x" * 33}, f"trade_type_format: X is '{'x' * 33}'"),
        ({"e": "kline"}, "unexpected_event: kline"),
        ({"e": "bookTicker"}, "unexpected_event: bookTicker"),
    ],
)
def test_rejection_names_the_wrong_field(change: dict[str, Any], expected: str) -> None:
    assert reason(TRADE | change) == expected


@pytest.mark.parametrize("fields", [TRADE, AGG_TRADE])
def test_rejection_names_the_missing_field(fields: dict[str, Any]) -> None:
    for name in fields.keys() - {"X"}:
        assert reason(without(fields, name)) == f"missing_field: {name}"


def test_aggregate_with_descending_ids_is_rejected() -> None:
    assert reason(AGG_TRADE | {"f": 5, "l": 4}) == "id_order: f 5 is greater than l 4"
    raw = json.dumps(AGG_TRADE | {"f": 5, "l": 4}).encode()
    assert parse(raw) == RejectedFrame(raw, "id_order: f 5 is greater than l 4", "SUSHIUSDT", None, 73541)


def test_aggregate_may_have_one_trade() -> None:
    event = accepted(AGG_TRADE | {"f": 5, "l": 5})
    assert (event.first_trade_id, event.last_trade_id) == (5, 5)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "not_json"),
        (b"hello", "not_json"),
        (b'{"stream":"btcusdt@trade","data":{"e":"trade","E":17213', "not_json"),
        (b'{"data":{"e":"trade","p":NaN}}', "not_json"),
        (b'{"data":{}}x', "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b'{"data":{"e":"\xff\xfe"}}', "not_json"),
        (b"[" * 100_000, "not_json"),
        ("\ud800", "not_json"),
        (b'{"data":{"e":"trade","E":' + b"9" * 10_000 + b"}}", "out_of_range"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"{}", "missing_field"),
        (b'{"data":[]}', "wrong_type"),
    ],
)
def test_frames_without_an_event_are_rejected(frame: bytes | str, code: str) -> None:
    result = parse(frame)
    assert isinstance(result, RejectedFrame)
    assert result.reason.partition(":")[0] == code
    assert result.raw == (frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogatepass"))


def check_outcome(result: AcceptedFrame | IdWithoutTrade | RejectedFrame | ControlFrame, raw: bytes) -> None:
    """Assert the properties of every result."""
    if isinstance(result, RejectedFrame):
        assert result.raw == raw
        assert result.reason.isascii()
        assert result.reason.isprintable()
        assert re.match(r"[a-z_]+: ", result.reason)
        assert len(result.reason) <= MAX_REASON_CHARS
    elif isinstance(result, AcceptedFrame):
        event = result.event
        assert DECIMAL.fullmatch(event.price)
        assert DECIMAL.fullmatch(event.qty)
        assert 0 <= event.event_time <= MAX_TIME_MS * 1000
        assert 0 <= event.first_trade_id <= event.last_trade_id <= MAX_ID


@given(st.binary())
def test_bytes_never_raise(raw: bytes) -> None:
    check_outcome(parse(raw), raw)


@given(st.text(alphabet=st.characters(codec=None)))
def test_text_never_raises(text: str) -> None:
    check_outcome(parse(text), text.encode("utf-8", "surrogatepass"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([TRADE, AGG_TRADE]),
    st.dictionaries(st.sampled_from([*TRADE, *AGG_TRADE]), json_values, max_size=3),
    st.booleans(),
)
def test_field_values_never_raise(fields: dict[str, Any], change: dict[str, Any], combined: bool) -> None:
    frame = fields | change
    raw = json.dumps({"data": frame} if combined else frame).encode()
    result = parse(raw)
    check_outcome(result, raw)
    assert not (isinstance(result, RejectedFrame) and result.reason.startswith("not_accepted")), result


@given(st.from_regex(DECIMAL, fullmatch=True), st.from_regex(DECIMAL, fullmatch=True))
@example("-0.10", "0000000001.00000000")
def test_number_that_fits_keeps_its_digits(price: str, qty: str) -> None:
    event = accepted(TRADE | {"p": price, "q": qty})
    assert (event.price, event.qty) == (price, qty)
    sent = json.loads(event.encode())
    assert Decimal(sent["price"]) == Decimal(price)
    assert (sent["price"], sent["qty"]) == (price, qty)


@given(st.text(alphabet="0123456789.-+eE \n|٣", max_size=24))
def test_number_is_accepted_only_if_it_fits(text: str) -> None:
    for field, integer_digits in (("p", 10), ("q", 20)):
        fits = re.fullmatch(rf"-?[0-9]{{1,{integer_digits}}}(\.[0-9]{{1,8}})?", text) is not None
        assert isinstance(parse(TRADE | {field: text}), AcceptedFrame) is fits


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"[]", "not_an_object: the frame is of type array"),
        (b'"text"', "not_an_object: the frame is of type string"),
        (b"7", "not_an_object: the frame is of type integer"),
        (b"7.5", "not_an_object: the frame is of type number"),
        (b"true", "not_an_object: the frame is of type boolean"),
        (b"null", "not_an_object: the frame is of type null"),
        (b'{"data":[]}', "wrong_type: data is of type array, not an object"),
        (b'{"data":null}', "wrong_type: data is of type null, not an object"),
        (b'{"data":"e"}', "wrong_type: data is of type string, not an object"),
    ],
)
def test_reason_names_the_type_of_a_frame_without_an_event(frame: bytes, expected: str) -> None:
    assert reason(frame) == expected


@pytest.mark.parametrize("frame", [b'{"code":-1121}', b'{"msg":"Hello."}', b'{"id":1}', b'{"result":null}'])
def test_incomplete_response_is_rejected(frame: bytes) -> None:
    assert reason(frame) == "missing_field: e"


@pytest.mark.parametrize("response", [{"error": "busy"}, {"code": 1, "msg": "Wait."}, {"result": None, "id": 1}])
def test_event_with_the_fields_of_a_response_is_parsed_as_an_event(response: dict[str, Any]) -> None:
    assert reason(json.dumps({"e": "kline"} | response)) == "unexpected_event: kline"
    assert reason(json.dumps({"data": {"e": "kline"}} | response)) == "unexpected_event: kline"
    assert accepted(json.dumps(TRADE | response)) == accepted(TRADE)


@pytest.mark.parametrize(
    "change",
    [
        {"E": 0, "T": 0, "t": 0},
        {"E": MAX_TIME_MS, "T": MAX_TIME_MS, "t": MAX_ID},
        {"s": ""},
        {"s": "x" * 64},
    ],
)
def test_reason_names_the_wrong_field_and_not_one_at_its_bounds(change: dict[str, Any]) -> None:
    assert reason(TRADE | change | {"p": 5}) == "wrong_type: p is of type integer, not a string"


def test_reason_shows_numbers_up_to_128_bits_and_the_start_of_long_texts() -> None:
    bounds = f"outside 0 to {MAX_ID}"
    assert reason(TRADE | {"t": 2**128 - 1}) == f"out_of_range: t is {2**128 - 1}, {bounds}"
    assert reason(TRADE | {"t": 2**128}) == f"out_of_range: t is beyond 128 bits, {bounds}"
    assert reason(TRADE | {"s": "x" * 500}) == f"symbol_format: s is '{'x' * 65}'"


def test_reason_is_one_printable_line() -> None:
    assert reason(TRADE | {"e": "a\n\u0001b"}) == "unexpected_event: a??b"


@pytest.mark.parametrize("fields", [without(TRADE, "X"), AGG_TRADE | {"X": 5}, TRADE | {"X": "x" * 32}])
def test_duplicate_field_is_rejected_with_the_reason_of_the_decoder(fields: dict[str, Any]) -> None:
    """The decoder stops at the first value, which is wrong; the last one, which counts in JSON, is valid."""
    frame = json.dumps(fields).replace('"p":', '"p": 5, "p":')
    assert reason(frame).startswith("not_accepted: Expected `str`, got `int`")


@pytest.mark.parametrize(
    ("frame", "identifiers"),
    [
        ({"stream": "btcusdt@trade", "data": TRADE | {"p": "1e2"}}, ("ETHUSDT", "btcusdt@trade", 4217896584)),
        (AGG_TRADE | {"q": 5}, ("SUSHIUSDT", None, 73541)),
        ({"stream": 5, "data": {"e": "trade", "s": 7, "t": "8"}}, (None, None, None)),
        ({"stream": "a@b", "data": []}, (None, "a@b", None)),
    ],
)
def test_rejected_frame_keeps_its_symbol_stream_and_id(frame: dict[str, Any], identifiers: tuple[object, ...]) -> None:
    result = parse(json.dumps(frame))
    assert isinstance(result, RejectedFrame)
    assert (result.symbol, result.stream_name, result.trade_id) == identifiers


def test_truncated_frame_keeps_its_symbol_and_stream() -> None:
    frame = json.dumps(
        {"stream": "币安人生usdt@trade", "data": TRADE | {"s": "币安人生USDT"}}, ensure_ascii=False
    ).encode()
    result = parse(frame[:-4])
    assert isinstance(result, RejectedFrame)
    assert (result.symbol, result.stream_name, result.trade_id) == ("币安人生USDT", "币安人生usdt@trade", None)


WITHOUT_TRADE = AGG_TRADE | {"p": "0.00000000", "q": "0", "f": -1, "l": -1}


def test_id_without_a_trade_is_not_a_trade() -> None:
    found = IdWithoutTrade("SUSHIUSDT", "aggTrade", 73541, 1626992741166000, 1626992741321)
    assert parse(WITHOUT_TRADE) == parse(WITHOUT_TRADE, combined=False) == found
    assert parse(WITHOUT_TRADE | {"a": -1}) == IdWithoutTrade(
        "SUSHIUSDT", "aggTrade", None, 1626992741166000, 1626992741321
    )
    single = TRADE | {"t": -1, "p": "0", "q": "0.000"}
    assert parse(single) == IdWithoutTrade("ETHUSDT", "trade", None, 1721347022707000, 1721347022708)
    assert isinstance(parse(single | {"q": "1"}), RejectedFrame)


@pytest.mark.parametrize("change", [{"p": "1"}, {"q": "0.1"}, {"f": 3}, {"l": 3}, {"s": ""}, {"a": -2}, {"p": "zero"}])
def test_incomplete_marker_of_an_id_without_a_trade_is_rejected(change: dict[str, Any]) -> None:
    assert isinstance(parse(WITHOUT_TRADE | change), RejectedFrame)


CONTRACTS = {2: "805004131eff83d5"}
"""Hash of the frames' fields, types and limits, by contract version."""


def contract_hash() -> str:
    frames = msgspec.json.schema_components([trade_frames._Trade, trade_frames._AggTrade])
    patterns = [trade_frames._PRICE_PATTERN, trade_frames._QUANTITY_PATTERN]
    return hashlib.sha256(msgspec.json.encode([frames, patterns], order="deterministic")).hexdigest()[:16]


def test_contract_change_requires_a_new_version() -> None:
    assert contract_hash() == CONTRACTS[CONTRACT_VERSION], (
        "the contract changed: raise CONTRACT_VERSION if it accepts frames that were rejected, and add its hash"
    )
