"""One connection against a real WebSocket server: reads frames, detects stalls, reconnects with back-off."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.producer import websocket_libraries as sockets
from cryptolake_assets.producer.connection import ConnectionOptions, ExchangeConnection
from cryptolake_assets.producer.frame_queue import FrameQueue, QueueItem, ReceivedFrames, SpanMark
from cryptolake_assets.producer.machine import Machine
from cryptolake_assets.producer.websocket_libraries import ExchangeSocket
from cryptolake_assets.settings.producer import ProducerIo
from cryptolake_tests.support.fakes import NOON_MS, FakeClock, FakeExchange, trade, trade_url, until

FAST = ConnectionOptions(
    close_timeout_s=0.2, backoff_first_s=0.01, backoff_cap_s=0.05, response_timeout_s=0.2, healthy_after_s=0.0
)


io = ProducerIo.DEFAULT


@pytest.fixture(params=[ProducerIo.DEFAULT, ProducerIo.FAST], autouse=True)
def _each_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of this module runs with both WebSocket libraries."""
    monkeypatch.setattr(sys.modules[__name__], "io", request.param)


@asynccontextmanager
async def connected(
    exchange: FakeExchange,
    queue: FrameQueue | None = None,
    options: ConnectionOptions = FAST,
    clock: FakeClock | None = None,
) -> AsyncIterator[tuple[ExchangeConnection, FrameQueue]]:
    queue = FrameQueue() if queue is None else queue
    link = ExchangeConnection(
        name="test",
        url=trade_url(exchange.url, ("BTCUSDT", "ETHUSDT")),
        symbols=("BTCUSDT", "ETHUSDT"),
        queue=queue,
        clock=clock or FakeClock(),
        options=replace(options, io=io),
    )
    task = asyncio.create_task(link.run())
    try:
        yield link, queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def taken(queue: FrameQueue, count: int) -> list[QueueItem]:
    """Take this many frames and marks; frames of one batch are one item."""
    items: list[QueueItem] = []
    async with asyncio.timeout(10):
        while count > 0:
            items += (more := await queue.take(1))
            count -= sum(len(item.raws) if isinstance(item, ReceivedFrames) else 1 for item in more)
    return items


def raws(items: list[QueueItem]) -> list[bytes]:
    return [raw for item in items if isinstance(item, ReceivedFrames) for raw in item.raws]


def record_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the upper bounds of the pauses between two connections; the pauses themselves become short."""
    ceilings: list[float] = []

    def uniform(_low: float, high: float) -> float:
        ceilings.append(round(high, 3))
        return 0.001

    monkeypatch.setattr("cryptolake_assets.producer.machine.RANDOM.uniform", uniform)
    return ceilings


async def test_frames_arrive_unchanged_in_order_with_receive_times() -> None:
    async with FakeExchange().running() as exchange, connected(exchange) as (link, queue):
        before_us = time.time_ns() // 1000
        # Invalid UTF-8 is a frame like any other: it must become a dead letter, not end the connection.
        frames = [trade(number, NOON_MS).encode() for number in range(100)] + [b'{"data":"\xff"}', b""]
        await exchange.send(*frames)
        items = await taken(queue, len(frames))
        assert raws(items) == frames
        stamps = [item.received_at_us for item in items if isinstance(item, ReceivedFrames)]
        assert before_us <= stamps[0] <= stamps[-1] <= time.time_ns() // 1000
        assert exchange.paths == ["/market/stream?streams=btcusdt@trade/ethusdt@trade"]
        assert link.state == "streaming"


@pytest.mark.parametrize("code", [1000, 1001, 1011])
async def test_closed_connection_is_reopened_and_its_end_is_marked(code: int) -> None:
    async with FakeExchange().running() as exchange, connected(exchange) as (link, queue):
        await exchange.send("first")
        await exchange.sockets[0].close(code, "maintenance")
        await exchange.connected(2)
        await exchange.send("second")
        items = await taken(queue, 3)
        assert raws(items) == [b"first", b"second"]
        assert isinstance(items[1], SpanMark)
        assert items[1].ended
        assert isinstance(items[0], ReceivedFrames)
        assert isinstance(items[2], ReceivedFrames)
        assert items[1].span is items[0].span
        assert items[2].span is not items[0].span
        assert link.reconnects == 1


async def test_stop_sends_a_close_frame() -> None:
    async with FakeExchange().running() as exchange:
        async with connected(exchange) as (link, _):
            # The exchange has a socket before the client has read the handshake response; a stop before that sends no
            # close frame.
            await until(lambda: link.span is not None)
        await until(lambda: exchange.sockets[0].close_code is not None)
        assert exchange.sockets[0].close_code == 1000


async def test_aborted_connection_is_reopened() -> None:
    async with FakeExchange().running() as exchange, connected(exchange) as (_, queue):
        await exchange.send(*(f"frame {number}" for number in range(50)))
        await until(lambda: len(queue) == 50)
        exchange.sockets[0].transport.abort()
        await exchange.connected(2)
        items = await taken(queue, 51)
        assert isinstance(items[-1], SpanMark)


async def test_pauses_grow_to_a_cap_while_the_exchange_accepts_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = record_pauses(monkeypatch)
    exchange = FakeExchange()
    exchange.on_open = lambda socket: socket.close(1001)
    options = replace(FAST, backoff_first_s=0.5, backoff_cap_s=4.0)
    async with exchange.running(), connected(exchange, options=options):
        await until(lambda: len(ceilings) >= 6)
    assert ceilings[:6] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


async def test_pauses_reset_only_after_a_healthy_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = record_pauses(monkeypatch)
    exchange = FakeExchange()
    exchange.rejections = [(503, {})] * 3

    async def one_frame(socket: ServerConnection) -> None:
        await socket.send("frame")
        await socket.close(1001)

    exchange.on_open = one_frame
    async with exchange.running(), connected(exchange, options=replace(FAST, backoff_first_s=0.5, backoff_cap_s=30.0)):
        await until(lambda: len(ceilings) >= 5)
    # Three rejections, then connections with a frame.
    assert ceilings[:5] == [0.5, 1.0, 2.0, 0.5, 0.5]


async def test_short_lived_connection_does_not_reset_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = record_pauses(monkeypatch)
    exchange = FakeExchange()

    async def one_frame(socket: ServerConnection) -> None:
        await socket.send("frame")
        await socket.close(1001)

    exchange.on_open = one_frame
    options = replace(FAST, backoff_first_s=0.5, backoff_cap_s=30.0, healthy_after_s=5.0)
    async with exchange.running(), connected(exchange, options=options):
        await until(lambda: len(ceilings) >= 3)
    assert ceilings[:3] == [0.5, 1.0, 2.0]


async def test_cancellation_that_the_library_swallows_ends_the_connection() -> None:
    """picows closes with `asyncio.wait_for`, which in Python 3.11 can swallow a cancellation."""
    closing = asyncio.Event()

    @asynccontextmanager
    async def swallowing_socket(*arguments: Any, **options: Any) -> AsyncIterator[ExchangeSocket]:
        try:
            async with sockets.open_socket(*arguments, **options) as socket:
                yield socket
        finally:
            closing.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    options = replace(FAST, machine=Machine(open_socket=swallowing_socket))
    async with FakeExchange().running() as exchange, connected(exchange, options=options) as (link, _):
        await exchange.connected(1)
        await exchange.sockets[0].close(1001)
        await closing.wait()
    assert link.state == "closed"
    assert len(exchange.sockets) == 1


@pytest.mark.parametrize("status", [429, 418])
async def test_retry_after_of_a_rate_limit_is_respected(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    record_pauses(monkeypatch)
    exchange = FakeExchange()
    exchange.rejections = [(status, {"Retry-After": "1"})]
    async with exchange.running():
        started = time.monotonic()
        async with connected(exchange):
            await exchange.connected(1)
        assert time.monotonic() - started >= 1.0


async def test_unreachable_exchange_is_retried_until_it_is_up() -> None:
    exchange = FakeExchange()
    async with exchange.running():
        pass  # the port is known and free again
    async with connected(exchange) as (link, queue):
        await until(lambda: link.reconnects >= 2)
        async with exchange.running():
            await exchange.send("frame")
            assert raws(await taken(queue, 1)) == [b"frame"]


async def test_invalid_url_is_an_error() -> None:
    link = ExchangeConnection(
        name="test",
        url="http://127.0.0.1:1",
        symbols=("X",),
        queue=FrameQueue(),
        clock=FakeClock(),
        options=ConnectionOptions(io=io),
    )
    with pytest.raises(ExchangeError, match="CRYPTOLAKE_EXCHANGE_WS_URL"):
        await link.run()


async def test_connection_without_pongs_is_closed_and_reopened() -> None:
    exchange = FakeExchange()
    options = replace(FAST, ping_interval_s=0.05, ping_timeout_s=0.1)
    async with exchange.running(), connected(exchange, options=options):
        socket = await exchange.connected(1)
        socket.transport.pause_reading()  # neither frames nor pongs from now on
        await exchange.connected(2)


async def test_pongs_keep_a_connection_without_frames_open_and_stale() -> None:
    exchange = FakeExchange()
    options = replace(FAST, ping_interval_s=0.02, ping_timeout_s=1.0, stale_alarm_s=0.1)
    async with exchange.running(), connected(exchange, options=options) as (link, _):
        await exchange.connected(1)
        await until(lambda: link.state == "stale")
        await exchange.send("frame")
        await until(lambda: link.state == "streaming")
        assert len(exchange.sockets) == 1


async def test_full_queue_slows_the_exchange_down_without_loss() -> None:
    exchange = FakeExchange()
    options = replace(FAST, ping_interval_s=0.02, ping_timeout_s=0.05, max_buffered_frames=8)
    count = 3_000
    sent = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        for number in range(count):
            await socket.send(f"{number} " + "x" * 10_000)
            sent += 1

    exchange.on_open = flood
    queue = FrameQueue(max_frames=10)
    async with exchange.running(), connected(exchange, queue, options) as (link, _):
        await until(lambda: queue.is_full)
        # Pongs now wait after frames that wait for room; even ten ping timeouts must not close the connection.
        await asyncio.sleep(0.5)
        assert sent < count
        assert link.reconnects == 0
        items = await taken(queue, count)
        assert [int(raw.split()[0]) for raw in raws(items)] == list(range(count))
        assert link.reconnects == 0


async def test_barrier_response_follows_the_frames_sent_before_it() -> None:
    clock = FakeClock(NOON_MS + 7)
    async with FakeExchange().running() as exchange, connected(exchange, clock=clock) as (link, queue):
        await exchange.send("1", "2")
        await until(lambda: link.span is not None)
        span = await link.send_barrier()
        assert span is not None
        assert list(span.requests.values()) == [NOON_MS + 7]
        items = await taken(queue, 3)
        assert raws(items)[:2] == [b"1", b"2"]
        assert str(next(iter(span.requests))).encode() in raws(items)[2]


async def test_barrier_without_a_response_falls_back_to_the_frames() -> None:
    exchange = FakeExchange()
    exchange.responds = False
    async with exchange.running(), connected(exchange) as (link, queue):
        await exchange.send("1")
        await taken(queue, 1)
        span = await link.send_barrier()
        assert span is not None
        (mark,) = await taken(queue, 1)
        assert isinstance(mark, SpanMark)
        assert (mark.span, mark.ended) == (span, False)
        assert not span.requests


async def test_only_one_barrier_is_open_at_a_time() -> None:
    exchange = FakeExchange()
    exchange.responds = False
    async with exchange.running(), connected(exchange, options=replace(FAST, response_timeout_s=5)) as (link, _):
        await until(lambda: link.span is not None)
        await link.send_barrier()
        await link.send_barrier()
        await until(lambda: exchange.requests == 1)
        assert link.span is not None
        assert len(link.span.requests) == 1


async def test_no_barrier_is_sent_without_a_connection() -> None:
    exchange = FakeExchange()
    exchange.rejections = [(503, {})] * 1000
    async with exchange.running(), connected(exchange) as (link, _):
        await until(lambda: link.reconnects >= 1)
        assert await link.send_barrier() is None


async def test_clock_is_read_before_and_after_the_opening() -> None:
    clock = FakeClock(NOON_MS)
    exchange = FakeExchange()

    def move_clock(_socket: object) -> None:
        clock.now_ms = NOON_MS + 40

    exchange.on_open = move_clock
    async with exchange.running(), connected(exchange, clock=clock) as (link, _):
        await until(lambda: link.span is not None and link.span.after_ms is not None)
        assert link.span is not None
        assert (link.span.before_ms, link.span.after_ms) == (NOON_MS, NOON_MS + 40)


async def test_unreachable_clock_does_not_prevent_the_connection() -> None:
    async with FakeExchange().running() as exchange, connected(exchange, clock=FakeClock(None)) as (link, queue):
        await exchange.send("frame")
        assert raws(await taken(queue, 1)) == [b"frame"]
        assert link.span is not None
        assert link.span.before_ms is None
