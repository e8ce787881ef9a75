"""Live bars on the real broker, Bronze stream and catalog: each bar has every trade once, from Kafka to Silver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table

from cryptolake_assets.bronze.stream import run_available_now
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.live.kafka_follower import KafkaFollower
from cryptolake_assets.live.live_bars import LiveBars
from cryptolake_assets.live.settlement import Settled, SettledOutcome, outcome, published_bars
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.windows import epoch_us
from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.fakes import until
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.records import send
from cryptolake_tests.support.silver_runs import refresh

HOUR = datetime(2025, 2, 1, 10, tzinfo=UTC)  # a day that no other test writes to
WAIT_S = 60.0
BTC = ("binance_futures", "BTCUSDT")


def record(settings: Settings, trade_id: int, second: float, price: str) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    when_us = epoch_us(HOUR + timedelta(seconds=second))
    trade = TradeEvent(
        BTC[1], when_us, price, "1", "buy", trade_id, BTC[0], when_us, trade_id, trade_id, "MARKET", "trade"
    )
    return settings.kafka_topic_futures, trade.encode(), []


@pytest.fixture(scope="module")
def own(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A platform whose newest trades are those of these tests."""
    with start_platform(settings_for(tmp_path_factory.mktemp("live")), [KAFKA, SPARK]) as settings:
        yield settings


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[tuple[KafkaFollower, LiveBars, list[Settled]]]:
    """Follow the topic; yield the follower, its bars and what was settled."""
    settled: list[Settled] = []

    def tables() -> tuple[Table, Table]:
        return load_table(settings, FUTURES.trades), load_table(settings, FUTURES.bars)

    follower = KafkaFollower(settings, tables, settled.extend)
    task = asyncio.create_task(follower.run())
    try:
        yield follower, LiveBars({Family.FUTURES: follower}), settled
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def closes(live: LiveBars) -> dict[int, tuple[str, int]]:
    """Return close and number of trades by minute of the hour."""
    found = live.bars(BTC, HOUR, HOUR + timedelta(hours=1))
    return {bar["window_start"].minute: (f"{bar['close']:.0f}", bar["trades"]) for bar in found}


def outcomes(settings: Settings, settled: Sequence[Settled]) -> list[SettledOutcome]:
    published = published_bars(load_table(settings, FUTURES.bars), [one.key for one in settled])
    return [outcome(one, published.get(one.key)) for one in settled]


async def test_trades_are_in_their_bars_before_bronze_and_after_silver(own: Settings) -> None:
    settings = own
    async with following(settings) as (follower, live, settled):
        await until(lambda: follower.tail is not None, WAIT_S)
        await send(settings, record(settings, 1, 5, "100"), record(settings, 2, 30, "101"))
        await until(lambda: closes(live) == {0: ("101", 2)}, WAIT_S)
        await asyncio.to_thread(run_available_now, settings)
        await asyncio.to_thread(refresh, settings, DuckDBEngine(settings), HOUR)
        await until(lambda: closes(live) == {}, WAIT_S)
        mine = [one for one in settled if one.key[0] == epoch_us(HOUR)]
        assert outcomes(settings, mine) == [SettledOutcome.EQUAL]
        await send(settings, record(settings, 2, 30, "101"))  # a copy changes nothing
        await send(settings, record(settings, 3, 45, "102"), record(settings, 4, 61, "103"))
        await until(lambda: closes(live) == {0: ("102", 3), 1: ("103", 1)}, WAIT_S)

    # Another process begins where Bronze has ended, and has the same bars.
    async with following(settings) as (_, live, _):
        await until(lambda: closes(live) == {0: ("102", 3), 1: ("103", 1)}, WAIT_S)
        await asyncio.to_thread(run_available_now, settings)

    # Bronze has the trades, Silver does not yet.
    async with following(settings) as (_, live, settled):
        await until(lambda: closes(live) == {0: ("102", 3), 1: ("103", 1)}, WAIT_S)
        await asyncio.to_thread(refresh, settings, DuckDBEngine(settings), HOUR)
        await until(lambda: closes(live) == {}, WAIT_S)
        mine = [one for one in settled if one.key[0] >= epoch_us(HOUR)]
        assert outcomes(settings, mine) == [SettledOutcome.EQUAL] * 2


async def test_without_kafka_silver_alone_answers_and_the_cause_is_known(own: Settings) -> None:
    away = own.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    async with following(away) as (follower, live, _):
        await until(lambda: "127.0.0.1:1" in follower.problem, WAIT_S)
        assert not live.is_live(BTC[0])
        assert live.offsets(BTC) is None
        assert "127.0.0.1:1" in live.problems()[Family.FUTURES]
