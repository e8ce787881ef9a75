"""The HTTP server under the API: uvicorn, with a bound on what a request may say before it is heard.

Its parser collects a request's head without end, and its time grows with the square of a header's length: one client
without a key would keep everybody waiting.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cryptolake_assets.api.observe import SECURITY_HEADERS
from cryptolake_assets.api.problems import MEDIA_TYPE, Problem

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers, beside what the socket gives at once."""
GRACE_S = 3
"""What an open connection has to end by itself."""
TOO_LONG = Problem(
    431,
    "request-too-large",
    "Request too large",
    f"Address and headers may have {MAX_HEAD_BYTES >> 10} KiB together.",
)


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose head is longer than `MAX_HEAD_BYTES`."""

    _head_bytes: int | None = 0
    """Of the head that is being received; None while there is none."""

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self._ends_in(data):
                self._refuse()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_bytes or 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = 0

    def _refuse(self) -> None:
        body = TOO_LONG.body()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *SECURITY_HEADERS,
        ]
        lines = [b"HTTP/1.1 431 Request Header Fields Too Large", *(b": ".join(item) for item in headers), b"", body]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()
