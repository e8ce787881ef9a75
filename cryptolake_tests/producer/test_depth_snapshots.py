"""Snapshots of order books: requested at the first update, after a break, at intervals, and until one joins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.model.events import DepthSnapshotEvent, DepthUpdateEvent, RejectedFrame
from cryptolake_assets.producer.depth_snapshots import DepthSnapshots, ReceivedSnapshot
from cryptolake_assets.producer.machine import Machine
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.fakes import until

LEVELS = msgspec.Raw(b'[["1.5","2"]]')


@dataclass
class Books:
    """An exchange whose snapshots have the id `last_id`."""

    last_id: int = 0
    failures: list[ExchangeError] = field(default_factory=list)
    body: bytes | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    received: list[ReceivedSnapshot] = field(default_factory=list)

    async def depth(self, symbol: str, limit: int) -> bytes:
        self.asked.append((symbol, limit))
        await asyncio.sleep(0.001)
        if self.failures:
            raise self.failures.pop()
        return self.body or b'{"lastUpdateId":%d,"bids":[["1.5","2"]],"asks":[]}' % self.last_id

    async def put(self, received: ReceivedSnapshot) -> None:
        self.received.append(received)

    @property
    def last_ids(self) -> list[int]:
        events = [received.event for received in self.received]
        return [event.last_update_id for event in events if isinstance(event, DepthSnapshotEvent)]


@asynccontextmanager
async def following(
    books: Books, settings: Settings | None = None, symbols: Callable[[], tuple[str, ...]] = lambda: ("BTCUSDT",)
) -> AsyncIterator[DepthSnapshots]:
    snapshots = DepthSnapshots(settings or load_settings(), books, symbols, books.put, Machine(), first_pause_s=0.001)
    task = asyncio.create_task(snapshots.run())
    try:
        yield snapshots
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def update(number: int, symbol: str = "BTCUSDT", *, is_spot: bool = False) -> DepthUpdateEvent:
    """Return the update with the ids from 10 * number to 10 * number + 9."""
    first_id = 10 * number
    previous_id = None if is_spot else first_id - 1
    return DepthUpdateEvent(symbol, 0, None, first_id, first_id + 9, previous_id, LEVELS, LEVELS, "binance", 0)


@pytest.mark.parametrize("is_spot", [True, False])
async def test_first_update_and_each_break_request_a_snapshot(is_spot: bool) -> None:
    books = Books(last_id=15)
    async with following(books) as snapshots:
        snapshots.follow(update(1, is_spot=is_spot))
        await until(lambda: books.last_ids == [15])
        for number in (1, 2, 1, 3):
            snapshots.follow(update(number, is_spot=is_spot))
        books.last_id = 55
        snapshots.follow(update(5, is_spot=is_spot))
        await until(lambda: books.last_ids == [15, 55])
        assert len(books.asked) == 2
        assert books.asked[0] == ("BTCUSDT", 1_000)


async def test_snapshot_older_than_the_chain_is_requested_again_and_published_once() -> None:
    books = Books(last_id=8)
    async with following(books) as snapshots:
        snapshots.follow(update(1))
        await until(lambda: len(books.asked) > 2)
        assert books.last_ids == [8]
        books.last_id = 9  # the update before the chain
        await until(lambda: books.last_ids == [8, 9])
        asked = len(books.asked)
        snapshots.follow(update(2))
        await asyncio.sleep(0)
        assert len(books.asked) == asked


async def test_failed_request_is_repeated() -> None:
    books = Books(last_id=15, failures=[ExchangeError("exchange: no"), ExchangeError("exchange: no")])
    async with following(books) as snapshots:
        snapshots.follow(update(1))
        await until(lambda: books.last_ids == [15])
        assert len(books.asked) == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"lastUpdateId":1,"bids":[["1","-2"]],"asks":[]}', "levels_format: "),
        (b'{"lastUpdateId":1,"bids":[["NaN","2"]],"asks":[]}', "levels_format: "),
        (b'{"lastUpdateId":1,"bids":[]}', "wrong_shape: "),
        (b"<html>", "wrong_shape: "),
    ],
)
async def test_malformed_snapshot_is_rejected(body: bytes, reason: str) -> None:
    books = Books(body=body)
    async with following(books) as snapshots:
        snapshots.follow(update(1))
        await until(lambda: bool(books.received))
    (rejected, *_) = (received.event for received in books.received)
    assert isinstance(rejected, RejectedFrame)
    assert rejected.raw == body
    assert rejected.reason.startswith(reason)


async def test_snapshots_are_repeated_at_the_interval() -> None:
    books = Books(last_id=15)
    settings = load_settings().model_copy(update={"depth_snapshot_interval_s": 0})
    async with following(books, settings) as snapshots:
        snapshots.follow(update(1))
        await until(lambda: len(books.asked) > 3)


async def test_untracked_symbol_is_forgotten() -> None:
    books = Books(last_id=5, failures=[])
    tracked = ["BTCUSDT", "ETHUSDT"]
    async with following(books, symbols=lambda: tuple(tracked)) as snapshots:
        snapshots.follow(update(1))
        snapshots.follow(update(1, "ETHUSDT"))
        await until(lambda: {symbol for symbol, _ in books.asked} == {"BTCUSDT", "ETHUSDT"})
        tracked.remove("ETHUSDT")
        await until(lambda: [symbol for symbol, _ in books.asked[-5:]] == ["BTCUSDT"] * 5)
