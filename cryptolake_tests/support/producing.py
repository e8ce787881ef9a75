"""A producer with fake exchanges, publisher, sinks and clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.model.exchange_records import TradeStreamName
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.connection import ExchangeClock
from cryptolake_assets.producer.connection_pool import ConnectionPool, ConnectionPoolOptions
from cryptolake_assets.producer.gap_writer import GapSink
from cryptolake_assets.producer.market_feed import MarketFeed, MarketSource
from cryptolake_assets.producer.process import Producer, ProducerOptions
from cryptolake_assets.producer.rest_history import TradeHistory
from cryptolake_assets.producer.resume_point import ResumePoints
from cryptolake_assets.producer.status_file import (
    MarketState,
    MarketStatus,
    ProducerStatus,
    read_status,
    status_path,
    write_status,
)
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.fakes import (
    QUICK,
    FakeClock,
    FakeExchange,
    FakePublisher,
    MemoryGaps,
    MemoryHistory,
    MemorySink,
    until,
)

OPTIONS = ProducerOptions(
    connection=QUICK,
    drain_timeout_s=5.0,
    claim_wait_s=0.5,
    status_interval_s=0.02,
    stall_alarm_s=0.1,
    pool=ConnectionPoolOptions(life_s=3_600.0, connect_apart_s=0.0),
)


def market_source(
    settings: Settings,
    subscriptions: Subscriptions,
    *,
    clock: ExchangeClock | None = None,
    history: TradeHistory | None = None,
    gaps: GapSink | None = None,
    resume_points: ResumePoints | None = None,
    refresh: Callable[[ConnectionPool], Coroutine[Any, Any, None]] | None = None,
) -> MarketSource:
    """Return the market of the settings with known subscriptions; fakes for everything else that is not given."""

    async def subscribe() -> Subscriptions:
        return subscriptions

    return MarketSource(
        settings=settings,
        subscribe=subscribe,
        clock=clock or FakeClock(),
        history=history or MemoryHistory(),
        gaps=gaps or MemoryGaps(),
        resume_points=resume_points,
        refresh=refresh,
    )


def market_status(settings: Settings) -> MarketStatus:
    """Return the market's part of the producer's last written status, an empty one before the first."""
    status = read_status(settings)
    return MarketStatus(MarketState.WAITING) if status is None else status.markets[settings.market]


def report_markets(settings: Settings, markets: dict[Market, MarketStatus]) -> None:
    """Write the status of a streaming producer of these markets."""
    counts: dict[str, Any] = dict.fromkeys(ProducerStatus.__struct_fields__, 0)
    write_status(status_path(settings), ProducerStatus(**{**counts, "state": "streaming", "markets": markets}))


@dataclass
class Stage:
    """A producer of one market, and its fakes."""

    exchange: FakeExchange
    publisher: FakePublisher
    sink: MemorySink
    gaps: MemoryGaps
    clock: FakeClock
    settings: Settings
    stop: asyncio.Event
    run: asyncio.Task[bool]
    producer: Producer

    @property
    def topic(self) -> str:
        return self.settings.topic_trades

    @property
    def feed(self) -> MarketFeed:
        return self.producer.feeds[self.settings.market]

    def sent(self, topic: str | None = None) -> list[int]:
        return self.publisher.trade_ids(topic or self.topic)

    async def opened(self) -> None:
        """Wait until the connection is open and the clock was read before and after: the test may move the clock."""
        await until(lambda: self.exchange.sockets and self.clock.requests >= 2)

    async def ended(self) -> bool:
        """Stop the producer in order; return whether it drained."""
        self.stop.set()
        async with asyncio.timeout(10):
            return await self.run


@asynccontextmanager
async def stage(
    *,
    publisher: FakePublisher | None = None,
    symbols: tuple[str, ...] = ("BTCUSDT",),
    clock: FakeClock | None = None,
    options: ProducerOptions = OPTIONS,
    stream: TradeStreamName = "trade",
    history: MemoryHistory | None = None,
    **changes: Any,
) -> AsyncIterator[Stage]:
    exchange, sink, gaps = FakeExchange(), MemorySink(), MemoryGaps()
    publisher = publisher or FakePublisher()
    clock = clock or FakeClock()
    async with exchange.running():
        settings = load_settings(**{"exchange_ws_url": exchange.url, "coverage_interval_s": 0.05, **changes})
        stop = asyncio.Event()
        market = market_source(settings, Subscriptions(symbols, stream), clock=clock, history=history, gaps=gaps)
        producer = Producer(settings, [market], publisher=publisher, sink=sink, options=options)
        run = asyncio.create_task(producer.run(stop))
        try:
            yield Stage(exchange, publisher, sink, gaps, clock, settings, stop, run, producer)
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
