"""Fault drills: whatever the exchange does to a stream of trades, Bronze is in the end what it emitted.

Each drill has a symbol, a replay exchange, a producer and a ledger of gaps of its own. All run at the same time into
one topic; then one run of the Bronze stream lands it, and each drill is judged by what is in the tables.
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
from cryptolake_assets.model.replay_faults import (
    Corrupt,
    Cut,
    Drop,
    Duplicate,
    Reorder,
    ReplayFault,
    RestLimit,
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

FIRST_MS = 1_709_200_800_000
"""2024-02-29T10:00:00Z, in a day that no other test writes to."""
OWN_DAY = "event_time >= '2024-02-29T00:00:00+00:00' AND event_time < '2024-03-01T00:00:00+00:00'"
AGGREGATES, STEP_MS, FIRST_ID = 600, 40, 5_000
SLOW = 4.0
"""The speed at which a capture takes six seconds."""
QUICK = ConnectionOptions(
    ping_interval_s=0.4, ping_timeout_s=0.8, close_timeout_s=0.2, backoff_first_s=0.05, backoff_cap_s=0.2
)
WATCHFUL = CatchUpOptions(after_opening_s=1.0, stale_s=6.0)
REST = ("/fapi/v1/aggTrades",)

Trade = tuple[int, Decimal, Decimal, int]
"""Id, price, quantity, µs since 1970."""


def drop(*places: tuple[int, int]) -> Drop:
    """Of the aggregates at these places of the capture, both ends included."""
    return Drop(ids=tuple((FIRST_ID + first, FIRST_ID + last) for first, last in places))


@dataclass(frozen=True)
class Drill:
    """What is done to the stream of one symbol, and at which speed it is replayed; 0: as fast as it is taken."""

    name: str
    faults: tuple[ReplayFault, ...]
    speed: float = 0.0
    step_ms: int = STEP_MS
    """Between two aggregates."""
    connection_life_s: float = 82_800.0
    stream: TradeStream = TradeStream.AGG_TRADE

    @property
    def symbol(self) -> str:
        return f"{self.name.replace('_', '').upper()}USDT"


DRILLS = {
    drill.name: drill
    for drill in (
        Drill("cut", (Cut(every_frames=150, times=2),)),
        # No later trade shows what is missing at the end.
        Drill("cut_at_the_end", (Cut(every_frames=590, times=1),)),
        Drill("drop_at_the_end", (drop((590, 599)),)),
        Drill("stall", (Stall(every_frames=200, for_s=30.0, times=1),), SLOW),
        Drill("silent", (Silent(after_frames=200, for_s=4.0, times=1),), SLOW),
        Drill("duplicate", (Duplicate(share=0.3),)),
        Drill("reorder", (Reorder(share=0.05),)),
        Drill("drop", (drop((40, 40), (100, 120), (300, 301)),)),
        Drill("single_trades", (drop((100, 109), (590, 599)),), stream=TradeStream.TRADE),
        Drill("corrupt", (Corrupt(share=0.02, times=4),)),
        # A minute of the exchange's clock is silence; at this speed the alarm comes long before the replay's end.
        Drill("watched", (Silent(after_frames=150, times=1),), 12.0, step_ms=10 * STEP_MS),
        Drill("rotation", (Rotation(connection_life_s=1.5, times=2),), SLOW),
        Drill("relieved", (Rotation(connection_life_s=4.0),), SLOW, connection_life_s=1.0),
        Drill("limited", (drop((100, 109)), RestLimit(times=3, paths=REST))),
        Drill("banned", (drop((100, 109)), RestLimit(status=418, retry_after_s=2, times=1, paths=REST))),
    )
}


@dataclass
class Outcome:
    """What a drill has left behind."""

    emitted: set[Trade]
    sent_to_kafka: Counter[int]
    gaps: list[TradeGap]
    happened: Counter[str]
    reconnects: int
    renewals: int
    bronze: set[Trade] = field(default_factory=set)
    bronze_rows: int = 0
    refused: list[bytes] = field(default_factory=list)

    @property
    def missed(self) -> list[int]:
        """The places in the capture of all ids that the ledger tells of."""
        spans = [(gap.first_missing_id - FIRST_ID, gap.last_missing_id - FIRST_ID) for gap in self.gaps]
        return sorted(place for first, last in spans for place in range(first, last + 1))

    @property
    def closed(self) -> set[tuple[ClosedBy | None, GapOutcome | None]]:
        """By whom, and how."""
        return {(gap.closed_by, gap.outcome) for gap in self.gaps}


class TopicReader:
    """Counts the ids of each symbol on the trade topic, as they come."""

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
    """Trades or aggregates whose price and quantity tell them apart."""
    frames, frame = [], agg_trade_frame if drill.stream is TradeStream.AGG_TRADE else trade_frame
    for place in range(AGGREGATES):
        at_ms = FIRST_MS + place * drill.step_ms
        price, qty = f"{100 + place // 100}.{place % 100:02}", f"0.{place + 1:08}"
        frames.append((at_ms * 10**6, frame(drill.symbol, FIRST_ID + place, at_ms, price, qty)))
    return write_capture(directory / "capture" / f"{drill.symbol}.ndjson", frames)


async def carry_out(drill: Drill, platform: Settings, home: Path, topic: TopicReader) -> Outcome:
    """Replays the drill's capture with its faults until all that was emitted is in Kafka and no gap is open."""
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
            producer = Producer(
                settings,
                resolve_subscriptions(settings),
                publisher=AiokafkaPublisher(settings),
                clock=rest,
                sink=MemorySink(),
                gaps=gaps,
                history=rest,
                options=ProducerOptions(
                    QUICK, ConnectionPoolOptions(drill.connection_life_s, connect_apart_s=0.05), WATCHFUL
                ),
            )
            run = asyncio.create_task(producer.run(stop))
            try:
                in_kafka = topic.ids[drill.symbol]
                await until(lambda: run.done() or len(in_kafka) == AGGREGATES, timeout_s=60)
                await until(lambda: run.done() or producer.status().ids_missing == 0, timeout_s=10)
                reconnects = sum(connection.reconnects for connection in producer.status().connections)
                stop.set()
                assert await run
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
        happened = Counter({str(switch["kind"]): int(switch["happened"]) for switch in exchange.control.describe()})
    emitted = {
        (trade.trade_id, Decimal(trade.price), Decimal(trade.qty), trade.event_time_us)
        for trade in emitted_trades(directory, exchange.status()["frames_passed"])
    }
    return Outcome(
        emitted,
        in_kafka,
        await asyncio.to_thread(read_gaps, settings),
        happened,
        reconnects,
        producer.pool.replacements,
    )


async def carry_out_all(platform: Settings, homes: Path) -> dict[str, Outcome]:
    async with TopicReader(platform).running() as topic:
        names = list(DRILLS)
        outcomes = await asyncio.gather(
            *(carry_out(DRILLS[name], platform, homes / name, topic) for name in names), return_exceptions=True
        )
    found = dict(zip(names, outcomes, strict=True))
    failed = {name: outcome for name, outcome in found.items() if isinstance(outcome, BaseException)}
    assert not failed, failed
    return {name: outcome for name, outcome in found.items() if isinstance(outcome, Outcome)}


@pytest.fixture(scope="module")
def outcomes(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All drills, carried out together and landed in Bronze by one run of the stream."""
    found = asyncio.run(carry_out_all(platform, tmp_path_factory.mktemp("drills")))
    run_available_now(platform)
    rows: list[dict[str, Any]] = run_sql(
        platform,
        "SELECT symbol, trade_id, price, qty, epoch_us(event_time) AS event_us FROM cryptolake.bronze.futures_trades "
        f"WHERE {OWN_DAY}",
    ).to_pylist()
    refused: list[dict[str, Any]] = run_sql(
        platform, "SELECT raw FROM cryptolake.bronze.futures_trades_rejected WHERE reason LIKE 'not_json%'"
    ).to_pylist()
    for name, outcome in found.items():
        symbol = DRILLS[name].symbol
        own = [row for row in rows if row["symbol"] == symbol]
        outcome.bronze = {(row["trade_id"], row["price"], row["qty"], row["event_us"]) for row in own}
        outcome.bronze_rows = len(own)
        outcome.refused = [row["raw"] for row in refused if symbol.lower().encode() in row["raw"].lower()]
    return found


FETCHED = {(ClosedBy.REST, GapOutcome.REPAIRED)}
ARRIVED = {(ClosedBy.STREAM, GapOutcome.ARRIVED)}


@pytest.mark.parametrize("name", DRILLS)
def test_bronze_is_what_was_emitted_and_no_gap_is_left_open(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert len(outcome.emitted) == AGGREGATES
    assert outcome.bronze == outcome.emitted
    assert outcome.bronze_rows == outcome.sent_to_kafka.total()
    assert name == "relieved" or min(outcome.happened.values()) > 0, "the fault did not happen"
    assert [gap for gap in outcome.gaps if gap.closed_at is None or gap.ids_missing] == []
    assert {gap.symbol for gap in outcome.gaps} <= {DRILLS[name].symbol}


@pytest.mark.parametrize("name", ["cut", "stall"])
def test_what_a_broken_connection_lost_was_fetched(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.reconnects >= outcome.happened[name]
    assert len(outcome.missed) > 50, "at least what the exchange sent while nobody listened"
    assert outcome.closed == FETCHED


def test_what_was_lost_at_the_end_is_asked_for_though_nothing_comes_behind_it(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["drop_at_the_end"].missed == list(range(590, 600))
    missed = outcomes["cut_at_the_end"].missed
    assert missed[-10:] == list(range(590, 600))
    assert missed == list(range(missed[0], 600)), "a cut loses also what is on its way"
    assert outcomes["drop_at_the_end"].closed == outcomes["cut_at_the_end"].closed == FETCHED


def test_what_a_silent_stream_held_back_was_fetched(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["silent"].missed == list(range(200, 300)), "four seconds of the exchange's clock"
    assert outcomes["silent"].closed == FETCHED


@pytest.mark.parametrize(
    ("name", "missed"),
    [
        ("single_trades", [*range(100, 110), *range(590, 600)]),
        ("drop", [40, *range(100, 121), 300, 301]),
        ("limited", list(range(100, 110))),
        ("banned", list(range(100, 110))),
    ],
)
def test_what_was_dropped_was_fetched_also_where_rest_rejected_at_first(
    outcomes: dict[str, Outcome], name: str, missed: list[int]
) -> None:
    assert outcomes[name].missed == missed
    assert outcomes[name].closed == FETCHED
    assert outcomes[name].sent_to_kafka.total() == AGGREGATES, "and nothing else"


def test_duplicates_are_in_bronze_as_often_as_they_came_and_are_no_gap(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["duplicate"]
    assert outcome.gaps == []
    assert outcome.bronze_rows == AGGREGATES + outcome.happened["duplicate"]


def test_what_came_out_of_order_closed_its_own_gap(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["reorder"]
    # Two that were held back together may come in their own order again.
    assert 0 < len(outcome.missed) <= outcome.happened["reorder"]
    # The repairer may look just while one is missing.
    assert ARRIVED <= outcome.closed <= ARRIVED | FETCHED


def test_garbled_frames_are_kept_as_they_came_and_their_trades_fetched(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["corrupt"]
    assert len(outcome.refused) == outcome.happened["corrupt"] == len(outcome.missed)
    assert all(raw.endswith(b"\x1a") for raw in outcome.refused)
    assert outcome.closed == FETCHED


def test_a_stream_that_falls_silent_is_asked_for_on_another_connection(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["watched"]
    assert outcome.renewals >= 1
    assert outcome.missed[:150] == list(range(150, 300)), "a minute is silence"
    assert outcome.closed == FETCHED


def test_connections_that_the_exchange_ends_are_opened_again(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["rotation"]
    assert outcome.reconnects >= outcome.happened["rotation"] == 2
    assert outcome.closed <= FETCHED


def test_connections_are_replaced_before_the_exchange_ends_them(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["relieved"]
    assert outcome.happened == {"rotation": 0}
    assert outcome.renewals >= 2
    assert (outcome.gaps, outcome.reconnects) == ([], 0)
