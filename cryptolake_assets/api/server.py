"""The HTTP server under the API: uvicorn, with a bound on what a request may say before it is heard.

Its parser collects a request's head without end, and its work grows with the square of a header's length: one client
without a key could keep all others waiting.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from cryptolake_assets.api.observe import SECURITY_HEADERS
from cryptolake_assets.api.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from uvicorn.server import ServerState

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers, beside what the socket gives at once."""
GRACE_S = 3
"""What an open connection has to end by itself."""
STUCK_S = 5.0
"""A closed connection whose client has taken nothing for so long is dropped with what was left to send."""


_watched: WeakSet[ServerState] = WeakSet()


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose head does not end within `MAX_HEAD_BYTES`."""

    _head_bytes: int | None = 0
    """Of the head that is being received; None while it is a body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.server_state not in _watched:
            _watched.add(self.server_state)
            self.loop.call_later(STUCK_S, _drop_stuck, self.loop, self.server_state, {})

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # otherwise it would stand in an earlier answer
            self.transport.write(_too_large())
        self.transport.close()


def _drop_stuck(loop: asyncio.AbstractEventLoop, server: ServerState, left_before: dict[Any, int]) -> None:
    """Closing waits until everything is sent, and for a client that does not read it would wait for ever."""
    closing = (each.transport for each in server.connections if each.transport.is_closing())
    left = {transport: transport.get_write_buffer_size() for transport in closing}
    for transport in [each for each, size in left.items() if left_before.get(each) == size]:
        transport.abort()
    if server.connections:
        loop.call_later(STUCK_S, _drop_stuck, loop, server, left)
    else:
        _watched.discard(server)


class QuietWebSocket(WebSocketsSansIOProtocol):
    """Knows that a handshake is over when it was answered by an error; uvicorn's own logs a fault then."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True


def _too_large() -> bytes:
    said = f"The address and the headers may have {MAX_HEAD_BYTES >> 10} KiB together."
    body = Problem(431, "request-too-large", "Request too large", said).body()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *SECURITY_HEADERS,
    ]
    head = [b"HTTP/1.1 431 Request Header Fields Too Large", *(b": ".join(item) for item in headers)]
    return b"\r\n".join([*head, b"", body])


OPTIONS: dict[str, Any] = {
    "http": BoundedProtocol,
    "ws": QuietWebSocket,
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "date_header": False,
    "timeout_graceful_shutdown": GRACE_S,
    "ws_max_size": 4096,
}
"""For uvicorn."""
