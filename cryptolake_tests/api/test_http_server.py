"""What the server does before the app hears of a request, on bare sockets."""

from __future__ import annotations

import json
import re
import socket
import time

import pytest

from cryptolake_assets.api import http_server, live
from cryptolake_assets.api.http_server import MAX_HEAD_BYTES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import Api, serving
from cryptolake_tests.support.waiting import wait_for

BEGIN = b"GET /symbols HTTP/1.1\r\nHost: localhost\r\n"


def connected(api: Api) -> socket.socket:
    return socket.create_connection((api.base_url.host, api.base_url.port or 80), 20)


def everything(connection: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_a_head_without_end_is_rejected_while_it_comes(shared_api: Api) -> None:
    with connected(shared_api) as connection:
        connection.sendall(BEGIN + b"X: " + b"a" * MAX_HEAD_BYTES)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "urn:cryptolake:problem:request-too-large"


def test_what_is_no_http_is_told_so_as_the_other_errors_are(shared_api: Api) -> None:
    with connected(shared_api) as connection:
        connection.sendall(b"hello there\r\n\r\n")
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "urn:cryptolake:problem:malformed-request"


def test_who_never_ends_a_request_is_dropped(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing, a part of a head, of a later head, nothing but blank lines, or a part of a body."""
    monkeypatch.setattr(http_server, "REQUEST_S", 0.3)
    with serving(bars) as api:
        with connected(api) as connection:
            assert everything(connection) == b""
        with connected(api) as connection:
            connection.sendall(BEGIN)
            head, _, body = everything(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body)["type"] == "urn:cryptolake:problem:request-too-slow"
        for more in (BEGIN, b"\r\n"):
            with connected(api) as connection:
                connection.sendall(BEGIN + b"\r\n")
                found = connection.recv(65_536)
                connection.sendall(more)
                found += everything(connection)
                assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"408"]
        with connected(api) as connection:
            connection.sendall(BEGIN + b"Content-Length: 10\r\n\r\nabc")
            assert everything(connection).count(b"HTTP/1.1 ") == 1
        wait_for(lambda: not api.connections())


def test_an_answer_without_end_is_not_cut_for_what_its_client_says(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.1)
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.2)
    with serving(bars) as api, connected(api) as connection:
        connection.sendall(b"GET /sse/ohlcv?symbols=BTCUSDT HTTP/1.1\r\nHost: localhost\r\n\r\n" + BEGIN)
        found = b""
        while found.count(b"still here") < 3:
            part = connection.recv(65_536)
            assert part, found
            found += part


def test_many_requests_of_one_connection_are_not_one_long_head(shared_api: Api) -> None:
    one = BEGIN + b"X: " + b"a" * 10_000 + b"\r\n"
    with connected(shared_api) as connection:
        for _ in range(10):
            connection.sendall(one + b"\r\n")
        connection.sendall(one + b"Connection: close\r\n\r\n")
        assert everything(connection).count(b"HTTP/1.1 200 ") == 11


def test_a_body_is_no_head(shared_api: Api) -> None:
    body = b"a" * 2 * MAX_HEAD_BYTES
    with connected(shared_api) as connection:
        connection.sendall(BEGIN + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        assert everything(connection).startswith(b"HTTP/1.1 200 ")


UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("begin", [b"GET /sse/ohlcv", b"GET /ws/ohlcv"], ids=["events", "websocket"])
def test_a_cut_client_that_reads_nothing_keeps_no_connection(
    bars: Settings, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """More is sent than the sockets hold, so that closing would wait for the client."""
    monkeypatch.setattr(http_server, "STUCK_S", 0.2)
    monkeypatch.setattr(live, "_message", lambda *_: b"x" * 20_000_000)
    with serving(bars) as api, connected(api) as connection:
        host = b"?symbols=BTCUSDT HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(begin + host + UPGRADE * (b"/ws/" in begin) + b"\r\n")
        wait_for(lambda: api.hub.clients == 1)
        api.hub.close()
        wait_for(lambda: not api.connections())


def test_a_slow_reader_of_a_large_answer_gets_all_of_it(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "STUCK_S", 0.2)
    monkeypatch.setattr("cryptolake_assets.api.page_reader.formats.encode", lambda *_: b"x" * 20_000_000)
    with serving(bars) as api, connected(api) as connection:
        connection.sendall(b"GET /ohlcv/1m?symbol=BTCUSDT HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = 0
        while part := connection.recv(1_000_000):
            got += len(part)
            time.sleep(0.02)
        assert got > 20_000_000


HANDSHAKE = (
    b"GET /ws/ohlcv?symbols=BTCUSDT HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\r\n",
        b"Sec-WebSocket-Version: 13\r\n\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 12\r\n\r\n",
        b"X: " + b"a" * 9_000 + b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"X: " + b"a" * 9_000,
    ],
)
def test_handshake_that_is_not_finished_or_too_long_is_ended(
    bars: Settings, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.3)
    with serving(bars) as api, connected(api) as connection:
        connection.settimeout(5)
        connection.sendall(HANDSHAKE + rest)
        everything(connection)
        wait_for(lambda: api.connections() == 0)
