"""A connection pool on real sockets: replaces and changes connections without missing a frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.producer.connection import ConnectionOptions, ExchangeConnection
from cryptolake_assets.producer.connection_pool import ConnectionPacer, ConnectionPool, ConnectionPoolOptions
from cryptolake_assets.producer.frame_queue import FrameQueue, ReceivedFrames
from cryptolake_tests.support.fakes import NOON_MS, FakeClock, FakeExchange, trade, trade_url, until

FAST = ConnectionOptions(close_timeout_s=0.2, backoff_first_s=0.01, backoff_cap_s=0.02, response_timeout_s=0.5)


@dataclass
class Scene:
    """A pool, its exchange, and the ids of the frames that the exchange sends continuously."""

    exchange: FakeExchange
    pool: ConnectionPool
    run: asyncio.Task[None]
    sent: int = 0
    received: set[int] = field(default_factory=set)

    def open_paths(self) -> list[str]:
        """Return the streams of the open connections."""
        sockets = zip(self.exchange.sockets, self.exchange.paths, strict=False)
        return [path.partition("streams=")[2] for socket, path in sockets if socket.close_code is None]

    async def feed(self) -> None:
        """Send numbered frames to all open connections; a frame counts as sent only if one was open."""
        while True:
            open_sockets = [socket for socket in self.exchange.sockets if socket.close_code is None]
            frame = trade(self.sent, NOON_MS)
            for socket in open_sockets:
                with suppress(ConnectionClosed):
                    await socket.send(frame)
            self.sent += bool(open_sockets)
            await asyncio.sleep(0.002)

    async def drain(self, queue: FrameQueue) -> None:
        """Act as the publisher task: record frames, and end barriers on their responses."""
        while True:
            for item in await queue.take(100):
                if not isinstance(item, ReceivedFrames):
                    continue
                for raw in item.raws:
                    document = json.loads(raw)
                    if "data" in document:
                        self.received.add(document["data"]["t"])
                    else:
                        item.span.requests.pop(document["id"], None)


@asynccontextmanager
async def scene(symbols: tuple[str, ...], feeds: bool = True, **options: float) -> AsyncIterator[Scene]:
    queue, exchange = FrameQueue(), FakeExchange()
    async with exchange.running():

        def make(share: tuple[str, ...], turn: Callable[[], Awaitable[None]]) -> ExchangeConnection:
            return ExchangeConnection(
                name="-".join(share[:3]),
                url=trade_url(exchange.url, share),
                symbols=share,
                queue=queue,
                clock=FakeClock(),
                options=FAST,
                turn=turn,
            )

        changed: dict[str, Any] = {"life_s": 3_600.0, "connect_apart_s": 0.0, **options}
        pool = ConnectionPool(symbols, make, ConnectionPoolOptions(**changed))
        run = asyncio.create_task(pool.run())
        on = Scene(exchange, pool, run)
        tasks = [run, asyncio.create_task(on.drain(queue))]
        if feeds:
            await exchange.connected()
            tasks.append(asyncio.create_task(on.feed()))
        try:
            yield on
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_connections_are_replaced_without_missing_a_frame() -> None:
    async with scene(("BTCUSDT",), life_s=0.2) as on:
        await until(lambda: on.pool.replacements >= 4)
        sent = on.sent
        await until(lambda: on.received >= set(range(sent)))
        assert len(on.exchange.sockets) >= 5
        codes = [socket.close_code for socket in on.exchange.sockets[:4]]
        assert codes == [1000] * 4  # closed by the pool, in order
        assert {path.partition("streams=")[2] for path in on.exchange.paths} == {"btcusdt@trade"}


async def test_tracked_symbols_change_without_missing_a_frame() -> None:
    async with scene(("BTCUSDT", "ETHUSDT")) as on:
        await until(lambda: on.sent > 20)
        on.pool.track(["BTCUSDT", "SOLUSDT"])
        await until(lambda: on.open_paths() == ["btcusdt@trade/solusdt@trade"])
        on.pool.track(["SOLUSDT", "BTCUSDT"])  # the same symbols: no change
        sent = on.sent
        await until(lambda: on.received >= set(range(sent)))
        assert len(on.exchange.sockets) == 2
        assert on.pool.symbols == ("BTCUSDT", "SOLUSDT")


async def test_symbols_keep_their_connection_and_new_ones_fill_free_places() -> None:
    symbols = tuple(f"S{number}" for number in range(250))
    async with scene(symbols, feeds=False) as on:
        await on.exchange.connected(2)
        assert [len(connection.symbols) for connection in on.pool.connections] == [200, 50]
        on.pool.track([*symbols[1:], "NEW"])
        await until(lambda: on.pool.replacements == 1)
        shares = [connection.symbols for connection in on.pool.connections]
        assert shares == [(*symbols[1:200], "NEW"), symbols[200:]]
        await until(lambda: len(on.open_paths()) == 2)
        on.pool.track(symbols[:200])
        await until(lambda: on.pool.replacements == 2 and len(on.open_paths()) == 1)
        assert sorted(on.pool.connections[0].symbols) == sorted(symbols[:200])


async def test_failed_successor_keeps_the_old_connection() -> None:
    async with scene(("BTCUSDT",), open_timeout_s=0.2, retry_s=0.1) as on:
        await until(lambda: on.sent > 5)
        on.exchange.rejections = [(503, {})] * 1_000
        on.pool.replace(on.pool.connections[0])
        await until(lambda: len(on.exchange.paths) >= 3)
        assert len(on.open_paths()) == 1
        assert on.pool.replacements == 0
        on.exchange.rejections = []
        await until(lambda: on.pool.replacements == 1)
        sent = on.sent
        await until(lambda: on.received >= set(range(sent)))


async def test_cancelled_pool_closes_all_connections() -> None:
    async with scene(("BTCUSDT",), life_s=0.1) as on:
        await until(lambda: on.pool.replacements >= 1)
        on.run.cancel()
        await asyncio.gather(on.run, return_exceptions=True)
        await until(lambda: on.open_paths() == [])


async def test_invalid_url_ends_the_pool() -> None:
    def make(share: tuple[str, ...], turn: Callable[[], Awaitable[None]]) -> ExchangeConnection:
        return ExchangeConnection(
            name="bad",
            url="http://127.0.0.1:1",
            symbols=share,
            queue=FrameQueue(),
            clock=FakeClock(),
            turn=turn,
        )

    with pytest.raises(ExchangeError, match="not a WebSocket URL"):
        await ConnectionPool(("BTCUSDT",), make, ConnectionPoolOptions(life_s=60.0)).run()


async def test_connection_openings_are_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    now = 100.0

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))

    monkeypatch.setattr("cryptolake_assets.producer.connection_pool.loop_time", lambda: now)
    monkeypatch.setattr("cryptolake_assets.producer.connection_pool.asyncio.sleep", sleep)
    pacer = ConnectionPacer(1.0)
    for _ in range(3):
        await pacer.turn()
    now = 110.0
    await pacer.turn()
    assert waits == [0.0, 1.0, 2.0, 0.0]
