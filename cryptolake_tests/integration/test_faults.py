"""Fault drills: whatever the exchange does to a stream of trades, Bronze finally equals the emitted trades.

Each drill has its own symbol, replay exchange, producer and gap ledger. All run concurrently into one topic; then one
run of the Bronze stream ingests it, and each drill is checked in the tables.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.bronze.stream import run_available_now
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, IcebergGapSink, TradeGap, read_gaps
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.hostile_frames import HOSTILE_FRAMES
from cryptolake_assets.model.replay_faults import (
    Corrupt,
    Cut,
    Drop,
    Duplicate,
    HalfOpen,
    Hostile,
    Reorder,
    ReplayFault,
    RestHtml,
    RestLimit,
    RestReset,
    Rotation,
    Silent,
    Stall,
)
from cryptolake_assets.producer.catch_up import CatchUpOptions
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.connection_pool import ConnectionPoolOptions
from cryptolake_assets.producer.process import Producer, ProducerOptions
from cryptolake_assets.producer.publisher_aiokafka import AiokafkaPublisher
from cryptolake_assets.replay.emitted_ledger import emitted_trades
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import Settings, TradeStream
from cryptolake_tests.support.captures import agg_trade_frame, trade_frame, write_capture
from cryptolake_tests.support.fakes import MemorySink, until
from cryptolake_tests.support.producing import market_source

FIRST_MS = 1_709_200_800_000
"""2024-02-29T10:00:00Z, in a day that no other test writes to."""
OWN_DAY = "event_time >= '2024-02-29T00:00:00+00:00' AND event_time < '2024-03-01T00:00:00+00:00'"
AGGREGATES, STEP_MS, FIRST_ID = 600, 40, 5_000
SLOW = 4.0
"""Replay speed at which a capture takes 6 s."""
QUICK = ConnectionOptions(
    ping_interval_s=0.4, ping_timeout_s=0.8, close_timeout_s=0.2, backoff_first_s=0.05, backoff_cap_s=0.2
)
QUICK_CATCH_UP = CatchUpOptions(after_opening_s=1.0, stale_s=6.0)
REST = ("/fapi/v1/aggTrades",)

Trade = tuple[int, Decimal, Decimal, int]
"""Id, price, quantity, µs since 1970."""


# The others end the connection, or are stored as trades of the symbol at impossible times.
HOSTILE = tuple(name for name in HOSTILE_FRAMES if name not in ("too_large", "far_future", "far_past"))


def drop(*positions: tuple[int, int]) -> Drop:
    """Return the fault that drops the aggregates at these positions, both ends included."""
    return Drop(ids=tuple((FIRST_ID + first, FIRST_ID + last) for first, last in positions))


@dataclass(frozen=True)
class Drill:
    """The faults of one symbol's stream and its replay speed; 0: as fast as the client reads."""

    name: str
    faults: tuple[ReplayFault, ...]
    speed: float = 0.0
    step_ms: int = STEP_MS
    """Milliseconds between two aggregates."""
    connection_life_s: float = 82_800.0
    stream: TradeStream = TradeStream.AGG_TRADE

    @property
    def symbol(self) -> str:
        return f"{self.name.replace('_', '').upper()}USDT"


DRILLS = {
    drill.name: drill
    for drill in (
        Drill("cut", (Cut(every_frames=150, times=2),)),
        # No later trade reveals a gap at the end.
        Drill("cut_at_the_end", (Cut(every_frames=590, times=1),)),
        Drill("drop_at_the_end", (drop((590, 599)),)),
        Drill("stall", (Stall(every_frames=200, for_s=30.0, times=1),), SLOW),
        Drill("half_open", (HalfOpen(every_frames=200, times=1),), SLOW),
        Drill("silent", (Silent(after_frames=200, for_s=4.0, times=1),), SLOW),
        Drill("duplicate", (Duplicate(share=0.3),)),
        Drill("reorder", (Reorder(share=0.05),)),
        Drill("drop", (drop((40, 40), (100, 120), (300, 301)),)),
        Drill("single_trades", (drop((100, 109), (590, 599)),), stream=TradeStream.TRADE),
        Drill("corrupt", (Corrupt(share=0.02, times=4),)),
        # A stream is stale after one minute of exchange time; at this speed that is long before the replay's end.
        Drill("watched", (Silent(after_frames=150, times=1),), 12.0, step_ms=10 * STEP_MS),
        Drill("rotation", (Rotation(connection_life_s=1.5, times=2),), SLOW),
        Drill("replaced", (Rotation(connection_life_s=4.0),), SLOW, connection_life_s=1.0),
        Drill("limited", (drop((100, 109)), RestLimit(times=3, paths=REST))),
        Drill("html", (drop((100, 109)), RestHtml(times=1, paths=REST), RestReset(times=2, paths=REST))),
        Drill("hostile_frames", (Hostile(share=0.2, frames=HOSTILE),)),
        Drill("too_large", (Hostile(share=0.02, times=3, frames=("too_large",)),), SLOW),
        Drill("banned", (drop((100, 109)), RestLimit(status=418, retry_after_s=2, times=1, paths=REST))),
    )
}


@dataclass
class Outcome:
    """The result of a drill."""

    emitted: set[Trade]
    sent_to_kafka: Counter[int]
    gaps: list[TradeGap]
    fault_counts: Counter[str]
    reconnects: int
    replacements: int
    bronze: set[Trade] = field(default_factory=set)
    bronze_rows: int = 0
    rejected: list[bytes] = field(default_factory=list)

    @property
    def missing(self) -> list[int]:
        """Return the positions in the capture of all ids in the ledger."""
        spans = [(gap.first_missing_id - FIRST_ID, gap.last_missing_id - FIRST_ID) for gap in self.gaps]
        return sorted(position for first, last in spans for position in range(first, last + 1))

    @property
    def closed(self) -> set[tuple[ClosedBy | None, GapOutcome | None]]:
        """Return the pairs of closer and outcome of all gaps."""
        return {(gap.closed_by, gap.outcome) for gap in self.gaps}


class TopicReader:
    """Counts the ids of each symbol on the trade topic as they arrive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.ids: dict[str, Counter[int]] = {drill.symbol: Counter() for drill in DRILLS.values()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TopicReader]:
        consumer = AIOKafkaConsumer(
            self._settings.kafka_topic_futures,
            bootstrap_servers=self._settings.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        async with consumer:
            reading = asyncio.create_task(self._read(consumer))
            try:
                yield self
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            counted = self.ids.get((record.key or b"").decode())
            if counted is not None:
                counted[msgspec.json.decode(record.value)["trade_id"]] += 1


def capture(directory: Path, drill: Drill) -> Path:
    """Write a capture of trades or aggregates with distinct prices and quantities."""
    frames, frame = [], agg_trade_frame if drill.stream is TradeStream.AGG_TRADE else trade_frame
    for position in range(AGGREGATES):
        at_ms = FIRST_MS + position * drill.step_ms
        price, qty = f"{100 + position // 100}.{position % 100:02}", f"0.{position + 1:08}"
        frames.append((at_ms * 10**6, frame(drill.symbol, FIRST_ID + position, at_ms, price, qty)))
    return write_capture(directory / "capture" / f"{drill.symbol}.ndjson", frames)


async def run_drill(drill: Drill, platform: Settings, home: Path, topic: TopicReader) -> Outcome:
    """Replay the drill's capture with its faults until every emitted trade is in Kafka and no gap is open."""
    directory = capture(home, drill)
    async with ReplayExchange(directory, drill.speed, faults=drill.faults).running() as exchange:
        settings = platform.model_copy(
            update={
                "home": home,
                "symbols": (drill.symbol,),
                "trade_stream": drill.stream,
                "replay_dir": directory,
                "kafka_bootstrap_servers": platform.bootstrap_servers,
                "exchange_ws_url": exchange.url.replace("http", "ws"),
                "exchange_rest_url": exchange.url,
                "coverage_interval_s": 0.5,
            }
        )
        await asyncio.to_thread(bootstrap, settings)
        gaps, stop = IcebergGapSink(settings), asyncio.Event()
        async with AsyncExchangeRest(settings.rest_url, api_key="any") as rest:
            market = market_source(settings, resolve_subscriptions(settings), clock=rest, history=rest, gaps=gaps)
            producer = Producer(
                settings,
                [market],
                publisher=AiokafkaPublisher(settings),
                sink=MemorySink(),
                options=ProducerOptions(
                    QUICK, ConnectionPoolOptions(drill.connection_life_s, connect_apart_s=0.05), QUICK_CATCH_UP
                ),
            )
            run = asyncio.create_task(producer.run(stop))
            try:
                in_kafka = topic.ids[drill.symbol]
                await until(lambda: run.done() or len(in_kafka) == AGGREGATES, timeout_s=60)
                feed = producer.feeds[settings.market]
                await until(lambda: run.done() or feed.status().ids_missing == 0, timeout_s=10)
                reconnects = sum(connection.reconnects for connection in feed.status().connections)
                stop.set()
                assert await run
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
        fault_counts = Counter({str(switch["kind"]): int(switch["happened"]) for switch in exchange.control.describe()})
    emitted = {
        (trade.trade_id, Decimal(trade.price), Decimal(trade.qty), trade.event_time_us)
        for trade in emitted_trades(directory, exchange.status()["frames_passed"])
    }
    return Outcome(
        emitted,
        in_kafka,
        await asyncio.to_thread(read_gaps, settings),
        fault_counts,
        reconnects,
        feed.pool.replacements,
    )


async def run_drills(platform: Settings, homes: Path) -> dict[str, Outcome]:
    async with TopicReader(platform).running() as topic:
        names = list(DRILLS)
        outcomes = await asyncio.gather(
            *(run_drill(DRILLS[name], platform, homes / name, topic) for name in names), return_exceptions=True
        )
    found = dict(zip(names, outcomes, strict=True))
    failed = {name: outcome for name, outcome in found.items() if isinstance(outcome, BaseException)}
    assert not failed, failed
    return {name: outcome for name, outcome in found.items() if isinstance(outcome, Outcome)}


@pytest.fixture(scope="module")
def outcomes(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Outcomes of all drills, run concurrently and ingested into Bronze by one run of the stream."""
    found = asyncio.run(run_drills(platform, tmp_path_factory.mktemp("drills")))
    run_available_now(platform)
    rows: list[dict[str, Any]] = run_sql(
        platform,
        "SELECT symbol, trade_id, price, qty, epoch_us(event_time) AS event_us FROM cryptolake.bronze.futures_trades "
        f"WHERE {OWN_DAY}",
    ).to_pylist()
    rejected: list[dict[str, Any]] = run_sql(
        platform, "SELECT raw FROM cryptolake.bronze.futures_trades_rejected WHERE reason LIKE 'not_json%'"
    ).to_pylist()
    for name, outcome in found.items():
        symbol = DRILLS[name].symbol
        own = [row for row in rows if row["symbol"] == symbol]
        outcome.bronze = {(row["trade_id"], row["price"], row["qty"], row["event_us"]) for row in own}
        outcome.bronze_rows = len(own)
        outcome.rejected = [row["raw"] for row in rejected if symbol.lower().encode() in row["raw"].lower()]
    return found


FETCHED = {(ClosedBy.REST, GapOutcome.REPAIRED)}
ARRIVED = {(ClosedBy.STREAM, GapOutcome.ARRIVED)}


@pytest.mark.parametrize("name", DRILLS)
def test_bronze_equals_the_emitted_trades_and_every_gap_is_closed(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert len(outcome.emitted) == AGGREGATES
    assert outcome.bronze == outcome.emitted
    assert outcome.bronze_rows == outcome.sent_to_kafka.total()
    assert name == "replaced" or min(outcome.fault_counts.values()) > 0, "the fault did not happen"
    assert [gap for gap in outcome.gaps if gap.closed_at is None or gap.ids_missing] == []
    assert {gap.symbol for gap in outcome.gaps} <= {DRILLS[name].symbol}


@pytest.mark.parametrize("name", ["cut", "stall", "half_open"])
def test_trades_lost_by_a_broken_connection_are_fetched(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.reconnects >= outcome.fault_counts[name]
    assert len(outcome.missing) > 50, "at least the trades sent while disconnected"
    assert outcome.closed == FETCHED


def test_trades_lost_at_the_end_of_a_stream_are_fetched(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["drop_at_the_end"].missing == list(range(590, 600))
    missing = outcomes["cut_at_the_end"].missing
    assert missing[-10:] == list(range(590, 600))
    assert missing == list(range(missing[0], 600)), "a cut also loses frames in flight"
    assert outcomes["drop_at_the_end"].closed == outcomes["cut_at_the_end"].closed == FETCHED


def test_trades_missing_from_a_stale_stream_are_fetched(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["silent"].missing == list(range(200, 300)), "four seconds of exchange time"
    assert outcomes["silent"].closed == FETCHED


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("single_trades", [*range(100, 110), *range(590, 600)]),
        ("drop", [40, *range(100, 121), 300, 301]),
        ("limited", list(range(100, 110))),
        ("banned", list(range(100, 110))),
        ("html", list(range(100, 110))),
    ],
)
def test_dropped_trades_are_fetched_even_if_rest_rejects_at_first(
    outcomes: dict[str, Outcome], name: str, missing: list[int]
) -> None:
    assert outcomes[name].missing == missing
    assert outcomes[name].closed == FETCHED
    assert outcomes[name].sent_to_kafka.total() == AGGREGATES, "each exactly once"


def test_duplicates_are_stored_as_received_and_open_no_gap(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["duplicate"]
    assert outcome.gaps == []
    assert outcome.bronze_rows == AGGREGATES + outcome.fault_counts["duplicate"]


def test_reordered_trade_closes_its_own_gap(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["reorder"]
    # Two trades delayed together may arrive in their original order.
    assert 0 < len(outcome.missing) <= outcome.fault_counts["reorder"]
    # The gap repair may run while a trade is missing.
    assert ARRIVED <= outcome.closed <= ARRIVED | FETCHED


def test_corrupt_frames_are_stored_as_received_and_their_trades_fetched(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["corrupt"]
    assert len(outcome.rejected) == outcome.fault_counts["corrupt"] == len(outcome.missing)
    assert all(raw.endswith(b"\x1a") for raw in outcome.rejected)
    assert outcome.closed == FETCHED


def test_stale_stream_is_subscribed_on_another_connection(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["watched"]
    assert outcome.replacements >= 1
    assert outcome.missing[:150] == list(range(150, 300)), "stale after one minute"
    assert outcome.closed == FETCHED


def test_connection_ended_by_the_exchange_is_reopened(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["rotation"]
    assert outcome.reconnects >= outcome.fault_counts["rotation"] == 2
    assert outcome.closed <= FETCHED


def test_connection_is_replaced_before_the_exchange_ends_it(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["replaced"]
    assert outcome.fault_counts == {"rotation": 0}
    assert outcome.replacements >= 2
    assert (outcome.gaps, outcome.reconnects) == ([], 0)
