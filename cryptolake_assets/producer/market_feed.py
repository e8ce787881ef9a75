"""One market's way from the sockets to the delivery: connections, queue, dispatcher, gaps, repair and coverage claims.

    connections (one reader each) ─► bounded queue ─► dispatcher: parse, send ─► delivery, shared by all markets
                                                          └ marks: "all before this is acknowledged" ─► claims

A market's symbols, ids and gaps mean nothing in another market, so it shares none of them. Frames of a market wait in
its own queue: a market whose frames cannot be dispatched yet holds back no other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import structlog

from cryptolake_assets.binance.venue_adapter import ADAPTERS
from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.lake.coverage_union import overlap_ms
from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.catch_up import CatchUp, CatchUpOptions
from cryptolake_assets.producer.clock_check import ClockCheck
from cryptolake_assets.producer.connection import ConnectionOptions, ExchangeClock, ExchangeConnection
from cryptolake_assets.producer.connection_pool import ConnectionPool, ConnectionPoolOptions
from cryptolake_assets.producer.coverage_loop import MarketCoverage
from cryptolake_assets.producer.coverage_statements import ConnectionSpan, CoverageClaims
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.depth_snapshots import SnapshotSource
from cryptolake_assets.producer.dispatch import Dispatcher
from cryptolake_assets.producer.extra_feed import ExtraFeed
from cryptolake_assets.producer.frame_accounts import FrameAccounts
from cryptolake_assets.producer.frame_queue import EndOfFrames, FrameQueue, ReceivedFrames
from cryptolake_assets.producer.gap_repair import GapRepairer
from cryptolake_assets.producer.gap_tracker import GapTracker
from cryptolake_assets.producer.gap_writer import GapSink, GapWriter
from cryptolake_assets.producer.publisher import Publisher
from cryptolake_assets.producer.rest_history import StreamHistory, TradeHistory
from cryptolake_assets.producer.resume_point import ResumePoints
from cryptolake_assets.producer.status_file import MAX_SYMBOLS_SHOWN, ConnectionStatus, MarketState, MarketStatus
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketSource:
    """A market to follow: its exchange, its gap ledger and its resume points."""

    settings: Settings  # of the market
    subscribe: Callable[[], Awaitable[Subscriptions]]  # waits while the exchange is unreachable
    clock: ExchangeClock
    history: TradeHistory
    books: SnapshotSource | None = None  # None: no snapshots of order books
    gaps: GapSink
    resume_points: ResumePoints | None = None  # None: do not resume from an earlier process
    lost_gaps: Callable[[], list[TradeGap]] = list  # gaps of records that Kafka deleted before Bronze read them
    # Changes the pool's tracked symbols until cancelled; None: they stay.
    refresh: Callable[[ConnectionPool], Coroutine[Any, Any, None]] | None = None


@dataclass(frozen=True, slots=True)
class MarketOptions:
    """Options of a market in addition to the settings."""

    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    pool: ConnectionPoolOptions | None = None  # None: from the settings
    catch_up: CatchUpOptions = field(default_factory=CatchUpOptions)
    claim_wait_s: float = 2.0  # maximum wait of a coverage round for its barriers; the next round writes late claims


class MarketFeed:
    """The trades of one market, and its extra streams."""

    def __init__(
        self,
        source: MarketSource,
        subscriptions: Subscriptions,
        *,
        delivery: ReliableDelivery,
        publisher: Publisher,
        options: MarketOptions,
        connection_ended: Callable[[], None],
    ) -> None:
        """`connection_ended` is called once the last claim of a connection is made."""
        settings = self._settings = source.settings
        self._source = source
        self._adapter = ADAPTERS[settings.market]
        self._connection_options = options.connection
        self._machine = options.connection.machine
        self._topic = settings.topic_trades
        self._publisher = publisher
        self._delivery = delivery
        self._connection_ended = connection_ended
        self._stream = subscriptions.stream
        self._queue = FrameQueue()
        self._gaps = GapTracker(settings.venue.exchange, self._stream, self._machine.now, settings.gap_repair_max_ids)
        self._gap_writer = GapWriter(source.gaps, self._gaps, source.lost_gaps)
        self._connections_made = count()
        self._clock_check = ClockCheck.of(settings)
        # Public: callers change the tracked symbols with `pool.track`.
        self.pool = ConnectionPool(
            subscriptions.symbols,
            self._connection,
            options.pool or ConnectionPoolOptions(settings.connection_life_s),
        )
        history = StreamHistory(source.history, self._stream, has_history=self._adapter.has_history)
        self._repairer = GapRepairer(self._gaps, history, self._put_fetched)
        self._catch_up = CatchUp(
            self._gaps,
            history,
            spans=lambda: [c.span for c in self.pool.connections if c.span is not None],
            is_idle=lambda: not len(self._queue),
            options=options.catch_up,
        )
        self._fetched = ConnectionSpan("rest", ())
        self._accounts = FrameAccounts(self._stream, self.pool.replace_span, lambda: self.pool.symbols)
        partition_for = partial(publisher.partition_for, self._topic)
        self._dispatcher = Dispatcher(
            settings,
            self._stream,
            parse=self._adapter.parser(settings.venue),
            has_numbers=self._adapter.has_numbers,
            queue=self._queue,
            delivery=delivery,
            gaps=self._gaps,
            fetched=self._fetched,
            partition_for=partition_for,
            mark=self._mark,
            accounts=self._accounts,
        )
        claims = CoverageClaims(
            exchange=settings.venue.exchange,
            stream=self._stream,
            source=settings.ws_url,
            partition_for=partition_for,
            overlap_ms=overlap_ms(settings),
            first=self._gap_writer.write,
        )
        self.coverage = MarketCoverage(self.pool, claims, self._gaps.last, claim_wait_s=options.claim_wait_s)
        self._extra_feed = ExtraFeed(
            settings,
            lambda: self.pool.symbols,
            delivery.put,
            source.clock,
            options.connection,
            options.pool,
            books=source.books,
        )

    def _connection(self, symbols: tuple[str, ...], turn: Callable[[], Awaitable[None]]) -> ExchangeConnection:
        return ExchangeConnection(
            name=f"{self._settings.market}-{self._stream}-{next(self._connections_made)}",
            url=self._adapter.address(self._settings, symbols, self._stream),
            symbols=symbols,
            queue=self._queue,
            clock=self._source.clock,
            options=self._connection_options,
            turn=turn,
            has_barriers=self._adapter.barriers,
            clock_check=self._clock_check,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set, then dispatch the received frames."""
        await self._gap_writer.resume()
        log.info("market_started", symbols=len(self.pool.symbols), stream=self._stream, source=self._settings.ws_url)
        parts = [self.pool.run(), self._repairer.run(), self._catch_up.run(), self._extra_feed.run()]
        if self._source.refresh is not None:
            parts.append(self._source.refresh(self.pool))
        readers = [asyncio.create_task(part) for part in parts]
        dispatch = asyncio.create_task(self._dispatch())
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, dispatch, *readers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises the error of a part that must not end
            await cancel_and_wait(readers)
            self._queue.put_mark(EndOfFrames())
            await dispatch
        finally:
            await cancel_and_wait([stopped, dispatch, *readers])

    async def _dispatch(self) -> None:
        """Resume from the newest trades in Kafka and Bronze, then dispatch queued frames."""
        if self._source.resume_points is not None:
            start_offsets = self._publisher.start_offsets[self._topic]
            known = await self._source.resume_points.find(self.pool.symbols, self._stream, start_offsets)
            self._gaps.resume_from(known.on_topic, known.in_bronze)
        await self._dispatcher.run()

    async def _put_fetched(self, raw: bytes) -> None:
        await self._queue.wait_for_room()
        self._queue.put(ReceivedFrames(self._fetched, self._machine.wall_ns() // 1000, [raw]))

    def _mark(self, span: ConnectionSpan, barrier_ms: int | None, ended: bool) -> None:
        """Claim what is proven so far, once everything before this point is acknowledged.

        With barriers, that is the connection's interval, and what ids prove before it. Without them, it is the time
        whose missing numbers are all in the gap ledger.
        """
        if self._adapter.barriers:
            interval = span.claim_to(barrier_ms)
            claims = span.claims_of(interval) if interval is not None else {}
            by_ids = self._gaps.proven_before(span.symbols, interval)
        else:
            claims, by_ids = {}, self._gaps.tracked(span.symbols)
        self._gap_writer.take_open()
        self._delivery.mark(self._topic, partial(self._claim, span, claims, by_ids, ended, self._gaps.take_closed()))

    def _claim(
        self,
        span: ConnectionSpan,
        claims: dict[tuple[int, int], list[str]],
        by_ids: dict[str, tuple[int, int]],
        ended: bool,
        closed: list[TradeGap],
        next_offsets: dict[int, int],
    ) -> None:
        self._gap_writer.close(closed, partial(self._publisher.partition_for, self._topic), next_offsets)
        for symbol, proven in by_ids.items():
            self.coverage.claims.claim((symbol,), proven, next_offsets, Evidence.IDS)
        for claimed, symbols in claims.items():
            self.coverage.claims.claim(symbols, claimed, next_offsets)
        span.claims += 1
        span.ended = span.ended or ended
        self.coverage.claim_made()
        if ended:
            self._connection_ended()

    @property
    def queued_frames(self) -> int:
        """Number of received frames that wait for the delivery."""
        return len(self._queue) + self._extra_feed.queued_frames

    def status(self) -> MarketStatus:
        """Return the market's current counts."""
        connections, covered = self.pool.connections, self.coverage.claims.covered_to_ms
        clocks = [c.exchange_time_ms for c in connections if c.exchange_time_ms is not None]
        last_event_us = self._dispatcher.last_event_time_us
        return MarketStatus(
            state=MarketState.STREAMING,
            stream=self._stream,
            symbols=len(self.pool.symbols),
            connections=tuple(
                ConnectionStatus(c.name, c.state, len(c.symbols), c.span.frames if c.span else 0, c.reconnects)
                for c in connections
            ),
            connections_replaced=self.pool.replacements,
            frames=self._dispatcher.frames,
            streams={self._stream: self._accounts.counts, **self._extra_feed.counts},
            queued_frames=self.queued_frames,
            last_event_time_ms=None if last_event_us is None else last_event_us // 1000,
            exchange_time_ms=max(clocks, default=None),
            coverage_to_ms={
                symbol: covered[symbol] for symbol in self.pool.symbols[:MAX_SYMBOLS_SHOWN] if symbol in covered
            },
            ids_missing=self._gaps.ids_missing,
            rejecting={**self._extra_feed.rejecting, **self._accounts.rejecting},
            stale_symbols=self.coverage.stale_symbols[:MAX_SYMBOLS_SHOWN],
        )
