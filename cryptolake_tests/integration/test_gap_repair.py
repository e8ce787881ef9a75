"""Ranges missing from the stream, also at its end and across a kill: all are detected, and repaired where possible.

The replay exchange drops the ranges and records the emitted trades; Kafka, the catalog and the producers are real.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from pydantic import SecretStr

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.coverage import IcebergCoverageSink, read_coverage
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, IcebergGapSink, OpenBecause, TradeGap, read_gaps
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.replay_faults import Drop, RestLimit
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.producer import resume_point
from cryptolake_assets.producer.catch_up import CatchUpOptions
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.gap_tracker import GapTracker, LastTrade
from cryptolake_assets.producer.process import Producer, ProducerOptions
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.publisher_aiokafka import AiokafkaPublisher
from cryptolake_assets.producer.resume_point import StoredResumePoints
from cryptolake_assets.producer.status_file import read_status
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.replay.emitted_ledger import emitted_trades
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import Settings, TradeStream
from cryptolake_tests.support.bronze import append
from cryptolake_tests.support.bronze import trade as bronze_trade
from cryptolake_tests.support.captures import agg_trade_frame, trade_frame, write_capture
from cryptolake_tests.support.fakes import until
from cryptolake_tests.support.producing import market_source
from cryptolake_tests.support.sockets import NOON_MS

SYMBOLS = ("BTCUSDT", "ETHUSDT")
TRADES, STEP_MS = 4_500, 40
"""Per symbol: three minutes, replayed in 18 s."""
KILLED_AFTER = 3_600
"""Records on the topic at the kill, in the second minute."""
SPEED = 10.0
RANGES = 8
"""Random ranges per symbol, and its newest trades."""
QUICK = ProducerOptions(catch_up=CatchUpOptions(poll_s=0.2, after_opening_s=0.5, stale_s=1.0, settle_s=0.2))


@dataclass
class Scene:
    """A capture, and the ranges dropped from its stream."""

    settings: Settings
    stream: str
    ranges: dict[str, list[tuple[int, int]]]
    not_order_book: set[tuple[str, int]] = field(default_factory=set)

    @property
    def drops(self) -> list[Drop]:
        return [
            Drop(ids=tuple(ranges), streams=(f"{symbol.lower()}@{self.stream}",))
            for symbol, ranges in self.ranges.items()
        ]

    @property
    def dropped(self) -> set[tuple[str, int]]:
        return {
            (symbol, number)
            for symbol, ranges in self.ranges.items()
            for first, last in ranges
            for number in range(first, last + 1)
        }

    def ledger(self) -> list[TradeGap]:
        return sorted(read_gaps(self.settings), key=lambda gap: (gap.symbol, gap.first_missing_id))

    def recorded(self) -> set[tuple[str, int]]:
        """Return the ids in the gap ledger."""
        return {
            (gap.symbol, number)
            for gap in self.ledger()
            for number in range(gap.first_missing_id, gap.last_missing_id + 1)
        }

    def emitted(self) -> set[tuple[str, int]]:
        return {(trade.symbol, trade.trade_id) for trade in emitted_trades(self.settings.replay_dir)}


def scene(platform: Settings, directory: Path, stream: str, seed: int, **changes: object) -> Scene:
    """Write a capture of both symbols; every 500th single trade is an insurance fund trade that the stream lacks."""
    chance = Random(seed)  # noqa: S311
    of_aggregates = stream == "aggTrade"
    fund = set() if of_aggregates else set(range(250, TRADES - 100, 500))
    frames = []
    for number in range(TRADES):
        for symbol in SYMBOLS:
            time_ms = NOON_MS + number * STEP_MS
            raw = (agg_trade_frame if of_aggregates else trade_frame)(symbol, number, time_ms)
            raw = raw.replace('"MARKET"', '"INSURANCE_FUND"') if number in fund else raw
            frames.append((time_ms * 10**6, raw))
    capture = write_capture(directory / "capture" / "capture.ndjson.gz", frames)
    ranges = {}
    for symbol in SYMBOLS:
        starts = chance.sample(range(100, TRADES - 200, 60), RANGES)
        found = [(start, start + chance.randrange(50)) for start in starts]
        found += [(number, number) for number in fund] + [(TRADES - 30, TRADES - 1)]
        ranges[symbol] = sorted(found)
    settings = platform.model_copy(
        update={
            "home": directory,
            "kafka_bootstrap_servers": platform.bootstrap_servers,
            "kafka_topic_futures": f"trades-{uuid.uuid4().hex[:8]}",
            "trade_stream": TradeStream(stream),
            "replay_dir": capture,
            "symbols": SYMBOLS,
            "coverage_interval_s": 0.5,
            **changes,
        }
    )
    bootstrap(settings)
    return Scene(settings, stream, ranges, {(symbol, number) for symbol in SYMBOLS for number in fund})


def at(exchange: ReplayExchange, on: Scene) -> None:
    """Point the scene's settings at the exchange."""
    addresses = {"exchange_ws_url": exchange.url.replace("http", "ws"), "exchange_rest_url": exchange.url}
    on.settings = on.settings.model_copy(update=addresses)


@asynccontextmanager
async def producing(on: Scene) -> AsyncIterator[None]:
    """Run a producer like its process does, with a shorter limit for stale symbols."""
    settings, stop = on.settings, asyncio.Event()
    key = settings.binance_api_key.get_secret_value()
    async with (
        AsyncExchangeRest(settings.rest_url) as rest,
        AsyncExchangeRest(settings.rest_url, api_key=key) as history,
    ):
        market = market_source(
            settings,
            resolve_subscriptions(settings),
            clock=rest,
            history=history,
            gaps=IcebergGapSink(settings),
            resume_points=StoredResumePoints(settings),
        )
        publisher, sink = AiokafkaPublisher(settings), IcebergCoverageSink(settings)
        producer = Producer(settings, [market], publisher=publisher, sink=sink, options=QUICK)
        run = asyncio.create_task(producer.run(stop))
        try:
            yield
            stop.set()
            assert await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def on_topic(settings: Settings) -> Counter[tuple[str, int]]:
    """Count each trade on the topic."""
    records = await kafka.peek_async(settings, settings.kafka_topic_futures, 10**9, from_end=False)
    events = [json.loads(record.value or b"") for record in records]
    return Counter((event["symbol"], event["trade_id"]) for event in events)


def run_producer(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cryptolake_assets.producer.process"], env=os.environ | settings.environment()
    )


async def run_and_kill_producer(exchange: ReplayExchange, on: Scene) -> None:
    """Run a producer process into the second minute and kill it; then wait 10 s of exchange time."""
    first = run_producer(on.settings)
    try:
        await until(lambda: (s := read_status(on.settings)) is not None and s.events_acked > KILLED_AFTER, timeout_s=60)
    finally:
        first.kill()
        await asyncio.to_thread(first.wait)
    cut_ms = exchange.clock.now_ms()
    await until(lambda: exchange.clock.now_ms() > cut_ms + 10_000)


def complete_minutes(on: Scene) -> set[tuple[str, int]]:
    """Return the minutes that are complete once Bronze has ingested all of Kafka."""
    everything = dict.fromkeys(range(on.settings.kafka_partitions), 10**9)
    index = CompletenessIndex(read_coverage(on.settings), everything, 0, read_gaps(on.settings))
    minutes = range(NOON_MS, NOON_MS + TRADES * STEP_MS, MINUTE_MS)
    return {
        (symbol, start_ms)
        for symbol in SYMBOLS
        for start_ms in minutes
        if index.is_complete("binance_futures", symbol, on.stream, start_ms, start_ms + MINUTE_MS)
    }


@pytest.mark.parametrize("stream", ["aggTrade", "trade"])
async def test_every_gap_is_detected_and_repaired(platform: Settings, tmp_path: Path, stream: str) -> None:
    on = scene(platform, tmp_path, stream, seed=5, binance_api_key=SecretStr("of the test"))
    limit = RestLimit(retry_after_s=1, times=2, paths=("/fapi/v1/aggTrades", "/fapi/v1/historicalTrades"))
    async with ReplayExchange(on.settings.replay_dir, SPEED, faults=[*on.drops, limit]).running() as exchange:
        at(exchange, on)
        await run_and_kill_producer(exchange, on)
        async with producing(on):
            await until(lambda: exchange.status()["state"] == "finished", timeout_s=60)
            lost = on.dropped
            await until(lambda: on.recorded() >= lost and not IcebergGapSink(on.settings).open_gaps(), timeout_s=60)
            # The gap across the kill is repaired. The last minute does not end in this capture.
            complete = {(symbol, NOON_MS + number * MINUTE_MS) for symbol in SYMBOLS for number in (0, 1)}
            await until(lambda: complete_minutes(on) == complete, timeout_s=20)
    ledger = on.ledger()
    found = [
        (symbol, span)
        for symbol, ranges in on.ranges.items()
        for span in ranges
        if any(g.symbol == symbol and g.first_missing_id <= span[0] and span[1] <= g.last_missing_id for g in ledger)
    ]
    assert len(found) == sum(map(len, on.ranges.values())), "every range is in the ledger"
    assert {gap.closed_by for gap in ledger} == {ClosedBy.REST}
    assert all(gap.open_because is None and gap.ids_missing == 0 for gap in ledger)
    across_the_kill = max(ledger, key=lambda gap: gap.before_us - gap.after_us)
    assert across_the_kill.before_us - across_the_kill.after_us > 10_000_000
    emitted = on.emitted()
    assert len(emitted) == TRADES * len(SYMBOLS)
    assert set(await on_topic(on.settings)) == emitted - (on.not_order_book if stream == "trade" else set())
    of_fund = [gap for gap in ledger if gap.outcome is GapOutcome.NOT_ORDER_BOOK]
    others = sum(gap.ids_not_order_book for gap in ledger)
    assert others == len(on.not_order_book)
    assert bool(of_fund) == (stream == "trade")
    assert {gap.outcome for gap in ledger} - {GapOutcome.NOT_ORDER_BOOK} == {GapOutcome.REPAIRED}


async def test_gaps_of_single_trades_stay_open_without_an_api_key(platform: Settings, tmp_path: Path) -> None:
    on = scene(platform, tmp_path, "trade", seed=6)
    async with ReplayExchange(on.settings.replay_dir, SPEED, faults=on.drops).running() as exchange:
        at(exchange, on)
        await run_and_kill_producer(exchange, on)
        async with producing(on):
            await until(lambda: exchange.status()["state"] == "finished", timeout_s=60)
            # No later trade reveals the last range, and REST requires a key.
            detectable = {(symbol, number) for symbol, number in on.dropped if number < TRADES - 30}
            await until(
                lambda: (
                    on.recorded() >= detectable and {gap.open_because for gap in on.ledger()} == {OpenBecause.NEEDS_KEY}
                ),
                timeout_s=60,
            )
    emitted, recorded = on.emitted(), on.recorded()
    received = set(await on_topic(on.settings))
    at_the_end = {(symbol, number) for symbol in SYMBOLS for number in range(TRADES - 30, TRADES)}
    assert emitted - received == recorded | at_the_end
    assert all(gap.closed_at is None for gap in on.ledger())
    assert complete_minutes(on) == set()


async def publish(settings: Settings, frames: Iterable[str]) -> None:
    """Publish the frames as events on the topic."""
    publisher = AiokafkaPublisher(settings)
    delivery = ReliableDelivery(publisher)
    await delivery.start()
    for frame in frames:
        parsed = parse_frame(frame, ingest_time_us=0, exchange="binance_futures")
        assert isinstance(parsed, AcceptedFrame)
        key = parsed.event.symbol.encode()
        partition = publisher.partition_for(settings.kafka_topic_futures, key)
        await delivery.put(Message(settings.kafka_topic_futures, parsed.event.encode(), key, partition))
    await delivery.drained()
    await publisher.stop()


async def test_producer_resumes_from_the_later_of_topic_and_bronze(
    platform: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = scene(platform, tmp_path, "trade", seed=1)
    settings = on.settings
    nothing = await StoredResumePoints(settings).find(SYMBOLS, "trade", {0: 0, 1: 0})
    assert (nothing.on_topic, nothing.in_bronze) == ([], {})
    old = [trade_frame("ETHUSDT", number, NOON_MS + number) for number in range(5)]
    await publish(settings, [*old, *(trade_frame("BTCUSDT", number, NOON_MS) for number in range(60) if number != 55)])
    ends = await kafka.end_offsets_async(settings, settings.kafka_topic_futures)
    await publish(settings, [trade_frame("BTCUSDT", 99, NOON_MS)])

    async def found(*symbols: str) -> GapTracker:
        newest = await StoredResumePoints(settings).find(symbols, "trade", ends)
        tracker = GapTracker("binance_futures", "trade")
        tracker.resume_from(newest.on_topic, newest.in_bronze)
        return tracker

    tracker = await found(*SYMBOLS, "SOLUSDT")
    assert tracker.last("BTCUSDT") == LastTrade(59, NOON_MS * 1000), "not trades after the offsets"
    assert tracker.last("ETHUSDT") == LastTrade(4, (NOON_MS + 4) * 1000)
    assert tracker.last("SOLUSDT") is None
    assert [(gap.symbol, gap.first, gap.last) for gap in tracker.missing()] == [("BTCUSDT", 55, 55)]

    covered = [
        CoverageRow("binance_futures", symbol, "trade", NOON_MS + partition, NOON_MS + 9, partition, end, "test")
        for symbol in SYMBOLS[:1]
        for partition, end in ends.items()
    ]
    IcebergCoverageSink(settings).write(covered)
    monkeypatch.setattr(resume_point, "OVERLAP", 2)
    assert (await found("BTCUSDT")).missing() == [], "gaps older than the coverage were recorded then"
    assert (await found("BTCUSDT")).last("BTCUSDT") == LastTrade(59, NOON_MS * 1000)

    when = datetime.fromtimestamp(NOON_MS / 1000, UTC)
    append(settings, [bronze_trade(when, 3, symbol="ETHUSDT"), bronze_trade(when, 77), bronze_trade(when, 1)])
    tracker = await found(*SYMBOLS)
    assert tracker.last("BTCUSDT") == LastTrade(77, NOON_MS * 1000)
    assert tracker.last("ETHUSDT") == LastTrade(4, (NOON_MS + 4) * 1000)
