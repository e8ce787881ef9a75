"""One WebSocket connection to the exchange: reads frames, watches for stalls, reconnects.

Coverage decides which frames provably arrived. This module supplies its two inputs: the exchange's clock, and barriers.
A barrier is a request whose response follows all frames that the exchange sent before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import structlog

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait, raise_if_cancelled
from cryptolake_assets.producer.clock_check import ClockCheck
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.frame_queue import FrameQueue, SpanMark
from cryptolake_assets.producer.machine import Machine, loop_time
from cryptolake_assets.producer.socket_reader import SocketReader
from cryptolake_assets.producer.websocket_libraries import (
    CONNECTION_CLOSED,
    INVALID_HANDSHAKE,
    INVALID_STATUS,
    INVALID_URI,
    ExchangeSocket,
)
from cryptolake_assets.settings.producer import ProducerIo

log = structlog.get_logger(__name__)

MAX_STREAMS: Final = 200  # streams per connection, as the exchange recommends
_RESPONSE_RETRIES: Final = 5
_POLL_S: Final = 0.02
_RATE_LIMITED: Final = (403, 418, 429)
_NOT_SENT: Final[tuple[type[Exception], ...]] = (*CONNECTION_CLOSED, TimeoutError)
_NOT_OPENED: Final[tuple[type[Exception], ...]] = (*INVALID_HANDSHAKE, OSError)  # TimeoutError is an OSError
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class ExchangeClock(Protocol):
    """The exchange's clock."""

    async def time_ms(self) -> int:
        """Return the exchange time, ms since 1970, UTC. Raises `ExchangeError` if the request fails."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Timeouts, limits and back-off of a connection; the defaults suit the exchange."""

    open_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    clock_timeout_s: float = 5.0
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0
    # A barrier without a response for this long, with an empty queue, falls back to the frames received.
    response_timeout_s: float = 10.0
    # Warn after this long without a frame: outdated URLs acknowledge a subscription, then send nothing.
    stale_alarm_s: float = 60.0
    backoff_first_s: float = 0.5
    backoff_cap_s: float = 30.0
    healthy_after_s: float = 5.0  # a connection with frames that lasted this long resets the back-off
    max_message_bytes: int = 1 << 20
    max_buffered_frames: int = 1024
    io: ProducerIo = ProducerIo.DEFAULT  # the WebSocket library; not `AUTO`
    machine: Machine = field(default_factory=Machine)


class ExchangeConnection:
    """Reads the streams of some symbols into a queue; reconnects until cancelled."""

    def __init__(
        self,
        *,
        name: str,
        url: str,
        symbols: tuple[str, ...],
        queue: FrameQueue,
        clock: ExchangeClock,
        options: ConnectionOptions | None = None,
        turn: Callable[[], Awaitable[None]] | None = None,
        has_barriers: bool = True,
        clock_check: ClockCheck | None = None,
    ) -> None:
        """`url` subscribes to the symbols. `turn` is awaited before each opening, so that a pool can space them.

        The connections of an exchange share `clock_check`.

        `has_barriers`: the venue responds to barriers.
        """
        self._url = url
        self.name = name
        self.symbols = symbols
        self._queue = queue
        self._clock = clock
        self._options = options or ConnectionOptions()
        self._machine = self._options.machine
        self._log = log.bind(connection=name)
        self._turn = turn
        self._has_barriers = has_barriers
        self._clock_check = clock_check or ClockCheck()
        self._is_clock_wrong = False
        self._live: tuple[ExchangeSocket, ConnectionSpan] | None = None
        # Set once the first subscription is open and the exchange's clock was requested; never cleared.
        self.opened = asyncio.Event()
        # `connecting`, `streaming`, `stale` (subscribed, but no frames) or `closed`.
        self.state = "closed"
        self.reconnects = 0
        self.exchange_time_ms: int | None = None  # the exchange's clock at the last request

    @property
    def span(self) -> ConnectionSpan | None:
        """The current connection's span; None while disconnected."""
        return self._live[1] if self._live else None

    async def run(self) -> None:
        """Connect and reconnect until cancelled. Raises `ExchangeError` for an invalid URL."""
        attempt = 0
        try:
            while True:
                self.state = "connecting"
                if self._turn is not None:
                    await self._turn()
                started = loop_time()
                frames, min_wait_s = await self._session()
                raise_if_cancelled()
                self.state = "closed"
                if frames and loop_time() - started >= self._options.healthy_after_s:
                    attempt = 0
                # Full jitter: clients disconnected together must not reconnect together.
                ceiling_s = min(self._options.backoff_cap_s, self._options.backoff_first_s * 2 ** min(attempt, 16))
                pause_s = min_wait_s + self._machine.random.uniform(0, ceiling_s)
                attempt += 1
                self.reconnects += 1
                self._log.info("reconnect_scheduled", in_s=round(pause_s, 2), attempt=attempt)
                await asyncio.sleep(pause_s)
        finally:
            self.state = "closed"

    async def send_barrier(self) -> ConnectionSpan | None:
        """Send a barrier: a request whose response follows all frames that the exchange sent before it.

        The exchange's clock is read first. The request's id stays in the returned span's `requests` until the response
        was read. Without barriers, the mark follows the frames received so far. Returns None while disconnected or if
        the request cannot be sent.

        A request, not a ping: a pong may overtake frames that the server has queued, and the WebSocket library reports
        a pong before it returns earlier frames.
        """
        if self._live is None:
            return None
        socket, span = self._live
        if span.requests:
            return span  # the previous barrier is still open
        if not self._has_barriers:
            self._queue.put_mark(SpanMark(span, ended=False))
            return span
        barrier_ms = await self._exchange_time()
        request_id = self._machine.random.getrandbits(48)  # random: recorded responses in a capture must not match it
        span.requests[request_id] = barrier_ms
        try:
            async with asyncio.timeout(self._options.response_timeout_s):
                await socket.send(f'{{"method":"LIST_SUBSCRIPTIONS","params":[],"id":{request_id}}}')
        except _NOT_SENT:
            span.requests.pop(request_id, None)
            return None
        self._expect_response(span, request_id, _RESPONSE_RETRIES)
        return span

    async def wait_until_handed_over(self) -> None:
        """Wait until all frames that the exchange has sent so far are taken from the queue and claimed.

        Return at once while disconnected.
        """
        for _ in range(2):  # the first barrier may have been sent before this call
            span = await self.send_barrier()
            while span is not None and span is self.span and span.requests:  # noqa: ASYNC110 - emptied elsewhere
                await asyncio.sleep(_POLL_S)

    def _expect_response(self, span: ConnectionSpan, request_id: int, retries: int) -> None:
        asyncio.get_running_loop().call_later(
            self._options.response_timeout_s, self._handle_missing_response, span, request_id, retries
        )

    def _handle_missing_response(self, span: ConnectionSpan, request_id: int, retries: int) -> None:
        """Fall back to the frames received.

        While frames wait in the queue, the response may follow them: then extend the wait first.
        """
        if request_id not in span.requests or self.span is not span:
            return
        if retries and len(self._queue):
            self._expect_response(span, request_id, retries - 1)
            return
        del span.requests[request_id]
        self._log.warning("barrier_timed_out")
        self._queue.put_mark(SpanMark(span, ended=False))

    async def _exchange_time(self) -> int | None:
        """Return the exchange's clock; None if it does not respond or contradicts the exchange's frames."""
        try:
            async with asyncio.timeout(self._options.clock_timeout_s):
                clock_ms = await self._clock.time_ms()
        except (ExchangeError, TimeoutError) as error:
            self._log.warning("exchange_clock_unreachable", error=str(error) or type(error).__name__)
            return None
        span, check = self.span, self._clock_check
        if span is not None and span.last_ms is not None:
            check.see(span.last_ms, span.received_at_us)
        is_wrong = not check.is_plausible(clock_ms, self._machine.wall_ns() // 1_000)
        if is_wrong and not self._is_clock_wrong:
            self._log.warning("exchange_clock_wrong", clock_ms=clock_ms, newest_frame_ms=span and span.last_ms)
        self._is_clock_wrong = is_wrong
        if is_wrong:
            return None
        self.exchange_time_ms = clock_ms
        return clock_ms

    async def _session(self) -> tuple[int, float]:
        """Run one connection from opening to end; return its frame count and the exchange's requested wait in s."""
        span = ConnectionSpan(self.name, self.symbols, before_ms=await self._exchange_time())
        opened = False
        started = loop_time()
        try:
            connect = self._machine.open_socket(self._options.io, self._url, **self._connect_arguments())
            async with connect as socket:
                opened = True
                self._live = (socket, span)
                self.state = "streaming"
                self._log.info("connection_opened", symbols=len(self.symbols), url=self._url[:200])
                try:
                    await self._stream(socket, span)
                except asyncio.CancelledError:
                    await socket.close()  # a stop is not an error: close with 1000, not 1011
                    raise
        except INVALID_URI as error:
            raise ExchangeError(
                f"exchange: {self._url[:200]} is not a WebSocket URL ({error}). Correct CRYPTOLAKE_EXCHANGE_WS_URL."
            ) from error
        except INVALID_STATUS as error:
            status = error.response.status_code
            wait_s = self._requested_wait_s(status, error.response.headers.get("Retry-After"))
            self._log.warning("connection_rejected", status=status, wait_s=wait_s)
            return 0, wait_s
        except CONNECTION_CLOSED as closed:
            self._log.warning(
                "connection_lost",
                code=closed.rcvd.code if closed.rcvd else None,
                reason=closed.rcvd.reason if closed.rcvd else str(closed),
                frames=span.frames,
                lasted_s=round(loop_time() - started, 1),
            )
        except _NOT_OPENED as error:
            self._log.warning("connection_failed", error=f"{type(error).__name__}: {error}", frames=span.frames)
        finally:
            self._live = None
            if opened:
                self._queue.put_mark(SpanMark(span, ended=True))
        return span.frames, 0.0

    def _connect_arguments(self) -> dict[str, Any]:
        options = self._options
        arguments: dict[str, Any] = {
            "compression": None,
            "max_size": options.max_message_bytes,
            "max_queue": options.max_buffered_frames,
            "open_timeout": options.open_timeout_s,
            "close_timeout": options.close_timeout_s,
            # Under backpressure, pongs wait after frames, and the library's keep-alive would end the connection.
            "ping_interval": None,
        }
        if urlsplit(self._url).hostname in _LOOPBACK:
            arguments["proxy"] = None
        return arguments

    def _requested_wait_s(self, status: int, retry_after: str | None) -> float:
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            return float(retry_after)
        return self._options.backoff_cap_s if status in _RATE_LIMITED else 0.0

    async def _stream(self, socket: ExchangeSocket, span: ConnectionSpan) -> None:
        """Read until the connection ends; raise what ended it."""
        reader = SocketReader(socket, span, self._queue, self._machine.wall_ns)
        tasks = [
            asyncio.create_task(reader.run()),
            asyncio.create_task(self._watch(socket, reader)),
            asyncio.create_task(self._record_opening(span)),
        ]
        try:
            await tasks[0]
        finally:
            await cancel_and_wait(tasks)

    async def _record_opening(self, span: ConnectionSpan) -> None:
        span.after_ms = await self._exchange_time()
        self.opened.set()

    async def _watch(self, socket: ExchangeSocket, reader: SocketReader) -> None:
        """Close a connection that receives neither frames nor pongs; warn about one that receives only pongs."""
        options = self._options
        while True:
            await asyncio.sleep(options.ping_interval_s)
            pinged_at = loop_time()
            try:
                async with asyncio.timeout(options.ping_timeout_s):
                    await (await socket.ping())
            except TimeoutError:
                # Frames that wait for room in the queue also delay the pongs after them.
                if reader.last_frame_at < pinged_at and not reader.waits_for_room:
                    self._log.warning("connection_timed_out", no_pong_for_s=options.ping_timeout_s)
                    await socket.close(1001, "no pong")
                    return
            except CONNECTION_CLOSED:
                return
            idle_s = loop_time() - reader.last_frame_at
            if idle_s < options.stale_alarm_s or reader.waits_for_room:
                self.state = "streaming"
            elif self.state != "stale":
                self.state = "stale"
                self._log.warning("connection_stale", idle_s=round(idle_s), url=self._url[:200])
