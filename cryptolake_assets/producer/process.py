"""The producer: reads trades from the exchange's sockets into Kafka, and loses no received trade.

    a feed per market: connections ─► bounded queue ─► dispatcher ─┬─► delivery ─► Kafka (a topic per family)
                                                                   └─► claims ─► coverage, one commit per round

One process follows all tracked markets: they share the delivery and the coverage commits, nothing else. Run as
`python -m cryptolake_assets.producer.process`. On SIGTERM or SIGINT it stops reading, sends the remaining messages,
writes its coverage and exits with code 0. It exits with code 1 if settings or permissions are wrong (with a message on
stderr), or if the remaining messages could not be delivered in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import structlog

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.log import configure_logging
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait, run_until_stopped
from cryptolake_assets.producer.client_libraries import io_in_use, make_publisher
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.coverage_loop import CoverageLoop
from cryptolake_assets.producer.coverage_statements import CoverageSink, CoverageWriter
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.gap_writer import GapSink
from cryptolake_assets.producer.market_feed import MarketFeed, MarketOptions, MarketSource
from cryptolake_assets.producer.publisher import Publisher
from cryptolake_assets.producer.resume_point import ResumePoints, StoredResumePoints
from cryptolake_assets.producer.status_file import (
    MarketState,
    MarketStatus,
    ProducerStatus,
    status_path,
    write_status,
)
from cryptolake_assets.producer.subscriptions import find_subscriptions, refresh_symbols
from cryptolake_assets.settings import Settings, get_settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProducerOptions(MarketOptions):
    """Options in addition to the settings."""

    # Maximum wait at the start for the exchanges of all markets, once one has responded; later ones join.
    market_wait_s: float = 5.0
    market_retry_s: float = 60.0  # before a late market whose symbols were rejected is tried again
    drain_timeout_s: float = 20.0  # maximum wait at a stop for the brokers' acknowledgements
    status_interval_s: float = 1.0
    stall_alarm_s: float = 5.0  # warn after this long without an acknowledgement while messages are in flight
    final_write_attempts: int = 3
    write_status: Callable[[Path, ProducerStatus], None] = write_status


class Producer:
    """The feeds of all markets, and what they share: delivery, coverage commits and status."""

    def __init__(
        self,
        settings: Settings,
        markets: Sequence[MarketSource],
        *,
        publisher: Publisher,
        sink: CoverageSink,
        options: ProducerOptions | None = None,
    ) -> None:
        self._settings = settings
        self._options = options or ProducerOptions()
        self._markets = markets
        self._publisher = publisher
        self._delivery = ReliableDelivery(publisher)
        self.feeds: dict[Market, MarketFeed] = {}  # of the markets whose symbols are known
        self._found = asyncio.Event()  # a feed was added
        self._rejected: set[Market] = set()
        self._coverage = CoverageWriter(sink)
        self._coverage_loop = CoverageLoop(
            lambda: [feed.coverage for feed in self.feeds.values()],
            self._coverage,
            interval_s=settings.coverage_interval_s,
            grace_ms=settings.watermark_grace_ms,
            barrier_wait_s=self._options.claim_wait_s,
        )
        self._connected = asyncio.Event()  # the delivery has started
        self._working = False
        self._state = "starting"

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until `stop` is set, then drain. Return whether every received frame was acknowledged.

        Raises the errors of the markets' `subscribe`, `BrokerAccessError` if Kafka rejects the client permanently, and
        `ExchangeError` for an invalid URL.
        """
        markets = [asyncio.create_task(self._follow(market, stop)) for market in self._markets]
        status: asyncio.Task[None] | None = None
        try:
            if not await self._until_done(self._first_subscriptions(), stop, markets):
                return True
            status = asyncio.create_task(self._keep_status())
            self._state = "waiting_for_broker"
            if not await self._until_done(self._delivery.start(), stop, markets):
                return True
            return await self._work(stop, markets)
        except BaseException:
            self._state = "failed"
            raise
        finally:
            await cancel_and_wait(markets)
            await self._publisher.stop()
            if self._state != "failed":
                self._state = "stopped"
            if status is not None:
                await cancel_and_wait([status])
                self._write_status()

    async def _follow(self, market: MarketSource, stop: asyncio.Event) -> None:
        """Follow a market until `stop` is set, once its symbols are known and the brokers are connected.

        Raises the errors of its subscriptions at the start. Later, when other markets are followed, they are logged.
        """
        name = market.settings.market
        structlog.contextvars.bind_contextvars(market=name.value)  # for this task and those that it starts
        while name not in self.feeds:
            try:
                if not await run_until_stopped(stop, self._subscribe(market)):
                    return
            except CryptolakeError as error:
                if not self._working:
                    raise
                log.error("market_rejected", error=str(error), retry_in_s=self._options.market_retry_s)
                self._rejected.add(name)
                if await run_until_stopped(stop, asyncio.sleep(self._options.market_retry_s)):
                    continue
                return
        if await run_until_stopped(stop, _wait(self._connected)):
            await self.feeds[name].run(stop)

    async def _subscribe(self, market: MarketSource) -> None:
        self.feeds[market.settings.market] = MarketFeed(
            market,
            await market.subscribe(),
            delivery=self._delivery,
            publisher=self._publisher,
            options=self._options,
            connection_ended=self._coverage_loop.write_soon,
        )
        self._found.set()

    async def _first_subscriptions(self) -> None:
        """Wait until the symbols of a market are known, and up to `market_wait_s` for those of all markets."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.market_wait_s):
                await self._wait_for_feeds(len(self._markets))
        await self._wait_for_feeds(1)

    async def _wait_for_feeds(self, number: int) -> None:
        while len(self.feeds) < number:
            self._found.clear()
            await self._found.wait()

    async def _until_done(
        self, work: Coroutine[Any, Any, None], stop: asyncio.Event, parts: Sequence[asyncio.Future[None]]
    ) -> bool:
        """Run `work`; return False if a stop is requested before. Raises what ends one of the parts."""
        tasks = [asyncio.create_task(work), asyncio.create_task(_wait(stop))]
        try:
            await asyncio.wait([*tasks, self._delivery.fatal, *parts], return_when=asyncio.FIRST_COMPLETED)
            for part in (tasks[0], self._delivery.fatal, *parts):
                if part.done():
                    part.result()
            return tasks[0].done()
        finally:
            await cancel_and_wait(tasks)

    async def _work(self, stop: asyncio.Event, markets: Sequence[asyncio.Task[None]]) -> bool:
        self._state = "streaming"
        self._working = True
        self._connected.set()
        log.info("producer_started", markets=[market.value for market in self.feeds])
        resend = asyncio.create_task(self._delivery.run())
        coverage = asyncio.create_task(self._coverage_loop.run())
        try:
            await self._until_done(_wait(asyncio.Event()), stop, [*markets, resend, coverage])
            return await self._finish(markets, coverage)
        finally:
            await cancel_and_wait([resend, coverage])

    async def _finish(self, markets: Sequence[asyncio.Task[None]], coverage: asyncio.Task[None]) -> bool:
        """Wait until the feeds have sent their messages, write the last coverage."""
        self._state, self._working = "draining", False
        log.info("producer_stopping", queued_frames=self._queued_frames, in_flight=self._delivery.in_flight)
        drained = True
        try:
            async with asyncio.timeout(self._options.drain_timeout_s):
                for market in markets:
                    await self._unless_fatal(market)
                await self._unless_fatal(asyncio.ensure_future(self._delivery.drained()))
        except TimeoutError:
            drained = False
            log.error("drain_incomplete", queued_frames=self._queued_frames, in_flight=self._delivery.in_flight)
        self._coverage_loop.stop()
        await coverage
        for attempt in range(self._options.final_write_attempts):
            if await self._coverage_loop.write():
                break
            if attempt + 1 < self._options.final_write_attempts:
                await asyncio.sleep(1.0)
        status = self.status()
        log.info(
            "producer_stopped",
            frames=status.frames,
            events_acked=status.events_acked,
            rejected=status.rejected,
            messages_resent=status.messages_resent,
            drained=drained,
        )
        return drained

    async def _unless_fatal(self, work: asyncio.Future[None]) -> None:
        await asyncio.wait([work, self._delivery.fatal], return_when=asyncio.FIRST_COMPLETED)
        if self._delivery.fatal.done():
            self._delivery.fatal.result()
        await work

    # Status.

    @property
    def _queued_frames(self) -> int:
        return sum(feed.queued_frames for feed in self.feeds.values())

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
                queued_frames=self._queued_frames,
            )
        elif self._state == "waiting_for_broker" and self._working and stalled_s <= self._options.stall_alarm_s:
            self._state = "streaming"
            log.info("broker_recovered", in_flight=self._delivery.in_flight, queued_frames=self._queued_frames)

    def _write_status(self) -> None:
        try:
            self._options.write_status(status_path(self._settings), self.status())
        except OSError as error:
            log.error("status_write_failed", error=str(error))

    def status(self) -> ProducerStatus:
        """Return the current state and counts."""
        families = self._settings.each_family
        return ProducerStatus(
            state=self._state,
            pid=os.getpid(),
            markets={market.settings.market: self._market_status(market) for market in self._markets},
            events_acked=self._acked([family.topic_trades for family in families]),
            rejected=self._acked([family.topic_rejected for family in families]),
            messages_resent=self._delivery.messages_resent,
            in_flight=self._delivery.in_flight,
            coverage_failures=self._coverage.failures,
            updated_at_ms=self._options.connection.machine.wall_ns() // 1_000_000,
        )

    def _market_status(self, market: MarketSource) -> MarketStatus:
        name = market.settings.market
        if name in self.feeds:
            return self.feeds[name].status()
        return MarketStatus(MarketState.REJECTED if name in self._rejected else MarketState.WAITING)

    def _acked(self, topics: Sequence[str]) -> int:
        return sum(self._delivery.acked.get(topic, 0) for topic in topics)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def raise_gc_thresholds() -> None:
    """Raise the GC thresholds: in-flight frames are short-lived and acyclic.

    Default passes would cost about 10 % CPU for nothing.
    """
    gc.set_threshold(50_000, 20, 100)


async def serve(settings: Settings) -> int:
    """Run the producer of these settings until SIGTERM or SIGINT; return the exit code."""
    from cryptolake_assets.lake.coverage import IcebergCoverageSink

    io = io_in_use(settings)
    log.info("producer_libraries_selected", io=io.value)
    raise_gc_thresholds()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as clients:
        producer = Producer(
            settings,
            [await market_source(market, clients) for market in settings.each_market],
            publisher=make_publisher(settings, io),
            sink=IcebergCoverageSink(settings),
            options=ProducerOptions(ConnectionOptions(io=io)),
        )
        return 0 if await producer.run(stop) else 1


async def market_source(settings: Settings, clients: contextlib.AsyncExitStack) -> MarketSource:
    """Return the market of these settings; its REST clients are closed with the stack."""
    from cryptolake_assets.lake.gap_ledger import IcebergGapSink

    venue = settings.venue
    budget = WeightBudget(settings.rest_weight_share, venue.weights.per_minute)
    rest, history = rest_clients(settings, budget)
    for client in (rest, history):
        await clients.enter_async_context(client)
    gaps = IcebergGapSink(settings)
    source = source_of(settings, rest, history, gaps, StoredResumePoints(settings))
    return replace(source, lost_gaps=gaps.lost_gaps)


def rest_clients(
    settings: Settings,
    budget: WeightBudget,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
    transport: httpx.AsyncBaseTransport | None = None,
) -> tuple[AsyncExchangeRest, AsyncExchangeRest]:
    """Return the clients of a market's clock and listing, and of its history.

    `uniform` draws the jitter of retries; `transport` replaces the network.
    """
    # Few attempts: a late clock response is useless, and the next round requests the clock again.
    clock_policy = RetryPolicy(attempts=2, max_backoff_s=0.5, max_retry_after_s=1.0, uniform=uniform)
    # The history client waits as long as the exchange requests; the market's weight budget covers all symbols.
    history_policy = RetryPolicy(max_retry_after_s=math.inf, uniform=uniform)
    url, key = settings.rest_url, settings.binance_api_key.get_secret_value()
    shared: dict[str, Any] = {"venue": settings.venue, "budget": budget, "transport": transport}
    return (
        AsyncExchangeRest(url, timeout_s=3.0, policy=clock_policy, **shared),
        AsyncExchangeRest(url, policy=history_policy, api_key=key, urgent=False, **shared),
    )


def source_of(
    settings: Settings,
    rest: AsyncExchangeRest,
    history: AsyncExchangeRest,
    gaps: GapSink,
    resume_points: ResumePoints,
) -> MarketSource:
    """Return the market of these settings, with the clients of `rest_clients`."""
    items = settings.symbol_items

    async def subscribe() -> Subscriptions:
        return await find_subscriptions(settings, rest)

    return MarketSource(
        settings=settings,
        subscribe=subscribe,
        clock=rest,
        history=history,
        books=history,
        gaps=gaps,
        resume_points=resume_points,
        refresh=partial(refresh_symbols, settings, items, history),
    )


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
