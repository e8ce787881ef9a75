"""The drills' faults of the exchange on a producer and a replay exchange in one process, without a broker.

Each has a feed of its own; all run at the same time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import pytest

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.replay_faults import parse_faults
from cryptolake_assets.producer.process import Producer
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.fakes import FakePublisher, MemoryGaps, MemorySink
from cryptolake_tests.support.producing import market_source
from reliability.drills.exchange_faults import ACTIONS, switches
from reliability.drills.feed import FIRST_ID, Feed, write_feed

SECONDS, BEGINS_S, LASTS_S = 80, (6.0, 12.0), 20.0
DRAIN_S = 60.0
EARLY_MS = 2_000  # a claim beyond the exchange's clock by more contains the time to come
ALL_IN_BRONZE = dict.fromkeys(range(8), 10**12)


class WatchedSink(MemorySink):
    """Also records how far claims were ahead of the exchange's clock (ms)."""

    def __init__(self, exchange: ReplayExchange) -> None:
        super().__init__()
        self._exchange = exchange
        self.ahead_ms: list[int] = []

    def write(self, claims: Sequence[CoverageRow]) -> None:
        now_ms = self._exchange.clock.now_ms()
        self.ahead_ms += [claim.connected_to_ms - now_ms for claim in claims]
        super().write(claims)


@dataclass
class Outcome:
    """Broken promises at the end of a feed."""

    missing: dict[str, int] = field(default_factory=dict)  # emitted and never sent to Kafka, by symbol
    ids_missing: int = 0  # in open gaps
    uncovered: list[tuple[str, int]] = field(default_factory=list)  # symbol, second
    early_ms: int = 0


async def drilled(name: str, seed: int, home: Path) -> Outcome:
    """Replay a feed with one fault in its midst; return what is wrong once it is over."""
    draw = Random(seed)  # noqa: S311
    parameters = next(action for action in ACTIONS if action.name == name).draw(draw)
    emitted = write_feed(Feed(seed, SECONDS, per_s=(10, 20)), home / "capture")
    async with ReplayExchange(emitted.directory, 1.0).running() as exchange:
        settings = load_settings(
            symbols=emitted.feed.symbols,
            replay_dir=emitted.directory,
            replay_speed=1.0,
            exchange_ws_url=exchange.url.replace("http", "ws"),
            exchange_rest_url=exchange.url,
            coverage_interval_s=1.0,
            home=home,
        )
        publisher, sink, gaps, stop = FakePublisher(), WatchedSink(exchange), MemoryGaps(), asyncio.Event()
        async with AsyncExchangeRest(settings.rest_url) as rest:
            market = market_source(settings, resolve_subscriptions(settings), clock=rest, history=rest, gaps=gaps)
            producer = Producer(settings, [market], publisher=publisher, sink=sink)
            run = asyncio.create_task(producer.run(stop))
            await asyncio.sleep(draw.uniform(*BEGINS_S))
            feed = producer.feeds[settings.market]
            if name == "symbol_change":
                feed.pool.track(emitted.feed.symbols[:1])
                await asyncio.sleep(LASTS_S)
                feed.pool.track(emitted.feed.symbols)
            else:
                exchange.control.switch_on(*parse_faults(json.dumps(switches(name, parameters))))
                await asyncio.sleep(LASTS_S)
                exchange.control.switch_off()
            last_ids = emitted.last_ids(len(emitted.order))
            deadline = time.monotonic() + SECONDS + DRAIN_S
            outcome = Outcome(missing={"": 1})
            while (outcome.missing or outcome.ids_missing or outcome.uncovered) and time.monotonic() < deadline:
                await asyncio.sleep(2.0)
                index = CompletenessIndex(sink.rows, ALL_IN_BRONZE, settings.watermark_grace_ms, gaps.gaps.values())
                outcome = Outcome(
                    missing(publisher, settings, last_ids),
                    feed.status().ids_missing,
                    uncovered(index, last_ids, round(emitted.begins.timestamp() * 1000)),
                    max(0, *sink.ahead_ms) if max(sink.ahead_ms, default=0) > EARLY_MS else 0,
                )
            stop.set()
            await run
    return outcome


def missing(publisher: FakePublisher, settings: Settings, last_ids: dict[str, int]) -> dict[str, int]:
    sent: dict[str, set[int]] = {symbol: set() for symbol in last_ids}
    for message in publisher.log:
        if message.topic == settings.topic_trades and (event := msgspec.json.decode(message.value))["symbol"] in sent:
            sent[event["symbol"]].add(event["trade_id"])
    counts = {symbol: len(set(range(FIRST_ID, last_ids[symbol] + 1)) - ids) for symbol, ids in sent.items()}
    return {symbol: count for symbol, count in counts.items() if count}


def uncovered(index: CompletenessIndex, symbols: Collection[str], begin_ms: int) -> list[tuple[str, int]]:
    """Return the seconds without proof, but for the first and last ones: their coverage begins and ends within them."""
    return [
        (symbol, second)
        for symbol in symbols
        for second in range(1, SECONDS - 5)
        if not index.is_complete(
            "binance_futures", symbol, "aggTrade", begin_ms + second * 1000, begin_ms + second * 1000 + 1000
        )
    ]


@pytest.mark.nightly
async def test_every_trade_is_sent_and_proven_whatever_the_exchange_does(tmp_path: Path) -> None:
    seed = time.time_ns() % 10**9
    names = [action.name for action in ACTIONS]
    outcomes = await asyncio.gather(*(drilled(name, seed + n, tmp_path / name) for n, name in enumerate(names)))
    wrong = {name: outcome for name, outcome in zip(names, outcomes, strict=True) if outcome != Outcome()}
    assert wrong == {}, f"seed {seed}"
