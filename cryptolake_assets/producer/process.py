"""The producer: reads trades from the exchange's sockets into Kafka, and loses no received trade.

    connections (one reader each) ─► one bounded queue ─► one publisher task: parse, send ─► delivery ─► Kafka
                                                                 └ marks: "all before this is acknowledged" ─► coverage

Run as `python -m cryptolake_assets.producer.process`. On SIGTERM or SIGINT it stops reading, sends the remaining
messages, writes its coverage and exits with code 0. It exits with code 1 if settings or permissions are wrong (with a
message on stderr), or if the remaining messages could not be delivered in time.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import structlog

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.lake.coverage_union import overlap_ms
from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.log import configure_logging
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait, run_until_stopped
from cryptolake_assets.producer.catch_up import CatchUp, CatchUpOptions
from cryptolake_assets.producer.client_libraries import io_in_use, make_publisher
from cryptolake_assets.producer.connection import ConnectionOptions, ExchangeClock, ExchangeConnection
from cryptolake_assets.producer.connection_pool import ConnectionPool, ConnectionPoolOptions
from cryptolake_assets.producer.coverage_loop import CoverageLoop
from cryptolake_assets.producer.coverage_statements import ConnectionSpan, CoverageSink, CoverageWriter
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.dispatch import Dispatcher
from cryptolake_assets.producer.extra_feed import ExtraFeed
from cryptolake_assets.producer.frame_accounts import FrameAccounts
from cryptolake_assets.producer.frame_queue import EndOfFrames, FrameQueue, ReceivedFrames
from cryptolake_assets.producer.gap_repair import GapRepairer
from cryptolake_assets.producer.gap_tracker import GapTracker
from cryptolake_assets.producer.gap_writer import GapSink, GapWriter
from cryptolake_assets.producer.publisher import Publisher
from cryptolake_assets.producer.rest_history import StreamHistory, TradeHistory
from cryptolake_assets.producer.resume_point import ResumePoints, StoredResumePoints
from cryptolake_assets.producer.status_file import (
    MAX_SYMBOLS_SHOWN,
    ConnectionStatus,
    ProducerStatus,
    status_path,
    write_status,
)
from cryptolake_assets.producer.subscriptions import find_subscriptions, refresh_symbols
from cryptolake_assets.settings import Settings, get_settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProducerOptions:
    """Options in addition to the settings."""

    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    pool: ConnectionPoolOptions | None = None  # None: from the settings
    catch_up: CatchUpOptions = field(default_factory=CatchUpOptions)
    drain_timeout_s: float = 20.0  # maximum wait at a stop for the brokers' acknowledgements
    claim_wait_s: float = 2.0  # maximum wait of a coverage round for its barriers; the next round writes late claims
    status_interval_s: float = 1.0
    stall_alarm_s: float = 5.0  # warn after this long without an acknowledgement while messages are in flight
    final_write_attempts: int = 3


class Producer:
    """Connections, queue, publisher task and coverage of one process."""

    def __init__(
        self,
        settings: Settings,
        subscriptions: Subscriptions,
        *,
        publisher: Publisher,
        clock: ExchangeClock,
        sink: CoverageSink,
        gaps: GapSink,
        history: TradeHistory,
        resume_points: ResumePoints | None = None,
        options: ProducerOptions | None = None,
    ) -> None:
        """Without `resume_points`, the producer does not resume from an earlier process."""
        self._settings = settings
        self._options = options or ProducerOptions()
        self._publisher = publisher
        self._stream = subscriptions.stream
        self._queue = FrameQueue()
        self._delivery = ReliableDelivery(publisher, counted_topic=settings.topic_trades)
        self._resume_points = resume_points
        self._gaps = GapTracker(settings.venue.exchange, subscriptions.stream, max_ids=settings.gap_repair_max_ids)
        self._gap_writer = GapWriter(gaps, self._gaps)
        stream_history = StreamHistory(history, subscriptions.stream)
        self._repairer = GapRepairer(self._gaps, stream_history, self._put_fetched)
        self._catch_up = CatchUp(
            self._gaps,
            stream_history,
            spans=lambda: [c.span for c in self.pool.connections if c.span is not None],
            is_idle=lambda: not len(self._queue),
            options=self._options.catch_up,
        )
        self._fetched = ConnectionSpan("rest", ())
        self._accounts = FrameAccounts(
            subscriptions.stream, lambda span: self.pool.replace_span(span), lambda: self.pool.symbols
        )
        self._dispatcher = Dispatcher(
            settings,
            subscriptions.stream,
            queue=self._queue,
            delivery=self._delivery,
            gaps=self._gaps,
            fetched=self._fetched,
            partition_for=publisher.partition_for,
            mark=self._mark,
            accounts=self._accounts,
        )
        self._coverage = CoverageWriter(
            sink,
            exchange=settings.venue.exchange,
            stream=subscriptions.stream,
            source=settings.ws_url,
            partition_for=publisher.partition_for,
            overlap_ms=overlap_ms(settings),
            first=self._gap_writer.write,
        )
        self._clock = clock
        self._connections_made = count()
        # Public: callers change the tracked symbols with `pool.track`.
        self.pool = ConnectionPool(
            subscriptions.symbols,
            self._connection,
            self._options.pool or ConnectionPoolOptions(settings.connection_life_s),
        )
        self._coverage_loop = CoverageLoop(
            self.pool,
            self._coverage,
            self._gaps.last,
            interval_s=settings.coverage_interval_s,
            claim_wait_s=self._options.claim_wait_s,
        )
        self._extra_feed = ExtraFeed(
            settings, lambda: self.pool.symbols, self._delivery.put, clock, self._options.connection, self._options.pool
        )
        self._working = False
        self._state = "starting"

    def _connection(self, symbols: tuple[str, ...], turn: Callable[[], Awaitable[None]]) -> ExchangeConnection:
        return ExchangeConnection(
            name=f"{self._stream}-{next(self._connections_made)}",
            url=TRADES.url(self._settings, symbols, self._stream),
            symbols=symbols,
            queue=self._queue,
            clock=self._clock,
            options=self._options.connection,
            turn=turn,
        )

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until `stop` is set, then drain. Return whether every received frame was acknowledged.

        Raises `BrokerAccessError` if Kafka rejects the client permanently, and `ExchangeError` for an invalid URL.
        """
        status = asyncio.create_task(self._keep_status())
        try:
            self._state = "waiting_for_broker"
            if not await run_until_stopped(stop, self._delivery.start()):
                return True
            return await self._work(stop)
        except BaseException:
            self._state = "failed"
            raise
        finally:
            await cancel_and_wait([status])
            await self._publisher.stop()
            if self._state != "failed":
                self._state = "stopped"
            self._write_status()

    async def _work(self, stop: asyncio.Event) -> bool:
        await self._gap_writer.resume()
        self._state = "streaming"
        self._working = True
        log.info("producer_started", symbols=len(self.pool.symbols), stream=self._stream, source=self._settings.ws_url)
        readers = [self.pool.run(), self._repairer.run(), self._catch_up.run(), self._extra_feed.run()]
        connections = [asyncio.create_task(reader) for reader in readers]
        resend = asyncio.create_task(self._delivery.run())
        publish = asyncio.create_task(self._publish())
        coverage = asyncio.create_task(self._coverage_loop.run())
        parts: list[asyncio.Task[None]] = [*connections, resend, publish, coverage]
        stopped = asyncio.create_task(stop.wait())
        try:
            waits: list[asyncio.Future[Any]] = [stopped, self._delivery.fatal, *parts]
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()  # raises the error of a part that must not end
            return await self._finish(connections, publish, coverage)
        finally:
            await cancel_and_wait([stopped, *parts])

    async def _finish(
        self,
        connections: Sequence[asyncio.Task[None]],
        publish: asyncio.Task[None],
        coverage: asyncio.Task[None],
    ) -> bool:
        """Stop reading, send the remaining messages, write the last coverage."""
        self._state, self._working = "draining", False
        log.info("producer_stopping", queued_frames=len(self._queue), in_flight=self._delivery.in_flight)
        await cancel_and_wait(connections)
        self._queue.put_mark(EndOfFrames())
        drained = True
        try:
            async with asyncio.timeout(self._options.drain_timeout_s):
                await self._unless_fatal(publish)
                await self._unless_fatal(asyncio.ensure_future(self._delivery.drained()))
        except TimeoutError:
            drained = False
            log.error("drain_incomplete", queued_frames=len(self._queue), in_flight=self._delivery.in_flight)
        self._coverage_loop.stop()
        await coverage
        for attempt in range(self._options.final_write_attempts):
            if await self._coverage.write():
                break
            if attempt + 1 < self._options.final_write_attempts:
                await asyncio.sleep(1.0)
        log.info(
            "producer_stopped",
            frames=self._dispatcher.frames,
            events_acked=self._acked(self._settings.topic_trades),
            rejected=self._acked(self._settings.topic_rejected),
            messages_resent=self._delivery.messages_resent,
            drained=drained,
        )
        return drained

    async def _unless_fatal(self, work: asyncio.Future[None]) -> None:
        await asyncio.wait([work, self._delivery.fatal], return_when=asyncio.FIRST_COMPLETED)
        if self._delivery.fatal.done():
            self._delivery.fatal.result()
        await work

    # Frames and marks.

    async def _publish(self) -> None:
        """Resume from the newest trades in Kafka and Bronze, then dispatch queued frames."""
        if self._resume_points is not None:
            start_offsets = self._publisher.start_offsets
            known = await self._resume_points.find(self.pool.symbols, self._stream, start_offsets)
            self._gaps.resume_from(known.on_topic, known.in_bronze)
        await self._dispatcher.run()

    async def _put_fetched(self, raw: bytes) -> None:
        await self._queue.wait_for_room()
        self._queue.put(ReceivedFrames(self._fetched, time.time_ns() // 1000, [raw]))

    def _mark(self, span: ConnectionSpan, barrier_ms: int | None, ended: bool) -> None:
        """Claim the connection's interval so far, once everything before this point is acknowledged."""
        interval = span.claim_to(barrier_ms)
        claims = span.claims_of(interval) if interval is not None else {}
        by_ids = self._gaps.proven_before(span.symbols, interval)
        self._delivery.mark(partial(self._claim, span, claims, by_ids, ended, self._gaps.take_closed()))

    def _claim(
        self,
        span: ConnectionSpan,
        claims: dict[tuple[int, int], list[str]],
        by_ids: dict[str, tuple[int, int]],
        ended: bool,
        closed: list[TradeGap],
        next_offsets: dict[int, int],
    ) -> None:
        self._gap_writer.close(closed, self._publisher.partition_for, next_offsets)
        for symbol, proven in by_ids.items():
            self._coverage.claim((symbol,), proven, next_offsets, Evidence.IDS)
        for claimed, symbols in claims.items():
            self._coverage.claim(symbols, claimed, next_offsets)
        span.claims += 1
        span.ended = span.ended or ended
        self._coverage_loop.claim_made(ended=ended)

    # Status.

    async def _keep_status(self) -> None:
        while True:
            self._check_stall()
            self._write_status()
            await asyncio.sleep(self._options.status_interval_s)

    def _check_stall(self) -> None:
        """Log when the brokers stop acknowledging, and when they resume: Kafka's client logs neither."""
        stalled_s = self._delivery.stalled_s
        if self._state == "streaming" and stalled_s > self._options.stall_alarm_s:
            self._state = "waiting_for_broker"
            log.warning(
                "broker_stalled",
                bootstrap_servers=self._settings.bootstrap_servers,
                in_flight=self._delivery.in_flight,
                queued_frames=len(self._queue),
            )
        elif self._state == "waiting_for_broker" and self._working and stalled_s <= self._options.stall_alarm_s:
            self._state = "streaming"
            log.info("broker_recovered", in_flight=self._delivery.in_flight, queued_frames=len(self._queue))

    def _write_status(self) -> None:
        try:
            write_status(status_path(self._settings), self.status())
        except OSError as error:
            log.error("status_write_failed", error=str(error))

    def status(self) -> ProducerStatus:
        """Return the current state and counts."""
        clocks = [c.exchange_time_ms for c in self.pool.connections if c.exchange_time_ms is not None]
        covered, last_event_us = self._coverage.covered_to_ms, self._dispatcher.last_event_time_us
        return ProducerStatus(
            state=self._state,
            pid=os.getpid(),
            stream=self._stream,
            symbols=len(self.pool.symbols),
            connections=tuple(
                ConnectionStatus(c.name, c.state, len(c.symbols), c.span.frames if c.span else 0, c.reconnects)
                for c in self.pool.connections
            ),
            frames=self._dispatcher.frames,
            streams={self._stream: self._accounts.counts, **self._extra_feed.counts},
            events_acked=self._acked(self._settings.topic_trades),
            rejected=self._acked(self._settings.topic_rejected),
            messages_resent=self._delivery.messages_resent,
            in_flight=self._delivery.in_flight,
            queued_frames=len(self._queue) + self._extra_feed.queued_frames,
            last_event_time_ms=None if last_event_us is None else last_event_us // 1000,
            exchange_time_ms=max(clocks, default=None),
            coverage_to_ms={
                symbol: covered[symbol] for symbol in self.pool.symbols[:MAX_SYMBOLS_SHOWN] if symbol in covered
            },
            coverage_failures=self._coverage.failures,
            ids_missing=self._gaps.ids_missing,
            rejecting={**self._extra_feed.rejecting, **self._accounts.rejecting},
            stale_symbols=self._coverage_loop.stale_symbols[:MAX_SYMBOLS_SHOWN],
            renewals=self.pool.replacements,
            updated_at_ms=time.time_ns() // 1_000_000,
        )

    def _acked(self, topic: str) -> int:
        return self._delivery.acked.get(topic, 0)


def raise_gc_thresholds() -> None:
    """Raise the GC thresholds: in-flight frames are short-lived and acyclic.

    Default passes would cost about 10 % CPU for nothing.
    """
    gc.set_threshold(50_000, 20, 100)


async def serve(settings: Settings) -> int:
    """Run the producer of these settings until SIGTERM or SIGINT; return the exit code."""
    from cryptolake_assets.lake.coverage import IcebergCoverageSink
    from cryptolake_assets.lake.gap_ledger import IcebergGapSink

    io = io_in_use(settings)
    log.info("producer_libraries_selected", io=io.value)
    raise_gc_thresholds()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Few attempts: a late clock response is useless, and the next round requests the clock again.
    clock_policy = RetryPolicy(attempts=2, max_backoff_s=0.5, max_retry_after_s=1.0)
    # The history client waits as long as the exchange requests; its weight budget covers all symbols.
    history_policy = RetryPolicy(max_retry_after_s=math.inf)
    venue, key = settings.venue, settings.binance_api_key.get_secret_value()
    budget = WeightBudget(settings.rest_weight_share, venue.weights.per_minute)
    async with (
        AsyncExchangeRest(settings.rest_url, timeout_s=3.0, policy=clock_policy, venue=venue, budget=budget) as rest,
        AsyncExchangeRest(
            settings.rest_url, policy=history_policy, venue=venue, api_key=key, budget=budget, urgent=False
        ) as history,
    ):
        found: list[Subscriptions] = []
        items = settings.symbol_items

        async def find() -> None:
            found.append(await find_subscriptions(settings, rest))

        if not await run_until_stopped(stop, find()):
            return 0
        producer = Producer(
            settings,
            found[0],
            publisher=make_publisher(settings, io),
            clock=rest,
            sink=IcebergCoverageSink(settings),
            gaps=IcebergGapSink(settings),
            history=history,
            resume_points=StoredResumePoints(settings),
            options=ProducerOptions(ConnectionOptions(io=io)),
        )
        selection = asyncio.create_task(refresh_symbols(settings, items, history, producer.pool))
        try:
            return 0 if await producer.run(stop) else 1
        finally:
            await cancel_and_wait([selection])


def main() -> int:
    """Entry point of the producer process."""
    try:
        settings = get_settings()
        configure_logging(settings.log_level)
        return asyncio.run(serve(settings))
    except CryptolakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
