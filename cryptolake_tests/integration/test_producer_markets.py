"""A producer of three markets on the real broker, killed and resumed: each market's trades, gaps and coverage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest

from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.gap_ledger import ClosedBy, read_gaps
from cryptolake_assets.model.markets import EXCHANGES, VENUES, Market
from cryptolake_assets.model.replay_faults import Drop
from cryptolake_assets.producer.status_file import read_status
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import Settings, TradeStream
from cryptolake_assets.settings.producer import ProducerIo
from cryptolake_tests.support.captures import agg_trade_frame, write_capture
from cryptolake_tests.support.fakes import until
from cryptolake_tests.support.sockets import NOON_MS

SYMBOLS = {Market.USD_M: "BTCUSDT", Market.SPOT: "BTCUSDT", Market.COIN_M: "BTCUSD_PERP"}
FIRST_IDS = {Market.USD_M: 0, Market.SPOT: 500_000, Market.COIN_M: 900_000}
TRADES, STEP_MS, SPEED = 3_000, 40, 5.0  # two minutes, replayed in 24 s
DROPPED = 1_000, 1_019  # of each market, after its first id


def ids(market: Market) -> range:
    return range(FIRST_IDS[market], FIRST_IDS[market] + TRADES)


def with_captures(platform: Settings, home: Path, io: ProducerIo) -> Settings:
    """Write a capture of the three markets; return settings that replay it, with own topics and tables."""
    for market, symbol in SYMBOLS.items():
        times_ms = [NOON_MS + number * STEP_MS for number in range(TRADES)]
        frames = [
            (time_ms * 10**6, agg_trade_frame(symbol, trade_id, time_ms))
            for trade_id, time_ms in zip(ids(market), times_ms, strict=True)
        ]
        write_capture(home / "captures" / market / "capture.ndjson.gz", frames)
    suffix = uuid.uuid4().hex[:8]
    settings = platform.model_copy(
        update={
            "home": home,
            "markets": tuple(SYMBOLS),
            "market": Market.USD_M,
            "kafka_bootstrap_servers": platform.bootstrap_servers,
            "kafka_topic_futures": f"futures-{suffix}",
            "kafka_topic_spot": f"spot-{suffix}",
            "trade_stream": TradeStream.AGG_TRADE,
            "replay_dir": home / "captures",
            "symbols": (),
            "coverage_interval_s": 0.5,
            "producer_io": io,
        }
    )
    bootstrap(settings)
    return settings


def run_producer(settings: Settings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cryptolake_assets.producer.process"]
    return subprocess.Popen(command, env=os.environ | settings.environment())


def accepted(settings: Settings, process: subprocess.Popen[bytes]) -> dict[Market, int]:
    """Return the accepted frames per market of a running producer."""
    status = read_status(settings)
    if status is None or status.pid != process.pid:
        return dict.fromkeys(SYMBOLS, 0)
    return {market: sum(counts.accepted for counts in one.streams.values()) for market, one in status.markets.items()}


async def on_topics(settings: Settings) -> dict[str, Counter[tuple[str, str, int]]]:
    """Count each (exchange, symbol, id) per topic."""
    found = {}
    for of_family in settings.each_family:
        records = await kafka.peek_async(settings, of_family.topic_trades, 10**9, from_end=False)
        events = [json.loads(record.value or b"") for record in records]
        found[of_family.topic_trades] = Counter((one["exchange"], one["symbol"], one["trade_id"]) for one in events)
    return found


@pytest.mark.parametrize("io", [ProducerIo.DEFAULT, ProducerIo.FAST])
async def test_killed_producer_resumes_each_market(platform: Settings, tmp_path: Path, io: ProducerIo) -> None:
    settings = with_captures(platform, tmp_path, io)
    drops = [
        Drop(ids=((FIRST_IDS[market] + DROPPED[0], FIRST_IDS[market] + DROPPED[1]),), market=market)
        for market in SYMBOLS
    ]
    expected = {market: (f"{symbol.lower()}@aggTrade",) for market, symbol in SYMBOLS.items()}
    replay = ReplayExchange(settings.replay_dir, SPEED, faults=drops, expected_streams=expected)
    async with replay.running() as exchange:
        addresses = {"exchange_ws_url": exchange.url.replace("http", "ws"), "exchange_rest_url": exchange.url}
        settings = settings.model_copy(update=addresses)
        first = run_producer(settings)
        try:
            await until(lambda: min(accepted(settings, first).values()) > 1_200, timeout_s=60)
        finally:
            first.kill()
            await asyncio.to_thread(first.wait)
        cut_ms = exchange.clock.now_ms()
        await until(lambda: exchange.clock.now_ms() > cut_ms + 5_000)
        second = run_producer(settings)
        try:
            await until(lambda: exchange.status()["state"] == "finished", timeout_s=60)
            await until(lambda: min(accepted(settings, second).values()) > 0, timeout_s=60)
            every = {(VENUES[market].exchange, symbol, it) for market, symbol in SYMBOLS.items() for it in ids(market)}
            topics = await on_topics(settings)
            async with asyncio.timeout(60):
                while set().union(*topics.values()) != every:
                    await asyncio.sleep(1)
                    topics = await on_topics(settings)
        finally:
            second.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(second.wait, 60) == 0
    spot = VENUES[Market.SPOT].exchange
    assert {name for name, _, _ in topics[settings.kafka_topic_spot]} == {spot}
    assert spot not in {name for name, _, _ in topics[settings.kafka_topic_futures]}
    for of_family in settings.each_family:
        ledger = read_gaps(of_family)
        assert {gap.exchange for gap in ledger} == {
            view.venue.exchange for view in settings.each_market if view.venue.family is of_family.venue.family
        }
        assert {gap.closed_by for gap in ledger} == {ClosedBy.REST}
        for gap in ledger:
            assert gap.first_missing_id in ids(EXCHANGES[gap.exchange].market)
    for view in settings.each_market:
        first_missing = FIRST_IDS[view.market] + DROPPED[0]
        gaps = [gap for gap in read_gaps(view) if gap.exchange == view.venue.exchange]
        assert min(gap.first_missing_id for gap in gaps) == first_missing
        assert max(gap.last_missing_id - gap.first_missing_id for gap in gaps) >= 5_000 // STEP_MS, "across the kill"
        rows = [row for row in read_coverage(view) if row.exchange == view.venue.exchange]
        assert {row.symbol for row in rows} == {SYMBOLS[view.market]}
        ends = await kafka.end_offsets_async(view, view.topic_trades)
        assert all((row.kafka_offset or 0) <= ends[row.kafka_partition or 0] for row in rows)
        assert max(row.connected_to_ms for row in rows) >= NOON_MS + (TRADES - 1) * STEP_MS
