"""The recorder: writes the exchange's frames, as received, to capture files that the replay exchange can serve.

It also stores the exchange's own klines of the recorded minutes next to them.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct, json

from cryptolake_assets.binance.depth_frames import DEPTH, depth_parser
from cryptolake_assets.binance.rest import AsyncExchangeRest, ExchangeRest
from cryptolake_assets.binance.stream_type import EventStream, StreamType
from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.captures.book_snapshots import snapshot_frame
from cryptolake_assets.captures.market_of_capture import recording_directory, write_market
from cryptolake_assets.captures.published_files import read_klines
from cryptolake_assets.captures.reader import summarise
from cryptolake_assets.captures.tracked_symbols import Subscriptions, extra_streams_of_market
from cryptolake_assets.captures.writer import CaptureWriter
from cryptolake_assets.model.events import DepthUpdateEvent
from cryptolake_assets.model.exchange_records import KLINE_HEADER, Kline
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.connection import ExchangeConnection
from cryptolake_assets.producer.connection_pool import ConnectionPool, ConnectionPoolOptions
from cryptolake_assets.producer.depth_snapshots import DepthSnapshots, ReceivedSnapshot
from cryptolake_assets.producer.frame_queue import EndOfFrames, FrameQueue, ReceivedFrames
from cryptolake_assets.producer.machine import Machine
from cryptolake_assets.producer.subscriptions import find_subscriptions
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

INTERVAL: Final = "1m"
_FRAMES_AT_ONCE: Final = 500


class Recorder:
    """One recording: the connections of the settings' subscriptions of their market, and their capture files.

    A connection is replaced before the exchange ends it; frames of the overlap are recorded twice, and none is missed.
    """

    def __init__(
        self, settings: Settings, directory: Path, rotate_s: float, options: ConnectionPoolOptions | None = None
    ) -> None:
        """Write to `directory`, or its subdirectory of the market if the recording is of several markets.

        Begin a new file every `rotate_s` seconds. Raises `CaptureError` if the directory holds another market.
        """
        self.settings = settings
        self.directory = recording_directory(settings, directory)
        self._queue = FrameQueue()
        self._rotate_s = rotate_s
        self._options = options or ConnectionPoolOptions(settings.connection_life_s)
        self._made = count()
        self.writer: CaptureWriter | None = None
        self._snapshots: DepthSnapshots | None = None  # None: no order books are recorded
        self._parse_depth = depth_parser(settings.venue)
        self.pools: list[ConnectionPool] = []

    @property
    def connections(self) -> list[ExchangeConnection]:
        """All connections, including retiring ones."""
        return [connection for pool in self.pools for connection in pool.connections]

    async def run(self, stop: asyncio.Event, notify: Callable[[], None] = lambda: None) -> None:
        """Record until `stop`; call `notify` after every batch of frames.

        Raises `CaptureError` (for example for a read-only directory), `ExchangeError`, and errors of the settings.
        """
        async with AsyncExchangeRest(self.settings.rest_url, venue=self.settings.venue) as rest:
            found = await find_subscriptions(self.settings, rest)
            self.writer = await asyncio.to_thread(CaptureWriter, self.directory, found.stream, self._rotate_s)
            write_market(self.directory, self.settings.market)
            self.pools = self._pools_of(found, rest)
            reading = [asyncio.create_task(pool.run()) for pool in self.pools]
            if self._records_depth:
                self._snapshots = DepthSnapshots(
                    self.settings, rest, lambda: found.symbols, self._put_snapshot, Machine()
                )
                reading.append(asyncio.create_task(self._snapshots.run()))
            writing = asyncio.create_task(self._write(self.writer, notify))
            stopped = asyncio.create_task(stop.wait())
            try:
                done, _ = await asyncio.wait([stopped, writing, *reading], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # raises the error of a part that should not have ended
                await cancel_and_wait(reading)
                self._queue.put_mark(EndOfFrames())
                await writing
            finally:
                await cancel_and_wait([stopped, writing, *reading])
                self.writer.close()

    def _pools_of(self, found: Subscriptions, clock: AsyncExchangeRest) -> list[ConnectionPool]:
        """Return a connection pool for the trades, and one for each other stream in use."""
        trades = TRADES_OF_FAMILY[self.settings.venue.family]
        extra = [one for one in extra_streams_of_market(self.settings) if isinstance(one, EventStream)]
        return [
            ConnectionPool(
                found.symbols,
                partial(self._connection, clock, stream_type, found.stream if stream_type is trades else ""),
                self._options,
            )
            for stream_type in (trades, *extra)
        ]

    def _connection(
        self,
        clock: AsyncExchangeRest,
        stream_type: StreamType,
        kind: str,
        symbols: tuple[str, ...],
        turn: Callable[[], Awaitable[None]],
    ) -> ExchangeConnection:
        return ExchangeConnection(
            name=f"record-{kind or stream_type.name}-{next(self._made)}",
            url=stream_type.url(self.settings, symbols, kind),
            symbols=symbols,
            queue=self._queue,
            clock=clock,
            turn=turn,
        )

    async def _write(self, writer: CaptureWriter, notify: Callable[[], None]) -> None:
        while True:
            for item in await self._queue.take(_FRAMES_AT_ONCE):
                if isinstance(item, ReceivedFrames):
                    for raw in item.raws:
                        writer.write(item.received_at_us, raw)
                        self._follow(raw, item.received_at_us)
                    if item.span.requests:
                        _remove_answered_requests(item)
                elif isinstance(item, EndOfFrames):
                    return
            notify()
            await asyncio.sleep(0)

    @property
    def _records_depth(self) -> bool:
        return any(stream_type.option == DEPTH for stream_type in extra_streams_of_market(self.settings))

    def _follow(self, raw: bytes, received_at_us: int) -> None:
        """Show depth updates to the snapshots."""
        if self._snapshots is not None and b'"depthUpdate"' in raw:
            event = self._parse_depth(raw, received_at_us)
            if isinstance(event, DepthUpdateEvent):
                self._snapshots.follow(event)

    async def _put_snapshot(self, received: ReceivedSnapshot) -> None:
        if self.writer is not None:
            self.writer.write(received.received_at_us, snapshot_frame(received.symbol, received.body))


class _Response(Struct):
    """The exchange's response to a request; frames of a stream have no `id`."""

    id: int | None = None


def _remove_answered_requests(frames: ReceivedFrames) -> None:
    """Remove answered requests: a retiring connection waits until its last response was read."""
    for raw in frames.raws:
        try:
            response = json.decode(raw, type=_Response)
        except (ValueError, RecursionError):
            continue
        if response.id is not None:
            frames.span.requests.pop(response.id, None)


def add_klines(settings: Settings, directory: Path) -> int:
    """Store the exchange's closed klines of the captured minutes next to the captures; return how many are new.

    Raises `ExchangeError`, and `CaptureError` for a directory without captures.
    """
    summary = summarise(directory)
    first_ms = summary.first_event_time_ms // MINUTE_MS * MINUTE_MS
    with ExchangeRest(settings.rest_url, venue=settings.venue) as exchange:
        last_ms = min(summary.last_event_time_ms, exchange.time_ms() // MINUTE_MS * MINUTE_MS - 1)
        return sum(
            _add(directory, symbol, exchange.klines(symbol, INTERVAL, first_ms, last_ms)) for symbol in summary.symbols
        )


def _add(directory: Path, symbol: str, klines: list[Kline]) -> int:
    """Append new klines to `<SYMBOL>-1m-recorded.csv`, in the public archive's layout; return how many.

    Klines of earlier recordings are not new.
    """
    known = {kline.open_time_ms for kline in read_klines(directory, symbol, INTERVAL)}
    new = [kline for kline in klines if kline.open_time_ms not in known]
    if not new:
        return 0
    path = directory / f"{symbol}-{INTERVAL}-recorded.csv"
    exists = path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not exists:
            writer.writerow(KLINE_HEADER)
        writer.writerows(kline.to_rest() for kline in new)
    return len(new)
