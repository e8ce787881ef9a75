"""The HTTP server of the API: uvicorn with limits on the size of a request's head and the time to receive a request.

uvicorn's parser buffers a head without limit, and its work is quadratic in the length of a header: one client without
a key could block all others. It has no timeout for receiving a request either.
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

MAX_HEAD_BYTES = 64 * 1024  # of a request line with headers; exceeded by at most one read of the socket
# Maximum seconds to receive a request, from the connection or its first byte on, once the previous response is sent.
REQUEST_S = 10.0
GRACE_S = 3  # seconds that open connections have to end by themselves at shutdown
STUCK_S = 5.0  # a closing connection is dropped, with its unsent data, if its client reads nothing for this long


_watched: WeakSet[ServerState] = WeakSet()


class BoundedProtocol(HttpToolsProtocol):
    """Reject a request whose head exceeds `MAX_HEAD_BYTES` or that takes longer than `REQUEST_S` to receive.

    Respond to malformed requests with a problem, instead of uvicorn's plain text.
    """

    _head_bytes: int | None = 0  # received bytes of the current head; None while a body is received
    _due: asyncio.TimerHandle | None = None  # timeout of the request that is awaited

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
        elif self._answered:  # no request yet, but the data has cancelled uvicorn's keep-alive timeout
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
            self._await_request()  # the previous response is still being sent
        elif self._head_bytes:
            said = f"A request must be whole within {REQUEST_S:g} s."
            self._reject(Problem(408, "request-too-slow", "Request too slow", said))
        else:
            self.transport.close()

    def _reject(self, problem: Problem) -> None:
        if self._answered:  # otherwise it would be written into the previous response
            self.transport.write(_as_http(problem))
        self.transport.close()


def _drop_stuck(loop: asyncio.AbstractEventLoop, server: ServerState, left_before: dict[Any, int]) -> None:
    """Abort closing connections whose clients read nothing: closing waits until everything is sent."""
    closing = (each.transport for each in server.connections if each.transport.is_closing())
    left = {transport: transport.get_write_buffer_size() for transport in closing}
    for transport in [each for each, size in left.items() if left_before.get(each) == size]:
        transport.abort()
    if server.connections:
        loop.call_later(STUCK_S, _drop_stuck, loop, server, left)
    else:
        _watched.discard(server)


class QuietWebSocket(WebSocketsSansIOProtocol):
    """Treat a handshake that was answered by an error as complete; uvicorn's own class logs a fault then.

    Close a connection whose handshake takes longer than `REQUEST_S`: the parser waits without limit, also for the end
    of a line that is too long.
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


# Keyword arguments for `uvicorn.run`.
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
