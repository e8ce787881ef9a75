"""The HTTP server of the API: uvicorn with limits on requests that are received and responses that are sent slowly.

uvicorn's parser buffers a head without limit, and its work is quadratic in the length of a header: one client without
a key could block all others. It has no timeout for receiving a request or sending a response either: each client that
does not read would keep its response in memory.
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
GRACE_S = 3  # maximum seconds for open connections to end at shutdown
STUCK_S = 5.0  # a closing connection is dropped, with its unsent data, if its client reads nothing for this long
SEND_S = 60.0  # any other connection with unsent data
# While the responses that wait for their clients exceed this, further requests are rejected.
MAX_UNSENT_BYTES = 256 * 1024 * 1024


_watched_servers: WeakSet[ServerState] = WeakSet()


class BoundedProtocol(HttpToolsProtocol):
    """Reject a request whose head exceeds `MAX_HEAD_BYTES` or that takes longer than `REQUEST_S` to receive.

    Respond to malformed requests with a problem, instead of uvicorn's plain text.
    """

    _head_bytes: int | None = 0  # bytes received of the current head; None while a body is received
    _timeout: asyncio.TimerHandle | None = None  # of the awaited request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.server_state not in _watched_servers:
            _watched_servers.add(self.server_state)
            self.loop.call_later(STUCK_S, _drop_stuck, self.loop, self.server_state, {})
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timeout()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            detail = f"The request line and the headers exceed {MAX_HEAD_BYTES >> 10} KiB."
            self._reject(Problem(431, "request-too-large", "Request too large", detail))
        elif self._response_complete:  # no request yet, but the data has cancelled uvicorn's keep-alive timeout
            self._await_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_request()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        is_next = self._response_complete and not self.parser.should_upgrade()
        if is_next and unsent_bytes(self.server_state) > MAX_UNSENT_BYTES:
            detail = "Other clients are reading their responses too slowly. Try again later."
            self._reject(Problem(503, "too-many-clients", "Too many slow clients", detail))
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self._cancel_timeout()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._reject(Problem(400, "malformed-request", "Malformed request", f"{msg} Send an HTTP/1.1 request."))

    @property
    def _response_complete(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_request(self) -> None:
        if self._timeout is None:
            self._timeout = self.loop.call_later(REQUEST_S, self._request_timed_out)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _request_timed_out(self) -> None:
        self._timeout = None
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if not self._response_complete:
            self._await_request()  # the previous response is still being sent
        elif self._head_bytes:
            detail = f"The request was not complete within {REQUEST_S:g} s."
            self._reject(Problem(408, "request-too-slow", "Request too slow", detail))
        else:
            self.transport.close()

    def _reject(self, problem: Problem) -> None:
        if self._response_complete:  # otherwise it would be written into the previous response
            self.transport.write(_as_http(problem))
        self.transport.close()


def unsent_bytes(server: ServerState) -> int:
    """Return the total size of the data that waits for clients to read."""
    return sum(each.transport.get_write_buffer_size() for each in server.connections)


def _drop_stuck(
    loop: asyncio.AbstractEventLoop, server: ServerState, stuck: dict[asyncio.Transport, tuple[int, float]]
) -> None:
    """Abort connections whose clients read nothing; closing, too, waits until everything is sent.

    `stuck` has the unsent bytes of each connection, and since when there are as many.
    """
    now = loop.time()
    sizes = {each.transport: each.transport.get_write_buffer_size() for each in server.connections}
    found = {
        transport: stuck[transport] if stuck.get(transport, (0, 0.0))[0] == size else (size, now)
        for transport, size in sizes.items()
        if size or transport.is_closing()
    }
    for transport, (_, since) in found.items():
        if transport in stuck and now - since >= (STUCK_S / 2 if transport.is_closing() else SEND_S):
            transport.abort()
    if server.connections:
        loop.call_later(STUCK_S, _drop_stuck, loop, server, found)
    else:
        _watched_servers.discard(server)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Treat a rejected handshake as complete; uvicorn's own class would log an error.

    Close a connection whose handshake takes longer than `REQUEST_S`: the parser waits without limit, also for the end
    of a line that is too long.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._handshake_timed_out)

    def _handshake_timed_out(self) -> None:
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
    "ws": BoundedWebSocket,
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "date_header": False,
    "timeout_graceful_shutdown": GRACE_S,
    "ws_max_size": 4096,
}
