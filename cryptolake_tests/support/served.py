"""The replay exchange for synchronous tests, and a proxy that truncates its responses."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_tests.support.waiting import wait_for


class ServedExchange:
    """The replay exchange on a socket, in its own thread, its clock at `clock_ms`; the context yields its URL."""

    def __init__(self, directory: Path, clock_ms: int | None = None) -> None:
        self._replay = ReplayExchange(directory, speed=0)
        self._clock_ms = clock_ms
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._replay.start(), self._loop).result(30)
        if (clock_ms := self._clock_ms) is not None:
            self._loop.call_soon_threadsafe(self._replay.clock.advance_to, clock_ms * 1_000_000)
            wait_for(lambda: self._replay.clock.now_ms() == clock_ms)
        return self._replay.url

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._replay.stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class TruncatingProxy:
    """A TCP proxy to a server: the first responses end after `cut_after` bytes each, later ones are complete.

    `sent` holds the requests (first line and headers), in order.
    """

    def __init__(self, url: str, cut_after: list[int]) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._upstream = (host, int(port))
        self._cuts = list(cut_after)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent: list[str] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> TruncatingProxy:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        """Relay one request per connection, so that every response can be cut; never cut a `.CHECKSUM`."""
        with client, socket.create_connection(self._upstream) as server:
            request = client.recv(65536)
            self.sent.append(request.decode())
            left = self._cuts.pop(0) if self._cuts and b".CHECKSUM" not in request.split(b"\r\n")[0] else 1 << 40
            head = request.replace(b"Connection: keep-alive", b"Connection: close")
            server.sendall(head.replace(b"connection: keep-alive", b"connection: close"))
            while left > 0 and (data := server.recv(min(left, 65536))):
                client.sendall(data)
                left -= len(data)
