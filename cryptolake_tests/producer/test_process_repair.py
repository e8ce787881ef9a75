"""The producer with a REST history: trades missed at disconnects, restarts and stale symbols are fetched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, OpenBecause
from cryptolake_assets.model.exchange_records import HistoricalTrade
from cryptolake_assets.producer.catch_up import CatchUpOptions
from cryptolake_assets.producer.gap_tracker import KnownTrade, LastTrade
from cryptolake_assets.producer.process import Producer, ProducerOptions
from cryptolake_assets.producer.resume_point import FETCHED_HEADERS, ResumePoint
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.fakes import (
    NOON_MS,
    QUICK,
    FakeClock,
    FakeExchange,
    FakePublisher,
    MemoryGaps,
    MemoryHistory,
    MemorySink,
    trade,
    until,
)
from cryptolake_tests.support.producing import market_source

OPTIONS = ProducerOptions(
    connection=QUICK,
    catch_up=CatchUpOptions(poll_s=0.02, after_opening_s=0.1, stale_s=60.0, settle_s=0.02),
    drain_timeout_s=5.0,
    claim_wait_s=0.5,
)


def second(number: int) -> int:
    return NOON_MS + number * 1000


def rows(ids: Iterable[int]) -> list[HistoricalTrade]:
    """Return one trade per second."""
    return [HistoricalTrade(number, "1.50", "1", second(number), is_buyer_maker=False) for number in ids]


@dataclass
class FixedResumePoint:
    """`ResumePoints` with the resume point that an earlier producer left."""

    newest: ResumePoint = field(default_factory=ResumePoint)

    async def find(self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int]) -> ResumePoint:
        assert (symbols, stream) == (("BTCUSDT",), "trade")
        assert end_offsets
        return self.newest


@dataclass
class Stage:
    exchange: FakeExchange
    publisher: FakePublisher
    sink: MemorySink
    gaps: MemoryGaps
    clock: FakeClock
    history: MemoryHistory
    settings: Settings

    def sent(self) -> list[int]:
        return self.publisher.trade_ids(self.settings.kafka_topic_futures)

    def closed(self) -> list[tuple[int, int, ClosedBy | None, GapOutcome | None]]:
        return [
            (gap.first_missing_id, gap.last_missing_id, gap.closed_by, gap.outcome)
            for gap in self.gaps.gaps.values()
            if gap.closed_at is not None
        ]


@asynccontextmanager
async def stage(history: MemoryHistory, newest: ResumePoint | None = None, at_s: int = 0) -> AsyncIterator[Stage]:
    clock = FakeClock(second(at_s))
    on = Stage(FakeExchange(), FakePublisher(), MemorySink(), MemoryGaps(), clock, history, load_settings())
    async with on.exchange.running():
        on.settings = load_settings(exchange_ws_url=on.exchange.url, coverage_interval_s=0.05)
        stop = asyncio.Event()
        market = market_source(
            on.settings,
            Subscriptions(("BTCUSDT",), "trade"),
            clock=on.clock,
            history=history,
            gaps=on.gaps,
            resume_points=FixedResumePoint(newest or ResumePoint()),
        )
        producer = Producer(on.settings, [market], publisher=on.publisher, sink=on.sink, options=OPTIONS)
        run = asyncio.create_task(producer.run(stop))
        try:
            yield on
            stop.set()
            assert await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def test_trades_missed_by_a_disconnect_are_fetched_and_their_time_is_covered() -> None:
    async with stage(MemoryHistory(has_key=True)) as on:
        await on.exchange.send(*(trade(number, second(number)) for number in range(4)))
        await until(lambda: on.sent() == [0, 1, 2, 3])
        on.history.trades = rows(range(7))
        on.clock.now_ms = second(20)
        await on.exchange.sockets[-1].close()
        await on.exchange.connected(2)
        await until(lambda: on.sent() == [0, 1, 2, 3, 4, 5, 6])
        assert [message.headers for message in on.publisher.log] == [None] * 4 + [FETCHED_HEADERS] * 3
        await until(lambda: on.closed() == [(4, 6, ClosedBy.REST, GapOutcome.REPAIRED)])
        await on.exchange.send(trade(7, second(25)))
        await until(lambda: (second(0) + 1, second(25)) in on.sink.spans())


async def test_start_resumes_from_the_end_of_the_topic() -> None:
    """The earlier producer left a gap that it had not recorded; the first trade shows another one."""
    left = [KnownTrade("BTCUSDT", number, second(number) * 1000, is_fetched=False) for number in (10, 11, 13)]
    async with stage(MemoryHistory(trades=rows(range(17)), has_key=True), ResumePoint(left), at_s=20) as on:
        await on.exchange.send(trade(16, second(20)))
        await until(lambda: sorted(on.sent()) == [12, 14, 15, 16])
        await until(lambda: len(on.closed()) == 2)
        assert {gap[:2] for gap in on.closed()} == {(12, 12), (14, 15)}
        on.clock.now_ms = second(21)
        await until(lambda: (second(10) + 1, second(20)) in on.sink.spans())


async def test_start_without_new_trades_resumes_from_bronze() -> None:
    newest = ResumePoint(in_bronze={"BTCUSDT": LastTrade(10, second(10) * 1000)})
    async with stage(MemoryHistory(trades=rows(range(13)), has_key=True), newest) as on:
        await on.exchange.connected()
        await until(lambda: on.sent() == [11, 12])
        await until(lambda: on.closed() == [(11, 12, ClosedBy.REST, GapOutcome.REPAIRED)])


async def test_without_a_key_the_gap_stays_open_and_its_time_is_not_covered() -> None:
    left = [KnownTrade("BTCUSDT", number, second(number) * 1000, is_fetched=False) for number in (10, 11)]
    async with stage(MemoryHistory(), ResumePoint(left), at_s=20) as on:
        await on.exchange.send(trade(16, second(20)), trade(17, second(30)))
        await until(lambda: on.sink.spans())
        await until(lambda: [gap.open_because for gap in on.gaps.gaps.values()] == ["needs_key"])
        assert min(span[0] for span in on.sink.spans()) == second(20)


async def test_rejected_fetched_trade_is_one_dead_letter_and_requested_once() -> None:
    first, malformed, last = rows([1, 2, 3])
    history = MemoryHistory(trades=[first, replace(malformed, qty="5.551115123125783e-17"), last], has_key=True)
    async with stage(history) as on:
        await on.exchange.send(trade(1, second(1)), trade(3, second(3)))
        await until(lambda: [gap.open_because for gap in on.gaps.gaps.values()] == [OpenBecause.REJECTED])
        requested = list(history.requested_ids)
        await asyncio.sleep(0.2)  # several rounds
        assert history.requested_ids == requested
        letters = [message for message in on.publisher.log if message.topic == on.settings.topic_rejected]
        assert [json.loads(letter.value)["t"] for letter in letters] == [2]
        (gap,) = on.gaps.gaps.values()
        assert gap.rejection is not None
        assert gap.rejection.reason.startswith("qty_format: ")
        assert gap.rejection.offset is not None
