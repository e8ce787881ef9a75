"""One WebSocket client of the replay exchange: subscriptions, send queue, keep-alive, faults."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import structlog
from aiohttp import WSMsgType, web

from cryptolake_assets.binance.control_frames import ControlKind, read_control
from cryptolake_assets.binance.raw_streams import stream_of_document, stream_of_event, without_speed
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.replay_faults import Cut, FaultBoard, HalfOpen, Shutdown, Stall
from cryptolake_assets.replay.faulty_line import FaultyLine, NumberedFrame, ReplayedFrame, Step

log = structlog.get_logger(__name__)

_SEND_BATCH = 256
_LIFE_CHECK_S = 1.0
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS")


class Route(Enum):
    """The exchange's routed paths: since 2026 each path serves its own stream kinds."""

    MARKET = "market"
    PUBLIC = "public"
    LEGACY = "legacy"

    def serves(self, stream: str) -> bool:
        """Return whether this path sends a stream's frames; other subscriptions are acknowledged but send nothing."""
        if self is Route.LEGACY:
            return True
        kind = stream.rpartition("!")[2] if stream.startswith("!") else stream.partition("@")[2]
        return kind.startswith(("depth", "bookTicker")) is (self is Route.PUBLIC)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of a client. The defaults of pings and connection life are the exchange's."""

    ping_interval_s: float = 180.0
    pong_timeout_s: float = 600.0
    connection_life_s: float = 86_400.0
    max_queue_frames: int = 200_000
    max_queue_bytes: int = 64 << 20


class _Envelope(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()  # with `Raw | None`, msgspec would reject every object
    e: str = ""
    s: str = ""
    o: Any = None


class _Numbered(msgspec.Struct):
    t: int | None = None
    a: int | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_ids = msgspec.json.Decoder(_Numbered).decode


class RoutedFrame:
    """A recorded frame with its stream and its two wire formats (combined and raw).

    `stream` is None for control messages, such as `serverShutdown`, and unparseable frames: these go to all clients of
    the market. It is empty for a recorded REST response, which no socket sends. `number` is its index in the capture,
    `due_ns` its due time (exchange time, ns).
    """

    __slots__ = ("answers", "combined", "due_ns", "number", "raw_stream", "stream")

    def __init__(self, raw: str, number: int, due_ns: int) -> None:
        """Use a frame of a combined stream as recorded; wrap a frame of a raw stream in an envelope."""
        self.combined = self.raw_stream = raw
        self.number = number
        self.due_ns = due_ns
        self.stream = self._stream_of(raw)
        # The subscription that it answers.
        self.answers = None if self.stream is None else without_speed(self.stream)

    def _stream_of(self, raw: str) -> str | None:
        """Return the stream of a frame; set the wire formats that differ from it."""
        try:
            envelope = _decode_envelope(raw)
        except (msgspec.MsgspecError, RecursionError):
            envelope = _Envelope()
        if envelope.stream:
            self.raw_stream = bytes(envelope.data).decode() or raw
            # A server notice in an envelope goes to all connections.
            is_notice = "@" not in envelope.stream and read_control(msgspec.json.decode(raw)) is not None
            return None if is_notice else envelope.stream
        stream = stream_of_event(envelope.e, envelope.s, envelope.o) or _stream_of_text(raw)
        if stream:
            self.combined = f'{{"stream":"{stream}","data":{raw}}}'
        return stream

    @property
    def trade_id(self) -> int | None:
        """Id of the trade or aggregate; None if it has none."""
        try:
            ids = _decode_ids(self.raw_stream)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return ids.t if ids.t is not None else ids.a


def _stream_of_text(raw: str) -> str | None:
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None
    control = read_control(document)
    return "" if control and control.kind is ControlKind.REST_RESPONSE else stream_of_document(document)


class ReplayClient:
    """A connected client. Its own task sends its queued frames, so that a slow client does not delay others."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        market: Market,
        route: Route,
        *,
        combined: bool,
        limits: ClientLimits,
        faults: FaultBoard,
        clock_ms: Callable[[], int],
    ) -> None:
        self.market = market
        self._socket = socket
        self._transport = transport
        self._route = route
        self._combined = combined
        self._limits = limits
        self._faults = faults
        self._clock_ms = clock_ms
        self._line = FaultyLine(faults, market)
        self._stalled = False
        self._is_half_open = False
        self._queue: deque[tuple[str, RoutedFrame | None]] = deque()  # (text, its recorded frame or None)
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._ponged = asyncio.Event()
        self.drained = asyncio.Event()  # set while the queue is empty, and permanently once the client has left
        self.drained.set()
        self.gone = False
        # By stream kind; frames without a stream count for the kind of the client's first subscription.
        self.frames_sent: Counter[str] = Counter()
        self._ends_at = math.inf
        self._subscriptions: dict[str, None] = {}
        self._served: frozenset[str] = frozenset()

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return tuple(self._subscriptions)

    @property
    def subscribed(self) -> bool:
        return bool(self._subscriptions) and not self.gone and not self._is_half_open

    def subscribe(self, streams: Iterable[str]) -> None:
        self._subscriptions |= dict.fromkeys(streams)
        self._served = frozenset(map(without_speed, filter(self._route.serves, self._subscriptions)))

    def unsubscribe(self, streams: Iterable[str]) -> None:
        for stream in streams:
            self._subscriptions.pop(stream, None)
        self._served = frozenset(map(without_speed, filter(self._route.serves, self._subscriptions)))

    def offer(self, frames: Sequence[RoutedFrame]) -> None:
        """Queue the frames of this client's streams; disconnect it if its queue is full, as the exchange does."""
        served = self._served
        for frame in frames:
            if frame.stream is None or frame.answers in served:
                self._enqueue(frame.combined if self._combined else frame.raw_stream, frame)
        self._check_queue()

    def flush(self) -> None:
        """Queue a marker that releases frames delayed by faults after all frames queued so far."""
        self._enqueue("", None)

    def abort(self, reason: str) -> None:
        """Abort the connection without a closing handshake: the peer may not be reading."""
        if not self.gone:
            log.warning(
                "replay_client_disconnected",
                reason=reason,
                queued=len(self._queue),
                frames_sent=self.frames_sent.total(),
            )
            self.leave()
            self._transport.abort()

    def leave(self) -> None:
        """Mark the client as gone and clear its queue."""
        self.gone = True
        self._clear_queue()

    def _clear_queue(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self.drained.set()

    async def close(self) -> None:
        """Close with code 1001 as the exchange does before maintenance; wait one second for the peer's reply."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._socket.close(code=1001, message=b"going away")
        self.leave()
        self._transport.abort()

    async def send_queued(self) -> None:
        """Send the queue in order until the client is gone."""
        while not self.gone:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_SEND_BATCH, len(self._queue)))]
                try:
                    await self._deliver(batch)
                except (ConnectionError, RuntimeError):  # the socket is closing: `receive` ends the client
                    self.leave()
                    return
                self._queued_bytes = max(0, self._queued_bytes - sum(len(text) for text, _ in batch))
            self.drained.set()

    async def _deliver(self, batch: Sequence[tuple[str, RoutedFrame | None]]) -> None:
        """Send one batch. Every recorded frame passes here once per client; faults are applied here."""
        send = self._socket.send_str
        for text, frame in batch:
            if frame is None:
                await self._execute_steps(self._line.flush())
                if text and not self.gone:
                    await send(text)
            elif self._line.idle:
                await send(text)
                self._count(frame)
            else:
                await self._execute_steps(self._line.take(frame, text))
            if self.gone or self._is_half_open:
                return

    def _count(self, frame: NumberedFrame) -> None:
        stream = frame.stream or next(iter(self._subscriptions), "")
        self.frames_sent[stream.partition("@")[2]] += 1

    async def _execute_steps(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case ReplayedFrame():
                    await self._send(step.text)
                    self._count(step.frame)
                case Cut():
                    self.abort("fault")
                    return
                case Shutdown():
                    await self._announce_shutdown(step)
                case Stall():
                    await self._stall(step)
                case HalfOpen():
                    self._abandon()
                    return

    async def _send(self, text: str) -> None:
        """Send a text frame; a hostile one may not be UTF-8."""
        if text.isascii():
            await self._socket.send_str(text)
        else:
            await self._socket.send_frame(text.encode("utf-8", "surrogateescape"), WSMsgType.TEXT)

    async def _announce_shutdown(self, fault: Shutdown) -> None:
        """Announce that the connection will close, as the exchange does before maintenance."""
        log.info("replay_shutdown_announced", notice_s=fault.notice_s)
        event = f'{{"e":"serverShutdown","E":{self._clock_ms()}}}'
        await self._socket.send_str(f'{{"stream":"!serverShutdown","data":{event}}}' if self._combined else event)
        self.frames_sent[next(iter(self._subscriptions), "").partition("@")[2]] += 1
        self._ends_at = time.monotonic() + fault.notice_s

    async def _stall(self, fault: Stall) -> None:
        log.info("replay_client_stalled", for_s=fault.for_s, frames_sent=self.frames_sent.total())
        self._stalled = True
        await asyncio.sleep(fault.for_s)
        self._stalled = False

    def _abandon(self) -> None:
        """Neither read nor send again; `keep_alive` aborts the connection, as no pong is read."""
        log.info("replay_client_abandoned", frames_sent=self.frames_sent.total())
        self._stalled = self._is_half_open = True
        self._transport.pause_reading()
        self._clear_queue()

    async def close_at_end_of_life(self) -> None:
        """Close the connection at the end of its life: the exchange's limit, a fault, or an announced shutdown."""
        began, life_s = time.monotonic(), self._limits.connection_life_s
        while self._is_half_open or not self._life_is_over(time.monotonic() - began):  # noqa: ASYNC110 - a fault may end it at any time
            await asyncio.sleep(min(_LIFE_CHECK_S, life_s / 10, self._faults.shortest_life_s(self.market) / 10))
        log.info("replay_connection_expired", age_s=round(time.monotonic() - began, 1))
        await self.close()

    def _life_is_over(self, age_s: float) -> bool:
        is_announced = time.monotonic() >= self._ends_at
        return is_announced or self._faults.life_is_over(self.market, age_s, self._limits.connection_life_s)

    async def keep_alive(self) -> None:
        """Ping the client; disconnect it if no pong arrives within the timeout."""
        limits = self._limits
        while not self.gone:
            await asyncio.sleep(limits.ping_interval_s)
            self._ponged.clear()
            try:
                async with asyncio.timeout(limits.pong_timeout_s):
                    while not self._ponged.is_set():
                        if not self._stalled:
                            await self._socket.ping(str(time.time_ns() // 10**6).encode())
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(limits.ping_interval_s):
                                await self._ponged.wait()
            except TimeoutError:
                self.abort("no_pong")
            except ConnectionError:
                return

    async def receive(self, on_subscribed: asyncio.Event) -> None:
        """Read the client's messages until it disconnects; set `on_subscribed` when it has a subscription."""
        async for message in self._socket:
            if message.type is WSMsgType.PING:
                if not self._stalled:
                    await self._socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._ponged.set()
            elif message.type is WSMsgType.TEXT:
                self._enqueue(msgspec.json.encode(self._execute(message.data)).decode(), None)
                self._check_queue()
                if self.subscribed:
                    on_subscribed.set()

    def _execute(self, text: str) -> dict[str, Any]:
        """Execute one request and return its response, which is queued after the frames before it."""
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

    def _enqueue(self, text: str, frame: RoutedFrame | None) -> None:
        if self.gone or self._is_half_open:
            return
        self._queue.append((text, frame))
        self._queued_bytes += len(text)
        self.drained.clear()
        self._wake.set()

    def _check_queue(self) -> None:
        if len(self._queue) > self._limits.max_queue_frames or self._queued_bytes > self._limits.max_queue_bytes:
            self.abort("queue_full")


def _error(code: int, text: str, request_id: int | None = None) -> dict[str, Any]:
    response: dict[str, Any] = {"error": {"code": code, "msg": text}}
    return response if request_id is None else response | {"id": request_id}
