"""One WebSocket connection of the simulation: frames arrive in order after a latency, until a fault."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close

_decode = msgspec.json.Decoder().decode


class SimulatedSocket:
    """The client's end (an `ExchangeSocket`), and the line to the exchange."""

    def __init__(
        self,
        number: int,
        symbols: frozenset[str],
        latency_s: float,
        close_timeout_s: float,
        ended: Callable[[SimulatedSocket], None],
    ) -> None:
        """`ended` is called when the exchange no longer sends to the connection."""
        self.number = number
        self.symbols = symbols
        self.latency_s = latency_s
        self._close_timeout_s = close_timeout_s
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._on_the_way: deque[Sequence[bytes]] = deque()
        self._received: deque[bytes] = deque()
        self._free_at = 0.0  # arrival of the last frame on the way
        self._waiter: asyncio.Future[None] | None = None
        self._closed: Exception | None = None
        self.is_stalled = False  # half open: nothing arrives in either direction, and nobody knows
        self.delayed: list[bytes] = []  # frames that follow the next one

    # The exchange's end.

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Send frames to the client."""
        if self.is_stalled or self._closed is not None:
            return
        if self.delayed:
            frames, self.delayed = [*frames, *self.delayed], []
        self._free_at = max(self._free_at, self._loop.time() + self.latency_s)
        self._on_the_way.append(frames)
        self._loop.call_at(self._free_at, self._arrive)

    def cut(self, code: int = 1006, *, loses: bool = True) -> None:
        """End the connection; `loses`: frames on the way are lost, otherwise the client reads them first."""
        if self._closed is not None:
            return
        if loses:
            self._on_the_way.clear()
        while self._on_the_way:
            self._arrive()
        received = None if code == 1006 else Close(code, "")
        self._end(ConnectionClosedError(received, None))

    def stall(self) -> None:
        """Make the connection half open."""
        self.is_stalled = True
        self._on_the_way.clear()
        self._ended(self)

    def _arrive(self) -> None:
        if not self._on_the_way:
            return
        self._received += self._on_the_way.popleft()
        self._wake()

    def _end(self, closed: Exception) -> None:
        if self._closed is None:
            self._closed = closed
            self._ended(self)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The client's end.

    async def recv(self, decode: bool | None = None) -> Any:  # noqa: ARG002
        while not self._received:
            if self._closed is not None:
                raise self._closed
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._received.popleft()

    async def send(self, message: str) -> None:
        if self._closed is not None:
            raise self._closed
        if not self.is_stalled:
            request = _decode(message)
            response = b'{"result":[],"id":%d}' % request["id"]
            self._loop.call_later(self.latency_s, self.deliver, [response])

    async def ping(self) -> Awaitable[float]:
        if self._closed is not None:
            raise self._closed
        pong: asyncio.Future[float] = self._loop.create_future()
        if not self.is_stalled:
            self._loop.call_later(2 * self.latency_s, self._pong, pong)
        return pong

    def _pong(self, pong: asyncio.Future[float]) -> None:
        if not pong.done() and not self.is_stalled and self._closed is None:
            pong.set_result(2 * self.latency_s)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self._closed is None:
            self._ended(self)
            await asyncio.sleep(self._close_timeout_s if self.is_stalled else self.latency_s)
            self._end(ConnectionClosedOK(Close(code, reason), Close(code, reason), False))
