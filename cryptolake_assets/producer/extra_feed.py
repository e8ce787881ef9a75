"""The producer's streams in addition to the trades: own connections and contracts, the same delivery.

They share only the delivery to Kafka with the trades: a stream with too many frames or errors delays no trade.
Coverage is claimed for trades only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Final

import msgspec
import structlog

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.depth_frames import DEPTH, SNAPSHOTS_OF_FAMILY
from cryptolake_assets.binance.stream_type import EventStream
from cryptolake_assets.captures.tracked_symbols import extra_streams_of_market
from cryptolake_assets.kafka.topics import dead_letter
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.connection import ConnectionOptions, ExchangeClock, ExchangeConnection
from cryptolake_assets.producer.connection_pool import ConnectionPool, ConnectionPoolOptions
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.depth_snapshots import DepthSnapshots, ReceivedSnapshot, SnapshotSource
from cryptolake_assets.producer.frame_accounts import FrameAccounts
from cryptolake_assets.producer.frame_queue import EndOfFrames, FrameQueue, ReceivedFrames
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.status_file import RejectedSymbol, StreamCounts
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

_FRAMES_AT_ONCE: Final = 500
SYMBOLS_POLL_S: Final = 1.0
DRAIN_TIMEOUT_S: Final = 10.0  # maximum wait at a stop for the delivery to take over the remaining frames
_encode = msgspec.json.Encoder().encode


class ExtraFeed:
    """All extra streams of one process; `put` takes over a message for delivery."""

    def __init__(
        self,
        settings: Settings,
        symbols: Callable[[], Sequence[str]],
        put: Callable[[Message], Awaitable[None]],
        clock: ExchangeClock,
        options: ConnectionOptions,
        pool: ConnectionPoolOptions | None = None,
        *,
        types: Sequence[EventStream] | None = None,
        books: SnapshotSource | None = None,
    ) -> None:
        """`symbols` returns the tracked symbols; `types` defaults to the streams in use of the settings' market.

        `books` has the snapshots of order books that depth updates need.

        Raises `CaptureError` if the capture cannot be read.
        """
        self._settings, self._put = settings, put
        in_use = extra_streams_of_market(settings) if types is None else types
        self.types = tuple(one for one in in_use if isinstance(one, EventStream))
        self._snapshots = (
            DepthSnapshots(settings, books, symbols, self._put_snapshot, options.machine)
            if books is not None and any(one.option == DEPTH for one in self.types)
            else None
        )
        pool = pool or ConnectionPoolOptions(settings.connection_life_s)
        self._feeds = [
            _StreamFeed(
                stream_type,
                settings,
                symbols,
                put,
                clock,
                options,
                pool,
                self._snapshots.follow if self._snapshots and stream_type.option == DEPTH else None,
            )
            for stream_type in self.types
        ]

    async def _put_snapshot(self, received: ReceivedSnapshot) -> None:
        event = received.event
        if isinstance(event, RejectedFrame):
            value, headers = dead_letter(event, stream=DEPTH, received_at_us=received.received_at_us)
            await self._put(Message(self._settings.topic_rejected, value, headers=headers))
        else:
            topic = SNAPSHOTS_OF_FAMILY[self._settings.venue.family].topic(self._settings)
            await self._put(Message(topic, _encode(event), event.symbol.encode()))

    @property
    def queued_frames(self) -> int:
        """Number of received frames that wait for the delivery."""
        return sum(feed.queued_frames for feed in self._feeds)

    @property
    def counts(self) -> dict[str, StreamCounts]:
        """Frame counts by stream."""
        return {feed.accounts.stream: feed.accounts.counts for feed in self._feeds}

    @property
    def rejecting(self) -> dict[str, RejectedSymbol]:
        """Symbols with rejected frames and none accepted since."""
        return {symbol: entry for feed in self._feeds for symbol, entry in feed.accounts.rejecting.items()}

    async def run(self) -> None:
        """Run until cancelled, then hand over the received frames. Raises what ends a connection."""
        if not self._feeds:
            await asyncio.Event().wait()
        log.info("extra_streams_started", streams=[stream_type.name for stream_type in self.types])
        parts = [feed.run() for feed in self._feeds]
        if self._snapshots is not None:
            parts.append(self._snapshots.run())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_and_wait(tasks)


class _StreamFeed:
    """One stream: its connections, its queue and the task that empties it."""

    def __init__(
        self,
        stream_type: EventStream,
        settings: Settings,
        symbols: Callable[[], Sequence[str]],
        put: Callable[[Message], Awaitable[None]],
        clock: ExchangeClock,
        options: ConnectionOptions,
        pool: ConnectionPoolOptions,
        observe: Callable[[Any], None] | None,
    ) -> None:
        self._observe = observe
        self._stream_type = stream_type
        self._parse = stream_type.parser(settings.venue)
        self._settings = settings
        self._symbols = symbols
        self._clock = clock
        self._options = options
        self._topic = stream_type.topic(settings)
        self._rejected_topic = settings.topic_rejected
        self._put = put
        self._queue = FrameQueue()
        self._made = count()
        self._pool = ConnectionPool(symbols(), self._connection, pool)
        self.accounts = FrameAccounts(stream_type.name, self._pool.replace_span, symbols)

    def _connection(self, symbols: tuple[str, ...], turn: Callable[[], Awaitable[None]]) -> ExchangeConnection:
        return ExchangeConnection(
            name=f"{self._stream_type.name}-{next(self._made)}",
            url=self._stream_type.url(self._settings, symbols),
            symbols=symbols,
            queue=self._queue,
            clock=self._clock,
            options=self._options,
            turn=turn,
        )

    @property
    def queued_frames(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        publish = asyncio.create_task(self._publish())
        readers = [asyncio.create_task(self._pool.run()), asyncio.create_task(self._track())]
        try:
            done, _ = await asyncio.wait([publish, *readers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_and_wait(readers)
            self._queue.put_mark(EndOfFrames())
            await self._drained(publish)

    async def _track(self) -> None:
        """Track the same symbols as the trades."""
        while True:
            await asyncio.sleep(SYMBOLS_POLL_S)
            self._pool.track(self._symbols())

    async def _drained(self, publish: asyncio.Task[None]) -> None:
        """Wait up to `DRAIN_TIMEOUT_S` for the queue to empty; without brokers it never does."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await publish
        except TimeoutError:
            log.error("drain_incomplete", stream=self._stream_type.name, queued_frames=len(self._queue))

    async def _publish(self) -> None:
        """Parse queued frames and hand them to the delivery, in order, until `EndOfFrames`."""
        while True:
            for item in await self._queue.take(_FRAMES_AT_ONCE):
                if isinstance(item, ReceivedFrames):
                    for raw in item.raws:
                        await self._publish_frame(item.span, raw, item.received_at_us)
                elif isinstance(item, EndOfFrames):
                    return
            await asyncio.sleep(0)

    async def _publish_frame(self, span: ConnectionSpan, raw: bytes, received_at_us: int) -> None:
        parsed = self._parse(raw, received_at_us)
        if isinstance(parsed, RejectedFrame):
            value, headers = dead_letter(parsed, stream=self._stream_type.name, received_at_us=received_at_us)
            self.accounts.reject(parsed, span)
            await self._put(Message(self._rejected_topic, value, headers=headers))
        elif isinstance(parsed, ControlFrame):
            if parsed.request_id in span.requests:
                # A retiring connection waits until its last response was read.
                del span.requests[parsed.request_id]
            else:
                self.accounts.handle_control(parsed, span)
        else:
            await self._put(Message(self._topic, _encode(parsed), parsed.symbol.encode()))
            if self._observe is not None:
                self._observe(parsed)
            self.accounts.accepted += 1
            self.accounts.check_subscribed(parsed.symbol)
            if parsed.symbol in span.rejecting:
                self.accounts.accept_again(parsed.symbol, span, None)
