"""The HTTP server under the API: uvicorn, with bounds on what a request may say before it is heard, and for how long.

Its parser collects a request's head without end, and its work grows with the square of a header's length: one client
without a key could keep all others waiting. Nor does it mind how long a request takes to come.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
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
REQUEST_S = 10.0
"""In which a request must have come, from the connection or its own first byte on, and the answer before it is out."""
GRACE_S = 3
"""What an open connection has to end by itself."""
STUCK_S = 5.0
"""A closed connection whose client has taken nothing for so long is dropped with what was left to send."""


_watched: WeakSet[ServerState] = WeakSet()


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose head does not end within `MAX_HEAD_BYTES`, or that is not there within `REQUEST_S`; and
    says what uvicorn says in plain text as the API's other errors."""

    _head_bytes: int | None = 0
    """Of the head that is being received; None while it is a body."""
    _due: asyncio.TimerHandle | None = None
    """Ends the connection, while a request is awaited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.server_state not in _watched:
            _watched.add(self.server_state)
            self.loop.call_later(STUCK_S, _drop_stuck, self.loop, self.server_state, {})
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            said = f"The address and the headers may have {MAX_HEAD_BYTES >> 10} KiB together."
            self._reject(Problem(431, "request-too-large", "Request too large", said))
        elif self._answered:  # what came was no request: it has only ended uvicorn's own wait for one
            self._await_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_request()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self._stop_waiting()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._reject(Problem(400, "malformed-request", "Malformed request", f"{msg} HTTP/1.1 is wanted."))

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_request(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(REQUEST_S, self._request_is_late)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _request_is_late(self) -> None:
        self._due = None
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if not self._answered:
            self._await_request()  # it waits behind an answer
        elif self._head_bytes:
            said = f"A request must be whole within {REQUEST_S:g} s."
            self._reject(Problem(408, "request-too-slow", "Request too slow", said))
        else:
            self.transport.close()

    def _reject(self, problem: Problem) -> None:
        if self._answered:  # otherwise it would stand in an earlier answer
            self.transport.write(_as_http(problem))
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
    """Knows that a handshake is over when it was answered by an error; uvicorn's own logs a fault then.

    Closes a connection whose handshake is not over in time: its parser waits without end, for a line that is too long
    too.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._handshake_is_late)

    def _handshake_is_late(self) -> None:
        if not self.handshake_complete:
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True


def _as_http(problem: Problem) -> bytes:
    body = problem.body()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *SECURITY_HEADERS,
    ]
    status = HTTPStatus(problem.status)
    head = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(b": ".join(item) for item in headers)]
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
