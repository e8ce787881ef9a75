"""Control messages: the known shapes are recognized in every stream, other messages are rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cryptolake_assets.binance.control_frames import ControlFrame, ControlKind, read_control
from cryptolake_assets.binance.stream_types import EVENT_STREAMS
from cryptolake_assets.binance.trade_frames import parse_frame
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.markets import VENUES

SHUTDOWN = {"e": "serverShutdown", "E": 1762214320000}
PARSERS = [stream.parser(VENUES[market]) for stream in EVENT_STREAMS for market in sorted(stream.markets)]

KNOWN: list[tuple[dict[str, Any], ControlFrame]] = [
    ({"result": None, "id": 1}, ControlFrame(ControlKind.RESPONSE, 1)),
    ({"result": ["btcusdt@trade"], "id": 7}, ControlFrame(ControlKind.RESPONSE, 7)),
    ({"result": None, "id": "a"}, ControlFrame(ControlKind.RESPONSE)),
    ({"id": 3, "status": 200, "result": {}, "rateLimits": []}, ControlFrame(ControlKind.RESPONSE, 3)),
    (
        {"error": {"code": 2, "msg": "Invalid request"}, "id": 1},
        ControlFrame(ControlKind.ERROR, 1, "{'code': 2, 'msg': 'Invalid request'}"),
    ),
    ({"code": -1121, "msg": "Invalid symbol."}, ControlFrame(ControlKind.ERROR, None, "Invalid symbol.")),
    ({"error": "busy", "code": 1, "msg": "Wait."}, ControlFrame(ControlKind.ERROR, None, "busy")),
    (SHUTDOWN, ControlFrame(ControlKind.SHUTDOWN)),
    ({"stream": "!serverShutdown", "data": SHUTDOWN}, ControlFrame(ControlKind.SHUTDOWN)),
    ({"e": "heartbeat", "E": 1}, ControlFrame(ControlKind.HEARTBEAT)),
    ({"ping": 1762214320000}, ControlFrame(ControlKind.HEARTBEAT)),
    ({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}, ControlFrame(ControlKind.REQUEST, 1)),
    ({"method": "LIST_SUBSCRIPTIONS", "id": None}, ControlFrame(ControlKind.REQUEST)),
    ({"lastUpdateId": 5, "bids": [], "asks": []}, ControlFrame(ControlKind.REST_RESPONSE)),
    ({"lastUpdateId": 5, "E": 1, "T": 1, "bids": [["1", "2"]], "asks": []}, ControlFrame(ControlKind.REST_RESPONSE)),
    ({"timezone": "UTC", "serverTime": 1, "symbols": [], "assets": []}, ControlFrame(ControlKind.REST_RESPONSE)),
    ({"serverTime": 1}, ControlFrame(ControlKind.REST_RESPONSE)),
]


@pytest.mark.parametrize(("message", "expected"), KNOWN)
def test_known_messages_are_recognized_in_every_stream(message: dict[str, Any], expected: ControlFrame) -> None:
    raw = json.dumps(message).encode()
    assert parse_frame(raw, 1, "binance_futures") == expected
    assert [parse(raw, 1) for parse in PARSERS] == [expected] * len(PARSERS)
    assert PARSERS


@pytest.mark.parametrize("raw", [b"ping", b"pong\n", b'"ping"'])
def test_text_heartbeats_are_recognized_in_every_stream(raw: bytes) -> None:
    expected = ControlFrame(ControlKind.HEARTBEAT)
    assert parse_frame(raw, 1, "binance_futures") == parse_frame(raw.decode(), 1, "binance_futures") == expected
    assert [parse(raw, 1) for parse in PARSERS] == [expected] * len(PARSERS)


@pytest.mark.parametrize("raw", [b"", b"PINGED", b"ping ping", b"\xff", b'"hello"', b"1762214320000", b"{broken"])
def test_other_texts_are_rejected_in_every_stream(raw: bytes) -> None:
    parsed = [
        parse_frame(raw, 1, "binance_futures"),
        *(parse(raw, 1) for parse in PARSERS),
    ]
    assert [type(result) for result in parsed] == [RejectedFrame] * (1 + len(PARSERS))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": "SUBSCRIBE", "params": ["btcusdt@trade"]},
        {"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 1},
        {"result": None},
        {"id": 1},
        {"result": None, "id": 1, "more": 1},
        {"result": None, "id": 1.5},
        {"error": {"code": 2}, "data": {}},
        {"error": 2},
        {"e": "serverShutdown", "E": "soon"},
        {"e": "serverShutdown", "s": "BTCUSDT"},
        {"e": "serverStartup", "E": 1},
        {"ping": True},
        {"lastUpdateId": 5, "bids": [], "asks": [], "e": "depthUpdate"},
        {"lastUpdateId": 5, "bids": []},
        {"stream": "btcusdt@trade", "data": []},
        [{"result": None, "id": 1}],
        None,
    ],
)
def test_other_messages_are_rejected_in_every_stream(message: object) -> None:
    assert read_control(message) is None
    raw = json.dumps(message).encode()
    parsed = [
        parse_frame(raw, 1, "binance_futures"),
        *(parse(raw, 1) for parse in PARSERS),
    ]
    assert [type(result) for result in parsed] == [RejectedFrame] * (1 + len(PARSERS))
