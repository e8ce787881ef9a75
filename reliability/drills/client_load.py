"""API clients of a drill: slow exports, deaf live clients, busy readers, and one that measures how it is served."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx

_SMALL_BUFFER: Final = 2_048  # bytes; the kernel makes it a little larger
_LIVE: Final = (
    "GET /sse/ohlcv?symbols={symbol} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /ws/ohlcv?symbols={symbol} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
)
_EXPORT: Final = "GET /trades?symbol={symbol}&format=csv HTTP/1.1\r\nHost: {host}\r\n\r\n"
_TIMEOUT_S: Final = 60.0


@dataclass
class ClientLoad:
    """Clients of one API, from entering the context to leaving it."""

    url: str
    symbol: str
    exports: int  # each reads a byte a second
    deaf: int  # subscribe to live bars and never read
    readers: int  # request bars as fast as they are served
    latencies_s: list[float] = field(default_factory=list)  # of one more reader, every 0.2 s
    failures: list[str] = field(default_factory=list)  # of that reader
    _sockets: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> ClientLoad:
        slow = [self._open(_EXPORT) for _ in range(self.exports)]
        for request in itertools.islice(itertools.cycle(_LIVE), self.deaf):
            self._open(request)
        self._start(lambda: self._read_slowly(slow))
        for number in range(self.readers):
            self._start(lambda number=number: self._read_fast(number))  # type: ignore[misc]
        self._start(self._measure)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S)
        for each in self._sockets:
            each.close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _open(self, request: str) -> socket.socket:
        address = urlsplit(self.url)
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        found.settimeout(_TIMEOUT_S)
        found.connect((address.hostname, address.port))
        found.sendall(request.format(symbol=self.symbol, host=address.netloc).encode())
        self._sockets.append(found)
        return found

    def _read_slowly(self, slow: list[socket.socket]) -> None:
        for each in slow:
            each.setblocking(False)
        while not self._stop.wait(1.0):
            for each in slow:
                with contextlib.suppress(OSError):
                    each.recv(1)

    def _read_fast(self, number: int) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=_TIMEOUT_S) as client:
            for turn in itertools.count(1):
                if self._stop.is_set():
                    return
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/ohlcv/1m", params={"symbol": self.symbol, "limit": 1 + (turn + number * 7) % 500})

    def _measure(self) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=_TIMEOUT_S) as client:
            while not self._stop.wait(0.2):
                began = time.monotonic()
                try:
                    client.get("/ohlcv/1m", params={"symbol": self.symbol, "limit": 100}).raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self.latencies_s.append(time.monotonic() - began)
