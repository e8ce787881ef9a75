"""The producer and the real broker: every received frame is in Kafka, even if processes are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.coverage import IcebergCoverageSink, read_coverage
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, IcebergGapSink, read_gaps
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.platform.parts import KAFKA
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.producer.client_libraries import make_publisher
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.coverage_statements import CoverageSink
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.gap_writer import GapSink
from cryptolake_assets.producer.process import Producer, ProducerOptions
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.status_file import ProducerStatus, read_status
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, TradeStream
from cryptolake_assets.settings.producer import ProducerIo
from cryptolake_tests.support.captures import agg_trade_frame, write_capture
from cryptolake_tests.support.fakes import FakeExchange, MemorySink, trade, until
from cryptolake_tests.support.producing import market_source, market_status
from cryptolake_tests.support.sockets import NOON_MS

BOTH = pytest.mark.parametrize("io", [ProducerIo.DEFAULT, ProducerIo.FAST])
"""Run the test with both sets of client libraries."""
DEMO_TRADES = {"BTCUSDT": 10_701, "ETHUSDT": 13_655}


@pytest.fixture
def own(platform: Settings, tmp_path: Path) -> Settings:
    """The platform's broker, with a separate topic and home per test."""
    return platform.model_copy(
        update={
            "home": tmp_path,
            "kafka_bootstrap_servers": platform.bootstrap_servers,
            "kafka_topic_futures": f"trades-{uuid.uuid4().hex[:8]}",
        }
    )


@asynccontextmanager
async def producing(
    settings: Settings, sink: CoverageSink, gaps: GapSink | None = None, io: ProducerIo = ProducerIo.DEFAULT
) -> AsyncIterator[asyncio.Event]:
    """Run a producer with the settings' subscriptions; set the event to end it, else it ends with the block."""
    stop = asyncio.Event()
    async with AsyncExchangeRest(settings.rest_url) as rest:
        market = market_source(settings, resolve_subscriptions(settings), clock=rest, history=rest, gaps=gaps)
        options = ProducerOptions(ConnectionOptions(io=io))
        producer = Producer(settings, [market], publisher=make_publisher(settings, io), sink=sink, options=options)
        run = asyncio.create_task(producer.run(stop))
        try:
            yield stop
            stop.set()
            assert await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


def at(exchange: ReplayExchange, settings: Settings) -> Settings:
    """Return the settings with the replay exchange's addresses."""
    return settings.model_copy(
        update={
            "exchange_ws_url": exchange.url.replace("http", "ws"),
            "exchange_rest_url": exchange.url,
            "coverage_interval_s": 0.5,
        }
    )


def acknowledged(settings: Settings) -> Callable[[], int]:
    def count() -> int:
        status = read_status(settings)
        return status.events_acked if status else 0

    return count


def covered_to_ms(settings: Settings) -> int:
    """Return the end of the coverage of all symbols, in ms of exchange time."""
    return min(market_status(settings).coverage_to_ms.values(), default=0)


async def trades(settings: Settings) -> Counter[tuple[str, int]]:
    """Count each (symbol, trade id) on the trade topic."""
    records = await kafka.peek_async(settings, settings.kafka_topic_futures, 10**9, from_end=False)
    events = [json.loads(record.value or b"") for record in records]
    return Counter((event["symbol"], event["trade_id"]) for event in events)


def distinct_per_symbol(found: Counter[tuple[str, int]]) -> dict[str, int]:
    return dict(Counter(symbol for symbol, _ in found))


def test_topics_are_created_once(own: Settings) -> None:
    names = {own.kafka_topic_futures, own.topic_rejected}
    assert kafka.ensure_topics(own) == dict.fromkeys(names, True)
    assert kafka.ensure_topics(own) == dict.fromkeys(names, False)
    for topic in names:
        nothing = dict.fromkeys(range(own.kafka_partitions), 0)
        assert kafka.end_offsets(own, topic) == nothing
        assert kafka.peek(own, topic, 1) == []


def test_topic_creation_failure_names_the_setting(own: Settings) -> None:
    with pytest.raises(BrokerAccessError, match=r"InvalidReplicationFactor.*CRYPTOLAKE_KAFKA_REPLICATION \(3\)"):
        kafka.ensure_topics(own.model_copy(update={"kafka_replication": 3}))


def test_missing_topic_is_reported_and_not_created_by_a_read(own: Settings) -> None:
    for _ in range(2):
        with pytest.raises(BrokerError, match=f"topic {own.kafka_topic_futures} does not exist"):
            kafka.end_offsets(own, own.kafka_topic_futures)


@BOTH
async def test_every_frame_is_published_once_below_the_covered_offset(own: Settings, io: ProducerIo) -> None:
    sink = MemorySink()
    async with ReplayExchange(own.replay_dir, speed=0).running() as exchange:
        settings = at(exchange, own)
        async with producing(settings, sink, io=io):
            await until(lambda: acknowledged(settings)() == sum(DEMO_TRADES.values()), timeout_s=60)
            clock_ms = exchange.clock.now_ms()
            # A stop before the next coverage write would end the rows at the last frame, just before the clock.
            await until(lambda: covered_to_ms(settings) == clock_ms, timeout_s=30)
    found = await trades(settings)
    assert distinct_per_symbol(found) == DEMO_TRADES
    assert max(found.values()) == 1
    ends = await kafka.end_offsets_async(settings, settings.kafka_topic_futures)
    rows = {row.symbol: row for row in sink.rows}
    assert rows.keys() == DEMO_TRADES.keys()
    for symbol, row in rows.items():
        assert row.kafka_partition is not None
        assert row.kafka_offset == ends[row.kafka_partition]
        assert row.connected_to_ms == clock_ms
        records = await kafka.peek_async(settings, settings.kafka_topic_futures, 10**9, from_end=False)
        assert {record.partition for record in records if record.key == symbol.encode()} == {row.kafka_partition}
        first_ms = min(
            json.loads(record.value or b"")["event_time"] // 1000 for record in records if record.key == symbol.encode()
        )
        # Only the very first frame may be earlier: it marks the start of the connection.
        assert row.connected_from_ms <= first_ms + 5


def random_ranges(seed: int, number: int) -> dict[str, list[tuple[int, int]]]:
    """Return ranges of ids per symbol of the shipped capture, apart from each other and from its ends."""
    chance = Random(seed)  # noqa: S311
    ids: dict[str, list[int]] = {}
    for frame in read_frames(DEMO_CAPTURE_DIR):
        data = json.loads(frame.raw)["data"]
        ids.setdefault(data["s"], []).append(data["t"])
    ranges: dict[str, list[tuple[int, int]]] = {}
    for symbol, known in ids.items():
        starts = sorted(chance.sample(range(min(known) + 100, max(known) - 100, 60), number))
        ranges[symbol] = [(start, start + chance.randrange(50)) for start in starts]
    return ranges


async def test_every_missing_range_is_recorded_and_closed_when_its_trades_arrive(own: Settings, tmp_path: Path) -> None:
    """Replay a capture with missing ranges; then replay the complete one."""
    ranges = random_ranges(seed=7, number=12)
    dropped = {
        (symbol, it) for symbol, spans in ranges.items() for first, last in spans for it in range(first, last + 1)
    }
    remaining, missing_ms = [], set()
    for frame in read_frames(DEMO_CAPTURE_DIR):
        data = json.loads(frame.raw)["data"]
        if (data["s"], data["t"]) in dropped:
            missing_ms.add((data["s"], data["T"] // MINUTE_MS * MINUTE_MS))
        else:
            remaining.append((frame.receive_time_ns, frame.raw))
    capture = write_capture(tmp_path / "capture" / "capture.ndjson.gz", remaining)
    bootstrap(own)
    coverage, gaps = IcebergCoverageSink(own), IcebergGapSink(own)

    async def replayed(directory: Path, done: Callable[[Settings], bool]) -> Settings:
        async with ReplayExchange(directory, speed=0).running() as exchange:
            settings = at(exchange, own)
            async with producing(settings, coverage, gaps):
                await until(lambda: done(settings) and covered_to_ms(settings) == exchange.clock.now_ms(), timeout_s=90)
        return settings

    settings = await replayed(capture, lambda settings: acknowledged(settings)() == len(remaining))
    found = {
        symbol: sorted((gap.first_missing_id, gap.last_missing_id) for gap in read_gaps(own) if gap.symbol == symbol)
        for symbol in ranges
    }
    assert found == ranges
    assert all(gap.closed_at is None for gap in read_gaps(own))
    ends = await kafka.end_offsets_async(settings, settings.kafka_topic_futures)
    complete = CompletenessIndex(read_coverage(own), ends, 0, read_gaps(own))
    for symbol, start_ms in missing_ms:
        assert not complete.is_complete("binance_futures", symbol, "trade", start_ms, start_ms + MINUTE_MS)

    await replayed(DEMO_CAPTURE_DIR, lambda settings: acknowledged(settings)() == sum(DEMO_TRADES.values()))
    assert {gap.outcome for gap in read_gaps(own)} == {GapOutcome.ARRIVED}
    assert gaps.open_gaps() == []
    index = CompletenessIndex(read_coverage(own), ends, 0, read_gaps(own))
    assert not any(
        index.is_complete("binance_futures", symbol, "trade", at_ms, at_ms + MINUTE_MS) for symbol, at_ms in missing_ms
    ), "the late trades are in Kafka, but not below the offsets that Bronze holds"
    ends = await kafka.end_offsets_async(settings, settings.kafka_topic_futures)
    index = CompletenessIndex(read_coverage(own), ends, 0, read_gaps(own))
    inner = sorted({at_ms for _, at_ms in missing_ms})[1:-1]
    assert inner
    for symbol in ranges:
        assert all(index.is_complete("binance_futures", symbol, "trade", at_ms, at_ms + MINUTE_MS) for at_ms in inner)
    assert distinct_per_symbol(await trades(settings)) == DEMO_TRADES


async def test_gaps_of_aggregates_are_fetched_from_the_exchange_and_published(own: Settings, tmp_path: Path) -> None:
    """The stream lacks ranges that REST has; in the end Kafka holds every trade."""
    number, start_ms = 3_000, 1_700_000_040_000
    chance = Random(11)  # noqa: S311
    starts = sorted(chance.sample(range(50, number - 100, 60), 15))
    ranges = [(first, first + chance.randrange(40)) for first in starts]
    dropped = {agg_id for first, last in ranges for agg_id in range(first, last + 1)}
    times_ms = [start_ms + 40 * agg_id for agg_id in range(number)]
    frames = [
        (times_ms[agg_id] * 10**6, agg_trade_frame("BTCUSDT", agg_id, times_ms[agg_id]))
        for agg_id in range(number)
        if agg_id not in dropped
    ]
    capture = write_capture(tmp_path / "capture" / "capture.ndjson.gz", frames)
    lines = [f"{agg_id},100.0,1,{2 * agg_id},{2 * agg_id + 1},{times_ms[agg_id]},false" for agg_id in range(number)]
    (capture / "BTCUSDT-aggTrades-2023-11-14.csv").write_text("\n".join(lines) + "\n")
    own = own.model_copy(update={"trade_stream": TradeStream.AGG_TRADE, "replay_dir": capture, "symbols": ("BTCUSDT",)})
    bootstrap(own)
    gaps = IcebergGapSink(own)
    async with ReplayExchange(capture, speed=0).running() as exchange:
        settings = at(exchange, own)
        async with producing(settings, IcebergCoverageSink(own), gaps):
            await until(lambda: acknowledged(settings)() >= number, timeout_s=90)
            await until(lambda: bool(read_gaps(own)) and not gaps.open_gaps(), timeout_s=30)
    ledger = sorted(read_gaps(own), key=lambda gap: gap.first_missing_id)
    assert [(gap.first_missing_id, gap.last_missing_id) for gap in ledger] == ranges
    assert {(gap.closed_by, gap.outcome, gap.ids_missing) for gap in ledger} == {
        (ClosedBy.REST, GapOutcome.REPAIRED, 0)
    }
    assert set(await trades(settings)) == {("BTCUSDT", agg_id) for agg_id in range(number)}


async def test_peek_returns_the_newest_or_the_oldest_records(own: Settings) -> None:
    async with ReplayExchange(own.replay_dir, speed=0).running() as exchange:
        settings = at(exchange, own)
        async with producing(settings, MemorySink()):
            await until(lambda: acknowledged(settings)() == sum(DEMO_TRADES.values()), timeout_s=60)
    everything = await kafka.peek_async(settings, settings.kafka_topic_futures, 10**9)
    assert len(everything) == sum(DEMO_TRADES.values())
    newest = kafka.peek(settings, settings.kafka_topic_futures, 10)
    assert newest == everything[-10:]
    assert kafka.peek(settings, settings.kafka_topic_futures, 10, from_end=False) == everything[:10]


@BOTH
async def test_killed_broker_loses_no_trade(own: Settings, platform: Settings, io: ProducerIo) -> None:
    sink = MemorySink()
    async with ReplayExchange(own.replay_dir, speed=60).running() as exchange:
        settings = at(exchange, own)
        async with producing(settings, sink, io=io):
            await until(lambda: acknowledged(settings)() > 3_000, timeout_s=60)
            pid = Supervisor(platform).processes()[KAFKA].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: acknowledged(settings)() == sum(DEMO_TRADES.values()), timeout_s=120)
            clock_ms = exchange.clock.now_ms()
            await until(lambda: covered_to_ms(settings) == clock_ms, timeout_s=30)
    found = await trades(settings)
    assert distinct_per_symbol(found) == DEMO_TRADES
    assert {row.connected_to_ms for row in sink.rows} == {clock_ms}


@BOTH
async def test_restarted_session_loses_no_message(own: Settings, io: ProducerIo) -> None:
    publisher = make_publisher(own, io)
    delivery = ReliableDelivery(publisher)
    await delivery.start()
    resend = asyncio.create_task(delivery.run())
    count = 5_000
    try:
        for number in range(count):
            await delivery.put(Message(own.kafka_topic_futures, b"%d" % number, b"key", 0))
            if number in (1_000, 3_000):
                await publisher.restart()
        async with asyncio.timeout(60):
            await delivery.drained()
    finally:
        resend.cancel()
        await asyncio.gather(resend, return_exceptions=True)
        await publisher.stop()
    records = await kafka.peek_async(own, own.kafka_topic_futures, 10**9, from_end=False)
    assert {int(record.value or b"") for record in records} == set(range(count))
    assert delivery.next_offsets[own.topic_trades][0] == len(records) == count + delivery.messages_resent


@BOTH
async def test_rejected_frames_are_published_to_the_dead_letter_topic(own: Settings, io: ProducerIo) -> None:
    exchange = FakeExchange()
    async with exchange.running():
        settings = own.model_copy(update={"exchange_ws_url": exchange.url})
        stop = asyncio.Event()
        market = market_source(settings, resolve_subscriptions(settings))
        options = ProducerOptions(ConnectionOptions(io=io))
        publisher = make_publisher(settings, io)
        producer = Producer(settings, [market], publisher=publisher, sink=MemorySink(), options=options)
        run = asyncio.create_task(producer.run(stop))
        huge = b"\xff" * (1 << 20)
        await exchange.send(trade(1, NOON_MS), b'{"data":{"e":"trade"', huge, trade(2, NOON_MS))
        await until(lambda: (status := read_status(settings)) is not None and status.rejected == 2, timeout_s=30)
        stop.set()
        assert await run
    letters = await kafka.peek_async(settings, settings.topic_rejected, 10, from_end=False)
    by_size = sorted(letters, key=lambda letter: len(letter.value or b""))
    assert by_size[0].value == b'{"data":{"e":"trade"'
    assert dict(by_size[0].headers)["reason"].startswith(b"not_json: ")
    assert by_size[1].value == huge[: kafka.MAX_REJECTED_BYTES]
    assert dict(by_size[1].headers)["truncated_from_bytes"] == str(1 << 20).encode()
    assert sorted(trade_id for _, trade_id in await trades(settings)) == [1, 2]


def run_producer(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cryptolake_assets.producer.process"], env=os.environ | settings.environment()
    )


@BOTH
async def test_killed_producer_leaves_a_gap_in_coverage_only(own: Settings, io: ProducerIo) -> None:
    """Kill the producer and start another: trades sent meanwhile are missing, and coverage excludes them."""
    own = own.model_copy(update={"producer_io": io})
    async with ReplayExchange(own.replay_dir, speed=30).running() as exchange:
        settings = at(exchange, own)
        bootstrap(settings)
        first = run_producer(settings)
        await until(lambda: acknowledged(settings)() > 3_000, timeout_s=60)
        await until(
            lambda: (s := read_status(settings)) and s.pid == first.pid and market_status(settings).coverage_to_ms,
            timeout_s=60,
        )
        first.kill()
        await asyncio.to_thread(first.wait)
        await asyncio.sleep(1)  # half a minute of the exchange's time
        second = run_producer(settings)

        def finished() -> bool:
            status: ProducerStatus | None = read_status(settings)
            if status is None or status.pid != second.pid:
                return False
            return covered_to_ms(settings) >= exchange.clock.last_ns // 10**6

        await until(finished, timeout_s=90)
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 60) == 0
    emitted = await trades(settings)
    sent_ms = {
        (json.loads(raw)["data"]["s"], json.loads(raw)["data"]["t"]): json.loads(raw)["data"]["E"]
        for raw in demo_frames(own)
    }
    rows = read_coverage(settings)
    spans = sorted({(row.connected_from_ms, row.connected_to_ms) for row in rows})
    assert len(spans) >= 2
    missing = {key for key in sent_ms if key not in emitted}
    assert missing, "the kill came too late to lose trades"
    covered = {key for key, sent in sent_ms.items() if any(begin <= sent < end for begin, end in spans)}
    assert covered, "nothing is covered"
    assert covered - emitted.keys() == set(), "covered, but not in Kafka"


def demo_frames(settings: Settings) -> list[str]:
    from cryptolake_assets.captures.reader import read_frames

    return [frame.raw for frame in read_frames(settings.replay_dir)]
