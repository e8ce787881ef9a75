"""The HTTP server's limits before a request reaches the app, tested on plain sockets."""

from __future__ import annotations

import json
import re
import socket
import time
from functools import partial

import pytest

from cryptolake_assets.api import http_server, live
from cryptolake_assets.api.http_server import MAX_HEAD_BYTES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import Api, serving
from cryptolake_tests.support.waiting import wait_for

BEGIN = b"GET /symbols HTTP/1.1\r\nHost: localhost\r\n"


def connected(api: Api) -> socket.socket:
    return socket.create_connection((api.base_url.host, api.base_url.port or 80), 20)


def read_to_end(connection: socket.socket) -> bytes:
    """Return all data until the server closes the connection."""
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_endless_head_is_rejected_while_it_is_received(shared_api: Api) -> None:
    with connected(shared_api) as connection:
        connection.sendall(BEGIN + b"X: " + b"a" * MAX_HEAD_BYTES)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "urn:cryptolake:problem:request-too-large"


def test_malformed_request_gets_problem_details(shared_api: Api) -> None:
    with connected(shared_api) as connection:
        connection.sendall(b"hello there\r\n\r\n")
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "urn:cryptolake:problem:malformed-request"


def test_incomplete_request_is_dropped(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, part of a head, part of a later head, only blank lines, or part of a body."""
    monkeypatch.setattr(http_server, "REQUEST_S", 0.3)
    with serving(bars) as api:
        with connected(api) as connection:
            assert read_to_end(connection) == b""
        with connected(api) as connection:
            connection.sendall(BEGIN)
            head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body)["type"] == "urn:cryptolake:problem:request-too-slow"
        for more in (BEGIN, b"\r\n"):
            with connected(api) as connection:
                connection.sendall(BEGIN + b"\r\n")
                found = connection.recv(65_536)
                connection.sendall(more)
                found += read_to_end(connection)
                assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"408"]
        with connected(api) as connection:
            connection.sendall(BEGIN + b"Content-Length: 10\r\n\r\nabc")
            assert read_to_end(connection).count(b"HTTP/1.1 ") == 1
        wait_for(lambda: not api.connections())


def test_endless_response_is_not_ended_by_data_of_its_client(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.1)
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.2)
    with serving(bars) as api, connected(api) as connection:
        connection.sendall(b"GET /sse/ohlcv?symbols=BTCUSDT HTTP/1.1\r\nHost: localhost\r\n\r\n" + BEGIN)
        found = b""
        while found.count(b"heartbeat") < 3:
            part = connection.recv(65_536)
            assert part, found
            found += part


def test_many_requests_of_one_connection_do_not_count_as_one_head(shared_api: Api) -> None:
    one = BEGIN + b"X: " + b"a" * 10_000 + b"\r\n"
    with connected(shared_api) as connection:
        for _ in range(10):
            connection.sendall(one + b"\r\n")
        connection.sendall(one + b"Connection: close\r\n\r\n")
        assert read_to_end(connection).count(b"HTTP/1.1 200 ") == 11


def test_body_does_not_count_as_head(shared_api: Api) -> None:
    body = b"a" * 2 * MAX_HEAD_BYTES
    with connected(shared_api) as connection:
        connection.sendall(BEGIN + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("begin", [b"GET /sse/ohlcv", b"GET /ws/ohlcv"], ids=["events", "websocket"])
def test_connection_of_a_disconnected_client_that_reads_nothing_is_closed(
    bars: Settings, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """The server sends more than the sockets buffer, so that closing would wait for the client."""
    monkeypatch.setattr(http_server, "STUCK_S", 0.2)
    monkeypatch.setattr(live, "_message", lambda *_: b"x" * 20_000_000)
    with serving(bars) as api, connected(api) as connection:
        host = b"?symbols=BTCUSDT HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(begin + host + UPGRADE * (b"/ws/" in begin) + b"\r\n")
        wait_for(lambda: api.hub.clients == 1)
        api.hub.close()
        wait_for(lambda: not api.connections())


def test_slow_reader_gets_all_of_a_large_response(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "STUCK_S", 0.2)
    monkeypatch.setattr("cryptolake_assets.api.page_reader.formats.encode", lambda *_: b"x" * 20_000_000)
    with serving(bars) as api, connected(api) as connection:
        connection.sendall(b"GET /ohlcv/1m?symbol=BTCUSDT HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = 0
        while part := connection.recv(1_000_000):
            received += len(part)
            time.sleep(0.02)
        assert received > 20_000_000


REQUEST = b"GET /ohlcv/1m?symbol=BTCUSDT HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_client_that_does_not_read_its_response_is_dropped(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "STUCK_S", 0.1)
    monkeypatch.setattr(http_server, "SEND_S", 0.3)
    monkeypatch.setattr("cryptolake_assets.api.page_reader.formats.encode", lambda *_: b"x" * 20_000_000)
    with serving(bars) as api, connected(api) as connection:
        connection.sendall(REQUEST)
        wait_for(lambda: bool(api.connections()))
        wait_for(lambda: not api.connections(), timeout_s=20)


def test_responses_of_slow_clients_are_bounded(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_UNSENT_BYTES", 40_000_000)
    monkeypatch.setattr("cryptolake_assets.api.page_reader.formats.encode", lambda *_: b"x" * 30_000_000)
    with serving(bars) as api, connected(api) as one, connected(api) as other:
        for slow, at_least in ((one, 20_000_000), (other, 40_000_000)):
            slow.sendall(REQUEST)
            wait_for(partial(exceeds, api, at_least))
        with connected(api) as third:
            third.sendall(REQUEST)
            assert read_to_end(third).startswith(b"HTTP/1.1 503 ")
        one.close()
        wait_for(lambda: api.unsent_bytes() < 40_000_000)
        with connected(api) as third:
            third.sendall(BEGIN + b"\r\n")
            assert third.recv(65_536).startswith(b"HTTP/1.1 200 ")


def exceeds(api: Api, size: int) -> bool:
    return api.unsent_bytes() > size


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
def test_unfinished_or_too_long_handshake_is_ended(
    bars: Settings, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.3)
    with serving(bars) as api, connected(api) as connection:
        connection.settimeout(5)
        connection.sendall(HANDSHAKE + rest)
        read_to_end(connection)
        wait_for(lambda: api.connections() == 0)
