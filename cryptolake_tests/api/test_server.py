"""What the server does before the app hears of a request, on bare sockets."""

from __future__ import annotations

import json
import socket

from cryptolake_assets.api.server import MAX_HEAD_BYTES
from cryptolake_tests.api.conftest import Api

BEGIN = b"GET /symbols HTTP/1.1\r\nHost: x\r\n"


def connected(api: Api) -> socket.socket:
    return socket.create_connection((api.base_url.host, api.base_url.port or 80), 20)


def everything(connection: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_a_head_without_end_is_refused_while_it_comes(api: Api) -> None:
    with connected(api) as connection:
        connection.sendall(BEGIN + b"X: " + b"a" * MAX_HEAD_BYTES)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "urn:cryptolake:problem:request-too-large"


def test_many_requests_of_one_connection_are_not_one_long_head(api: Api) -> None:
    one = BEGIN + b"X: " + b"a" * 10_000 + b"\r\n"
    with connected(api) as connection:
        for _ in range(10):
            connection.sendall(one + b"\r\n")
        connection.sendall(one + b"Connection: close\r\n\r\n")
        assert everything(connection).count(b"HTTP/1.1 200 ") == 11


def test_a_body_is_no_head(api: Api) -> None:
    body = b"a" * 2 * MAX_HEAD_BYTES
    with connected(api) as connection:
        connection.sendall(BEGIN + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        assert everything(connection).startswith(b"HTTP/1.1 200 ")
