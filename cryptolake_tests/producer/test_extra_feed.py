"""The extra streams on real sockets: own topics, separate from the trades, drained at a stop."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.binance.stream_types import MINUTE_STREAMS
from cryptolake_assets.captures.tracked_symbols import extra_streams_in_use
from cryptolake_assets.producer import extra_feed
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.connection_pool import ConnectionPoolOptions
from cryptolake_assets.producer.extra_feed import ExtraFeed
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import load_settings
from cryptolake_tests.support.captures import mark_price_frame, trade_frame, write_capture
from cryptolake_tests.support.documented_frames import FORCE_FRAME
from cryptolake_tests.support.fakes import NOON_MS, FakeClock, FakeExchange, trade, until
from cryptolake_tests.support.producing import stage

MARK_PRICE, FORCE_ORDER = MINUTE_STREAMS
FAST = ConnectionOptions(backoff_first_s=0.01, backoff_cap_s=0.02, close_timeout_s=0.2)


def force_frame() -> str:
    return json.dumps({"stream": "btcusdt@forceOrder", "data": FORCE_FRAME})


def events(messages: list[Message], topic: str) -> list[dict[str, Any]]:
    return [json.loads(message.value) for message in messages if message.topic == topic]


async def test_each_extra_stream_has_its_own_connection_and_topic() -> None:
    async with stage(extra_streams="markPrice,forceOrder") as on:
        await on.exchange.connected(3)
        by_path = {socket.request.path: socket for socket in on.exchange.sockets if socket.request is not None}
        assert sorted(by_path) == [
            "/market/stream?streams=btcusdt@forceOrder",
            "/market/stream?streams=btcusdt@markPrice@1s",
            "/market/stream?streams=btcusdt@trade",
        ]
        await by_path["/market/stream?streams=btcusdt@markPrice@1s"].send(mark_price_frame("BTCUSDT", NOON_MS))
        await by_path["/market/stream?streams=btcusdt@markPrice@1s"].send('{"e":"markPriceUpdate"}')
        await by_path["/market/stream?streams=btcusdt@forceOrder"].send(force_frame())
        await by_path["/market/stream?streams=btcusdt@trade"].send(trade(1, NOON_MS))
        await until(lambda: len(on.publisher.log) == 4)
        assert on.sent() == [1]
        (mark,) = events(on.publisher.log, MARK_PRICE.topic(on.settings))
        assert (mark["symbol"], mark["event_time"], mark["funding_rate"]) == ("BTCUSDT", NOON_MS * 1000, "0.0001")
        (order,) = events(on.publisher.log, FORCE_ORDER.topic(on.settings))
        assert (order["side"], order["filled_qty"]) == ("sell", "0.014")
        (dead_letter,) = [message for message in on.publisher.log if message.topic == on.settings.topic_rejected]
        assert dead_letter.value == b'{"e":"markPriceUpdate"}'
        assert dict(dead_letter.headers or ())["stream"] == b"markPrice"
        # Coverage is claimed for the trade stream only.
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.rows)
        assert {row.stream for row in on.sink.rows} == {"trade"}
        assert await on.ended()


async def test_extra_streams_missing_in_the_capture_are_not_subscribed() -> None:
    async with stage() as on:
        await on.opened()
        assert on.exchange.paths == ["/market/stream?streams=btcusdt@trade"]


async def test_received_frames_survive_a_stop_and_a_lost_connection_reconnects() -> None:
    sent: list[Message] = []
    gate = asyncio.Event()

    async def put(message: Message) -> None:
        await gate.wait()
        sent.append(message)

    exchange = FakeExchange()
    async with exchange.running():
        settings = load_settings(exchange_ws_url=exchange.url)
        feed = ExtraFeed(settings, lambda: ("BTCUSDT",), put=put, clock=FakeClock(), options=FAST, types=(MARK_PRICE,))
        running = asyncio.create_task(feed.run())
        await exchange.send(mark_price_frame("BTCUSDT", NOON_MS))
        await exchange.sockets[0].close()
        await exchange.connected(2)
        await until(lambda: feed.queued_frames == 0)  # the first one waits in `put`
        await exchange.send(mark_price_frame("BTCUSDT", NOON_MS + 1_000))
        await until(lambda: feed.queued_frames == 1)
        running.cancel()
        await asyncio.sleep(0)
        assert sent == []
        gate.set()
        await asyncio.gather(running, return_exceptions=True)
    times = [event["event_time"] for event in events(sent, MARK_PRICE.topic(settings))]
    assert times == [NOON_MS * 1000, (NOON_MS + 1_000) * 1000]
    assert running.cancelled()


async def test_stop_does_not_wait_for_unavailable_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra_feed, "DRAIN_TIMEOUT_S", 0.05)

    async def put(message: Message) -> None:
        await asyncio.Event().wait()

    exchange = FakeExchange()
    async with exchange.running():
        settings = load_settings(exchange_ws_url=exchange.url)
        feed = ExtraFeed(settings, lambda: ("BTCUSDT",), put=put, clock=FakeClock(), options=FAST, types=(MARK_PRICE,))
        running = asyncio.create_task(feed.run())
        await exchange.send(mark_price_frame("BTCUSDT", NOON_MS))
        running.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(running, return_exceptions=True)


async def test_extra_stream_of_a_capture_is_replayed(tmp_path: Path) -> None:
    frames = [(NOON_MS * 10**6, trade_frame("BTCUSDT", 1, NOON_MS))]
    frames += [
        ((NOON_MS + at) * 10**6, mark_price_frame("BTCUSDT", NOON_MS + at, f"{100 + at}.5"))
        for at in range(0, 5_000, 1_000)
    ]
    directory = write_capture(tmp_path / "frames.ndjson", frames)
    sent: list[Message] = []

    async def put(message: Message) -> None:
        sent.append(message)

    async with ReplayExchange(directory, 0).running() as exchange:
        ws_url = exchange.url.replace("http", "ws")
        settings = load_settings(exchange_ws_url=ws_url, replay_dir=directory)
        assert extra_streams_in_use(settings) == (MARK_PRICE,)
        feed = ExtraFeed(settings, lambda: ("BTCUSDT",), put=put, clock=FakeClock(), options=FAST)
        running = asyncio.create_task(feed.run())
        await until(lambda: len(sent) == 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [event["mark_price"] for event in events(sent, MARK_PRICE.topic(settings))] == [
        f"{100 + at}.5" for at in range(0, 5_000, 1_000)
    ]


async def test_extra_stream_tracks_the_symbols_of_the_trades_and_closes_replaced_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extra_feed, "SYMBOLS_POLL_S", 0.02)
    symbols = ["BTCUSDT"]
    sent: list[Message] = []

    async def put(message: Message) -> None:
        sent.append(message)

    exchange = FakeExchange()
    async with exchange.running():
        settings = load_settings(exchange_ws_url=exchange.url)
        pool = ConnectionPoolOptions(3_600.0, connect_apart_s=0.0, handover_timeout_s=30.0)
        feed = ExtraFeed(
            settings,
            lambda: tuple(symbols),
            put=put,
            clock=FakeClock(),
            options=FAST,
            pool=pool,
            types=(MARK_PRICE,),
        )
        running = asyncio.create_task(feed.run())
        old = await exchange.connected()
        symbols.append("ETHUSDT")
        await exchange.connected(2)
        # The old connection closes once the response to its barrier was read, long before the handover timeout.
        async with asyncio.timeout(10):
            await old.wait_closed()
        await exchange.send(mark_price_frame("ETHUSDT", NOON_MS))
        await until(lambda: sent)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert exchange.paths[-1] == "/market/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice@1s"
    assert sent[0].key == b"ETHUSDT"
