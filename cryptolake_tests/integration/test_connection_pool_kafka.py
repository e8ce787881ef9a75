"""Replaced connections and changed symbols during a replay: the real broker receives every trade."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import defaultdict
from functools import partial
from pathlib import Path

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.captures.tracked_symbols import Subscriptions
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.process import Producer
from cryptolake_assets.producer.publisher_aiokafka import AiokafkaPublisher
from cryptolake_assets.producer.subscriptions import refresh_symbols
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings
from cryptolake_tests.support.fakes import MemoryGaps, MemorySink, until
from cryptolake_tests.support.producing import market_source


def emitted() -> dict[str, list[int]]:
    """Return the trade ids of the shipped capture by symbol, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for frame in read_frames(DEMO_CAPTURE_DIR):
        data = json.loads(frame.raw)["data"]
        found[data["s"]].append(data["t"])
    return found


async def published(settings: Settings) -> dict[str, set[int]]:
    """Return the trade ids on the topic by symbol."""
    found: dict[str, set[int]] = defaultdict(set)
    for record in await kafka.peek_async(settings, settings.kafka_topic_futures, 10**9, from_end=False):
        event = json.loads(record.value or b"")
        found[event["symbol"]].add(event["trade_id"])
    return found


async def test_replacements_and_symbol_changes_lose_no_trade(platform: Settings, tmp_path: Path) -> None:
    symbols = tmp_path / "symbols.txt"
    symbols.write_text("BTCUSDT\n")
    sink, gaps, stop = MemorySink(), MemoryGaps(), asyncio.Event()
    async with (
        ReplayExchange(DEMO_CAPTURE_DIR, speed=30).running() as exchange,
        AsyncExchangeRest(exchange.url) as rest,
    ):
        settings = platform.model_copy(
            update={
                "home": tmp_path,
                "kafka_bootstrap_servers": platform.bootstrap_servers,
                "kafka_topic_futures": f"trades-{uuid.uuid4().hex[:8]}",
                "exchange_ws_url": exchange.url.replace("http", "ws"),
                "exchange_rest_url": exchange.url,
                "coverage_interval_s": 0.5,
                "connection_life_s": 2.0,
                "symbols_file": symbols,
            }
        )
        refresh = partial(refresh_symbols, settings, ("BTCUSDT",), rest)
        subscriptions = Subscriptions(("BTCUSDT",), "trade")
        market = market_source(settings, subscriptions, clock=rest, history=rest, gaps=gaps, refresh=refresh)
        producer = Producer(settings, [market], publisher=AiokafkaPublisher(settings), sink=sink)
        run = asyncio.create_task(producer.run(stop))
        try:
            await until(lambda: sink.spans("BTCUSDT"), timeout_s=30)
            symbols.write_text("BTCUSDT\nETHUSDT\n")
            await until(lambda: sink.spans("ETHUSDT"), timeout_s=30)
            symbols.write_text("ETHUSDT\nBTCUSDT\n")  # another order is no change
            feed = producer.feeds[settings.market]
            await until(
                lambda: min(feed.status().coverage_to_ms.values()) >= exchange.status()["last_event_time_ms"],
                timeout_s=60,
            )
            assert feed.pool.replacements >= 4
            stop.set()
            assert await run
        finally:
            await cancel_and_wait([run])
    sent, found = emitted(), await published(settings)
    assert found["BTCUSDT"] == set(sent["BTCUSDT"])
    first = min(found["ETHUSDT"])
    assert first > sent["ETHUSDT"][0]
    assert found["ETHUSDT"] == {trade_id for trade_id in sent["ETHUSDT"] if trade_id >= first}
    assert all(gap.closed_at is not None for gap in gaps.gaps.values())
    for symbol in ("BTCUSDT", "ETHUSDT"):
        by_barrier = [row for row in sink.rows if (row.symbol, row.evidence) == (symbol, Evidence.BARRIER)]
        assert len(by_barrier) == 1, "no time between two connections"
