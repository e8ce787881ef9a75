"""One producer of several markets: nothing of a market reaches another, and none waits for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.errors import UnknownSymbolError
from cryptolake_assets.lake.gap_ledger import ClosedBy
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.exchange_records import HistoricalTrade
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.catch_up import CatchUpOptions
from cryptolake_assets.producer.gap_tracker import KnownTrade
from cryptolake_assets.producer.market_feed import MarketSource
from cryptolake_assets.producer.process import Producer, ProducerOptions
from cryptolake_assets.producer.resume_point import ResumePoint
from cryptolake_assets.producer.status_file import MarketState, read_status
from cryptolake_assets.producer.subscriptions import refresh_symbols
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.fakes import (
    FUTURES_TOPIC,
    NOON_MS,
    SPOT_TOPIC,
    FakeClock,
    FakeExchange,
    FakePublisher,
    MemoryGaps,
    MemoryHistory,
    MemorySink,
    trade,
    until,
)
from cryptolake_tests.support.producing import OPTIONS, market_source, market_status

BOTH = (Market.USD_M, Market.SPOT)
ALL = (Market.USD_M, Market.SPOT, Market.COIN_M)


@dataclass
class FixedResumePoint:
    """`ResumePoints` with the resume point that an earlier producer left; records the end offsets it gets."""

    left: ResumePoint
    ends: list[Mapping[int, int]] = field(default_factory=list)

    async def find(self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int]) -> ResumePoint:
        self.ends.append(end_offsets)
        return self.left


class Place:
    """One market with its own fakes; the exchange's answer to the subscription is `answers`, once it is set."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.symbols = ("BTCUSD_PERP",) if market is Market.COIN_M else ("BTCUSDT",)
        self.exchange = FakeExchange()
        self.clock = FakeClock()
        self.gaps = MemoryGaps()
        self.history = MemoryHistory(has_key=True)
        self.resume_points = FixedResumePoint(ResumePoint())
        self.rest: AsyncExchangeRest | None = None  # for the refresh of the symbols; None: they stay
        self.responds = asyncio.Event()
        self.responds.set()
        self.rejects: Exception | None = None
        self.settings = load_settings()

    def source(self, settings: Settings) -> MarketSource:
        self.settings = settings.of_market(self.market).model_copy(update={"exchange_ws_url": self.exchange.url})

        async def subscribe() -> Subscriptions:
            await self.responds.wait()
            if self.rejects is not None:
                raise self.rejects
            return Subscriptions(self.symbols, "trade")

        known = market_source(
            self.settings,
            Subscriptions(self.symbols, "trade"),
            clock=self.clock,
            history=self.history,
            gaps=self.gaps,
            resume_points=self.resume_points,
        )
        if self.rest is not None:
            refresh = partial(refresh_symbols, self.settings, self.settings.symbol_items, self.rest)
            known = replace(known, refresh=refresh)
        return replace(known, subscribe=subscribe)

    async def opened(self) -> None:
        await until(lambda: self.exchange.sockets and self.clock.requests >= 2)


@dataclass
class Stage:
    """A producer of several markets, each with its own exchange."""

    places: dict[Market, Place]
    publisher: FakePublisher
    sink: MemorySink
    settings: Settings
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __getitem__(self, market: Market) -> Place:
        return self.places[market]

    def sent(self, market: Market) -> list[tuple[str, int]]:
        """Return topic and trade id of each message of the market."""
        exchange = self[market].settings.venue.exchange
        events = [(message.topic, json.loads(message.value)) for message in self.publisher.log]
        return [(topic, event["trade_id"]) for topic, event in events if event["exchange"] == exchange]

    def covered(self, market: Market) -> list[tuple[int, int, Evidence | None]]:
        exchange = self[market].settings.venue.exchange
        rows = [row for row in self.sink.rows if row.exchange == exchange]
        return [(row.connected_from_ms, row.connected_to_ms, row.evidence) for row in rows]


@asynccontextmanager
async def stage(
    *markets: Market,
    publisher: FakePublisher | None = None,
    prepare: Callable[[Stage], None] = lambda _: None,
    options: ProducerOptions = OPTIONS,
    **changes: Any,
) -> AsyncIterator[Stage]:
    """Run a producer of the markets; `prepare` is called with the stage before it starts."""
    settings = load_settings(**{"markets": markets, "coverage_interval_s": 0.05, **changes})
    places = {market: Place(market) for market in markets}
    on = Stage(places, publisher or FakePublisher(), MemorySink(), settings)
    async with running([place.exchange for place in places.values()]):
        prepare(on)
        sources = [place.source(settings) for place in places.values()]
        producer = Producer(settings, sources, publisher=on.publisher, sink=on.sink, options=options)
        run = asyncio.create_task(producer.run(on.stop))
        try:
            yield on
            on.stop.set()
            async with asyncio.timeout(10):
                assert await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


@asynccontextmanager
async def running(exchanges: Sequence[FakeExchange]) -> AsyncIterator[None]:
    if not exchanges:
        yield
        return
    async with exchanges[0].running(), running(exchanges[1:]):
        yield


async def test_the_same_symbol_of_two_markets_has_two_topics_offsets_and_coverages() -> None:
    publisher = FakePublisher({FUTURES_TOPIC: 2, SPOT_TOPIC: 3}, start_offset=40)
    async with stage(*BOTH, publisher=publisher) as on:
        for market in BOTH:
            await on[market].opened()
        await on[Market.USD_M].exchange.send(trade(1, NOON_MS + 10), trade(2, NOON_MS + 20))
        await on[Market.SPOT].exchange.send(trade(9_001, NOON_MS + 30))
        await until(lambda: len(publisher.log) == 3)
        assert on.sent(Market.USD_M) == [(FUTURES_TOPIC, 1), (FUTURES_TOPIC, 2)]
        assert on.sent(Market.SPOT) == [(SPOT_TOPIC, 9_001)]
        assert json.loads(publisher.log[-1].value)["trade_type"] == "MARKET"
        on[Market.USD_M].clock.now_ms, on[Market.SPOT].clock.now_ms = NOON_MS + 1_000, NOON_MS + 2_000
        await until(lambda: on.covered(Market.USD_M) == [(NOON_MS, NOON_MS + 1_000, Evidence.BARRIER)])
        await until(lambda: on.covered(Market.SPOT) == [(NOON_MS, NOON_MS + 2_000, Evidence.BARRIER)])
        rows = {row.exchange: row for row in on.sink.rows}
        for name, topic, offset in (("binance_futures", FUTURES_TOPIC, 42), ("binance_spot", SPOT_TOPIC, 41)):
            partition = publisher.partition_for(topic, b"BTCUSDT")
            assert (rows[name].kafka_partition, rows[name].kafka_offset) == (partition, offset)
        assert publisher.partition_for(FUTURES_TOPIC, b"BTCUSDT") != publisher.partition_for(SPOT_TOPIC, b"BTCUSDT")
        assert [place.exchange.paths for place in on.places.values()] == [
            ["/usdm/market/stream?streams=btcusdt@trade"],
            ["/spot/stream?streams=btcusdt@trade"],
        ]


def is_repaired(gaps: MemoryGaps) -> bool:
    return bool(gaps.gaps) and not gaps.open_gaps()


async def test_ids_of_one_market_are_no_gap_of_another() -> None:
    async with stage(*ALL) as on:
        for number, market in enumerate(ALL):
            place, first = on[market], 1_000 * (number + 1)
            (symbol,) = place.symbols
            place.history.trades = [
                HistoricalTrade(first + 2, "1.50", "1", NOON_MS + 15, is_buyer_maker=False),
                HistoricalTrade(first + 3, "1.50", "1", NOON_MS + 16, is_buyer_maker=False),
            ]
            await place.exchange.send(trade(first, NOON_MS + 10, symbol), trade(first + 1, NOON_MS + 11, symbol))
            await place.exchange.send(trade(first + 4, NOON_MS + 20, symbol))
        for number, market in enumerate(ALL):
            await until(partial(is_repaired, on[market].gaps))
            (gap,) = on[market].gaps.gaps.values()
            first = 1_000 * (number + 1)
            assert (gap.exchange, gap.symbol) == (on[market].settings.venue.exchange, *on[market].symbols)
            assert (gap.first_missing_id, gap.last_missing_id, gap.closed_by) == (first + 2, first + 3, ClosedBy.REST)
            assert sorted(trade_id for _, trade_id in on.sent(market)) == list(range(first, first + 5))


async def test_claims_of_all_markets_are_written_together() -> None:
    async with stage(*ALL) as on:
        for market in ALL:
            await on[market].opened()
        for place in on.places.values():
            place.clock.now_ms = NOON_MS + 1_000
        await until(lambda: len(on.sink.rows) == 3)
        await until(lambda: all(row.connected_to_ms == NOON_MS + 1_000 for row in on.sink.rows))
        assert {frozenset(row.exchange for row in rows) for rows in on.sink.writes} == {
            frozenset(place.settings.venue.exchange for place in on.places.values())
        }


async def test_each_market_resumes_from_its_own_trades_and_topic() -> None:
    def resume(on: Stage) -> None:
        for market, trade_id in ((Market.USD_M, 10), (Market.SPOT, 500)):
            last = KnownTrade("BTCUSDT", trade_id, (NOON_MS - 1_000) * 1000, is_fetched=False)
            on[market].resume_points.left = ResumePoint([last])

    publisher = FakePublisher({FUTURES_TOPIC: 2, SPOT_TOPIC: 3}, start_offset=7)
    async with stage(*BOTH, publisher=publisher, prepare=resume) as on:
        await on[Market.USD_M].exchange.send(trade(12, NOON_MS))
        await on[Market.SPOT].exchange.send(trade(502, NOON_MS))
        await until(lambda: all(on[market].gaps.gaps for market in BOTH))
        assert [next(iter(on[market].gaps.gaps.values())).first_missing_id for market in BOTH] == [11, 501]
        assert on[Market.USD_M].resume_points.ends == [{0: 7, 1: 7}]
        assert on[Market.SPOT].resume_points.ends == [{0: 7, 1: 7, 2: 7}]


def spot_is_unreachable(on: Stage) -> None:
    on[Market.SPOT].responds.clear()


async def test_unreachable_exchange_of_one_market_does_not_keep_the_others_from_starting() -> None:
    options = replace(OPTIONS, market_wait_s=0.1)
    async with stage(*BOTH, prepare=spot_is_unreachable, options=options) as on:
        await on[Market.USD_M].opened()
        await on[Market.USD_M].exchange.send(trade(1, NOON_MS + 10))
        on[Market.USD_M].clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.covered(Market.USD_M) == [(NOON_MS, NOON_MS + 1_000, Evidence.BARRIER)])
        status = read_status(on.settings)
        assert status is not None
        assert status.state == "streaming"
        assert status.markets[Market.SPOT].state is MarketState.WAITING
        on[Market.SPOT].responds.set()
        await on[Market.SPOT].exchange.send(trade(5, NOON_MS + 2_000))
        await until(lambda: on.sent(Market.SPOT) == [(SPOT_TOPIC, 5)])
        await until(lambda: market_status(on[Market.SPOT].settings).state is MarketState.STREAMING)


async def test_stop_does_not_wait_for_an_unreachable_exchange() -> None:
    options = replace(OPTIONS, market_wait_s=0.1)
    async with stage(*BOTH, prepare=spot_is_unreachable, options=options) as on:
        await on[Market.USD_M].exchange.send(trade(1, NOON_MS + 10))
        await until(lambda: on.sent(Market.USD_M))


def is_covered_to(on: Stage, end_ms: int) -> bool:
    return on.covered(Market.USD_M) == [(NOON_MS, end_ms, Evidence.BARRIER)]


async def test_unreachable_clock_of_one_market_does_not_delay_the_coverage_of_another() -> None:
    class StalledClock(FakeClock):
        async def time_ms(self) -> int:
            self.requests += 1
            if self.requests > 2:
                await asyncio.Event().wait()
            return NOON_MS

    def stall(on: Stage) -> None:
        on[Market.SPOT].clock = StalledClock()

    async with stage(*BOTH, prepare=stall, options=replace(OPTIONS, claim_wait_s=0.1)) as on:
        for market in BOTH:
            await on[market].opened()
        await until(lambda: on[Market.SPOT].clock.requests > 2)
        for number in range(1, 4):
            on[Market.USD_M].clock.now_ms = NOON_MS + number
            await until(partial(is_covered_to, on, NOON_MS + number), timeout_s=2)


async def test_unknown_symbol_of_one_market_at_the_start_ends_the_producer() -> None:
    places = {market: Place(market) for market in BOTH}
    places[Market.SPOT].rejects = UnknownSymbolError("symbols: unknown symbol NOPE")
    settings = load_settings(markets=BOTH)
    sources = [place.source(settings) for place in places.values()]
    producer = Producer(settings, sources, publisher=FakePublisher(), sink=MemorySink(), options=OPTIONS)
    with pytest.raises(UnknownSymbolError, match="NOPE"):
        await asyncio.wait_for(producer.run(asyncio.Event()), 10)


async def test_unknown_symbol_of_a_late_market_does_not_end_the_others() -> None:
    options = replace(OPTIONS, market_wait_s=0.1, market_retry_s=0.1)
    with capture_logs() as logs:
        async with stage(*BOTH, prepare=spot_is_unreachable, options=options) as on:
            await on[Market.USD_M].opened()
            spot = on[Market.SPOT]
            spot.rejects = UnknownSymbolError("symbols: unknown symbol NOPE")
            spot.responds.set()
            await until(lambda: market_status(spot.settings).state is MarketState.REJECTED)
            await on[Market.USD_M].exchange.send(trade(1, NOON_MS + 10))
            await until(lambda: on.sent(Market.USD_M))
            spot.rejects = None
            await spot.exchange.send(trade(5, NOON_MS + 20))
            await until(lambda: on.sent(Market.SPOT))
    assert "unknown symbol NOPE" in next(line["error"] for line in logs if line["event"] == "market_rejected")


async def test_gap_ledger_failure_of_one_market_holds_back_only_its_own_coverage() -> None:
    async with stage(*BOTH) as on:
        for market in BOTH:
            await on[market].opened()
        on[Market.SPOT].gaps.failures_left = 1_000
        await on[Market.SPOT].exchange.send(trade(1, NOON_MS + 10), trade(3, NOON_MS + 20))
        await until(lambda: len(on.sent(Market.SPOT)) == 2)
        before = len(on.covered(Market.SPOT)) and max(row[1] for row in on.covered(Market.SPOT))
        for place in on.places.values():
            place.clock.now_ms = NOON_MS + 5_000
        await until(lambda: (NOON_MS, NOON_MS + 5_000, Evidence.BARRIER) in on.covered(Market.USD_M))
        assert max((row[1] for row in on.covered(Market.SPOT)), default=0) <= max(before, NOON_MS + 10)
        on[Market.SPOT].gaps.failures_left = 0
        await until(lambda: (NOON_MS, NOON_MS + 5_000, Evidence.BARRIER) in on.covered(Market.SPOT))


async def test_delisted_symbol_of_one_market_does_not_end_the_producer() -> None:
    """A COIN-M quarterly expires with an open gap: the exchange no longer knows its symbol."""

    class Delisted(MemoryHistory):
        async def historical_trades_from(self, symbol: str, first_id: int) -> Sequence[HistoricalTrade]:
            self.requested_ids.append(first_id)
            raise UnknownSymbolError(f"exchange: {symbol} is not listed")

    def delist(on: Stage) -> None:
        on[Market.COIN_M].history = Delisted(has_key=True)

    options = replace(OPTIONS, catch_up=CatchUpOptions(poll_s=0.02, after_opening_s=0.05, settle_s=0.02))
    async with stage(Market.USD_M, Market.COIN_M, prepare=delist, options=options) as on:
        coin = on[Market.COIN_M]
        await coin.exchange.send(trade(1, NOON_MS, "BTCUSD_PERP"), trade(4, NOON_MS + 9, "BTCUSD_PERP"))
        await until(lambda: {0, 5} <= set(coin.history.requested_ids))  # gap repair and catch-up
        await on[Market.USD_M].exchange.send(trade(1, NOON_MS + 10))
        await until(lambda: on.sent(Market.USD_M))


async def test_symbols_file_changes_each_market_by_its_own_items(tmp_path: Path) -> None:
    path = tmp_path / "symbols.txt"
    path.write_text("usdm:BTCUSDT\nspot:BTCUSDT\n")
    async with AsyncExchangeRest("http://127.0.0.1:1") as rest:

        def refresh(on: Stage) -> None:
            for place in on.places.values():
                place.rest = rest

        async with stage(*BOTH, prepare=refresh, symbols_file=path) as on:
            for market in BOTH:
                await on[market].opened()
            path.write_text("usdm:BTCUSDT,ETHUSDT\nspot:BTCUSDT\n")
            both = "/usdm/market/stream?streams=btcusdt@trade/ethusdt@trade"
            await until(lambda: on[Market.USD_M].exchange.paths[-1] == both)
            assert on[Market.SPOT].exchange.paths == ["/spot/stream?streams=btcusdt@trade"]
