"""One WebSocket client of the replay exchange: its subscriptions, its queue, its keep-alive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import structlog
from aiohttp import WSMsgType, web

log = structlog.get_logger(__name__)

_SEND_BATCH = 256
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS")


class Route(Enum):
    """The exchange's routed paths: since 2026 each serves its own kinds of stream."""

    MARKET = "market"
    PUBLIC = "public"
    LEGACY = "legacy"

    def serves(self, stream: str) -> bool:
        """Whether frames of a stream come on this path; others are acknowledged and stay silent."""
        if self is Route.LEGACY:
            return True
        kind = stream.rpartition("!")[2] if stream.startswith("!") else stream.partition("@")[2]
        return kind.startswith(("depth", "bookTicker")) is (self is Route.PUBLIC)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a client may cost; the defaults of the pings are the exchange's."""

    ping_interval_s: float = 180.0
    pong_timeout_s: float = 600.0
    max_queue_frames: int = 200_000
    max_queue_bytes: int = 64 << 20


class _Envelope(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()  # not `Raw | None`: msgspec then refuses every object
    e: str = ""
    s: str = ""


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class RoutedFrame:
    """A recorded frame with the stream it belongs to (None: to everybody) and its two forms on the wire."""

    __slots__ = ("_data", "combined", "raw_stream", "stream")

    def __init__(self, raw: str) -> None:
        """Frames of combined streams are sent as recorded; those recorded from a raw stream get their envelope."""
        self.combined = self.raw_stream = raw
        self.stream: str | None = None
        try:
            envelope = _decode_envelope(raw)
        except (msgspec.MsgspecError, RecursionError):
            return
        if envelope.stream:
            self.stream = envelope.stream
            self.raw_stream = bytes(envelope.data).decode() or raw
        elif envelope.e in ("trade", "aggTrade", "bookTicker") and envelope.s:
            self.stream = f"{envelope.s.lower()}@{envelope.e}"
            self.combined = f'{{"stream":"{self.stream}","data":{raw}}}'


class ReplayClient:
    """A connected client. Frames are offered to it; a task of its own sends them, so that it delays nobody else."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        route: Route,
        *,
        combined: bool,
        limits: ClientLimits,
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._route = route
        self._combined = combined
        self._limits = limits
        self._queue: deque[tuple[str, bool]] = deque()  # text, and whether it is a recorded frame
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._ponged = asyncio.Event()
        self.drained = asyncio.Event()
        """Set while nothing waits to be sent, and for good once the client is gone."""
        self.drained.set()
        self.gone = False
        self.frames_sent = 0
        self._subscriptions: dict[str, None] = {}
        self._served: frozenset[str] = frozenset()

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return tuple(self._subscriptions)

    @property
    def subscribed(self) -> bool:
        return bool(self._subscriptions) and not self.gone

    def subscribe(self, streams: Iterable[str]) -> None:
        self._subscriptions |= dict.fromkeys(streams)
        self._served = frozenset(filter(self._route.serves, self._subscriptions))

    def unsubscribe(self, streams: Iterable[str]) -> None:
        for stream in streams:
            self._subscriptions.pop(stream, None)
        self._served = frozenset(filter(self._route.serves, self._subscriptions))

    def offer(self, frames: Sequence[RoutedFrame]) -> None:
        """Queues the frames of this client's streams. A client whose queue is full is cut, as the exchange does."""
        served = self._served
        for frame in frames:
            if frame.stream is None or frame.stream in served:
                self._enqueue(frame.combined if self._combined else frame.raw_stream, is_frame=True)
        self._check_queue()

    def cut(self, reason: str) -> None:
        """Drops the connection at once, without a closing handshake: the peer may not be reading."""
        if not self.gone:
            log.warning("replay_client_cut", reason=reason, queued=len(self._queue), frames_sent=self.frames_sent)
            self.leave()
            self._transport.abort()

    def leave(self) -> None:
        """Marks the client as gone and lets go of its queue."""
        self.gone = True
        self._queue.clear()
        self._queued_bytes = 0
        self.drained.set()

    async def close(self) -> None:
        """Says goodbye as the exchange does before maintenance, and gives the peer a second to answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._socket.close(code=1001, message=b"going away")
        self.leave()
        self._transport.abort()

    async def send_queued(self) -> None:
        """Sends what is queued, in order, until the client is gone."""
        while not self.gone:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_SEND_BATCH, len(self._queue)))]
                try:
                    await self._deliver(batch)
                except (ConnectionError, RuntimeError):  # the socket is closing: the reading side ends the client
                    self.leave()
                    return
                self._queued_bytes = max(0, self._queued_bytes - sum(len(text) for text, _ in batch))
            self.drained.set()

    async def _deliver(self, batch: Sequence[tuple[str, bool]]) -> None:
        """Puts one batch on the socket. Every recorded frame passes here, once per client: faults (cut, stall,
        duplicate, reorder, drop, corrupt) belong here and nowhere else."""
        send = self._socket.send_str
        for text, is_frame in batch:
            await send(text)
            self.frames_sent += is_frame

    async def keep_alive(self) -> None:
        """Pings the client, and drops one that leaves pings unanswered for too long."""
        limits = self._limits
        while not self.gone:
            await asyncio.sleep(limits.ping_interval_s)
            self._ponged.clear()
            try:
                async with asyncio.timeout(limits.pong_timeout_s):
                    while not self._ponged.is_set():
                        await self._socket.ping(str(time.time_ns() // 10**6).encode())
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._ponged.wait(), limits.ping_interval_s)
            except TimeoutError:
                self.cut("no_pong")
            except ConnectionError:
                return

    async def receive(self, on_subscribed: asyncio.Event) -> None:
        """Reads the client's messages until it leaves; sets `on_subscribed` when it subscribes to something."""
        async for message in self._socket:
            if message.type is WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._ponged.set()
            elif message.type is WSMsgType.TEXT:
                self._enqueue(msgspec.json.encode(self._execute(message.data)).decode(), is_frame=False)
                self._check_queue()
                if self.subscribed:
                    on_subscribed.set()

    def _execute(self, text: str) -> dict[str, Any]:
        """Carries out one request and gives its answer, which is queued behind the frames that preceded it."""
        try:
            request = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.ValidationError:
            return _error(2, "Invalid request: expected an object")
        except (msgspec.MsgspecError, RecursionError) as error:
            return _error(3, f"Invalid JSON: {error}")
        request_id, method, params = request.get("id"), request.get("method"), request.get("params", [])
        if not isinstance(request_id, int) or isinstance(request_id, bool) or request_id < 0:
            return _error(2, "Invalid request: request ID must be an unsigned integer")
        if method is None:
            return _error(2, "Invalid request: missing field `method`", request_id)
        if method not in _METHODS:
            expected = ", ".join(f"`{name}`" for name in _METHODS)
            return _error(2, f"Invalid request: unknown variant `{method}`, expected one of {expected}", request_id)
        if not isinstance(params, list) or not all(isinstance(stream, str) and stream for stream in params):
            return _error(2, "Invalid request: params must be a list of stream names", request_id)
        if method == "SUBSCRIBE":
            self.subscribe(params)
        elif method == "UNSUBSCRIBE":
            self.unsubscribe(params)
        result = list(self._subscriptions) if method == "LIST_SUBSCRIPTIONS" else None
        return {"result": result, "id": request_id}

    def _enqueue(self, text: str, *, is_frame: bool) -> None:
        if self.gone:
            return
        self._queue.append((text, is_frame))
        self._queued_bytes += len(text)
        self.drained.clear()
        self._wake.set()

    def _check_queue(self) -> None:
        if len(self._queue) > self._limits.max_queue_frames or self._queued_bytes > self._limits.max_queue_bytes:
            self.cut("queue_full")


def _error(code: int, text: str, request_id: int | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = {"error": {"code": code, "msg": text}}
    return answer if request_id is None else answer | {"id": request_id}
