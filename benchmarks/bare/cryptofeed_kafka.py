"""cryptofeed's Binance Futures handler with its Kafka backend, as in its documentation, with acks=all like ours.

Runs in a separate environment (requirements/cryptofeed.lock) and prints the same result as the other bare scripts.
"""

from __future__ import annotations

import asyncio
import os
import sys
import urllib.request
from typing import Any

from cryptofeed import FeedHandler, connection
from cryptofeed.backends.kafka import TradeKafka
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import BinanceFutures
from cryptofeed.symbols import Symbols

from benchmarks.bare.clock import Clock, report

SYMBOLS = {"BTC-USDT-PERP": "BTCUSDT", "ETH-USDT-PERP": "ETHUSDT"}


class Backend(TradeKafka):  # type: ignore[misc]
    """The Kafka backend, with events that are set once the warm-up trades and all trades are acknowledged."""

    def __init__(self, servers: str, topic: str, frames: int, warm_up: int) -> None:
        super().__init__(bootstrap_servers=servers, acks="all")
        self._topic = topic
        self._left = frames + warm_up
        self._frames = frames
        self.warm = asyncio.Event()
        self.done = asyncio.Event()

    def topic(self, _data: dict[str, Any]) -> str:
        return self._topic

    async def write(self, data: dict[str, Any]) -> None:
        await super().write(data)
        self._left -= 1
        if self._left in (0, self._frames):
            event = self.done if self._left == 0 else self.warm
            # The writer awaits each acknowledgement before it takes the next trade from the queue.
            asyncio.get_running_loop().create_task(self.queue.join()).add_done_callback(lambda _: event.set())


async def measure(address: str, servers: str, topic: str, frames: int) -> None:
    def begin(number: int) -> None:
        urllib.request.urlopen(f"http://{address}/feed?frames={number}&per_s=0").read()

    warm_up = max(100, frames // 10)
    backend = Backend(servers, topic, frames, warm_up)
    handler = FeedHandler(config={"log": {"disabled": True}, "uvloop": True})
    handler.add_feed(BinanceFutures(symbols=list(SYMBOLS), channels=[TRADES], callbacks={TRADES: backend}))
    handler.run(start_loop=False, install_signal_handlers=False)
    while not await asyncio.to_thread(_connected, address):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.to_thread(begin, warm_up)
    await backend.warm.wait()
    clock = Clock()
    await asyncio.to_thread(begin, frames)
    await backend.done.wait()
    report("cryptofeed, Kafka backend", clock, frames=frames)
    # All trades are delivered; a regular shutdown of the event loops would log many errors.
    os._exit(0)


def _connected(address: str) -> bool:
    body: bytes = urllib.request.urlopen(f"http://{address}/connections").read()
    return body != b"0"


def main(address: str, servers: str, topic: str, frames: str) -> None:
    BinanceFutures.websocket_endpoints = [WebsocketEndpoint(f"wss://{address}", options={"compression": None})]
    # cryptofeed accepts only wss:// addresses; connect without TLS, like the other contestants.
    connect = connection.connect
    connection.connect = lambda url, **options: connect(url.replace("wss://", "ws://", 1), proxy=None, **options)
    Symbols.set(BinanceFutures.id, SYMBOLS, {"instrument_type": dict.fromkeys(SYMBOLS, "perpetual")})
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(measure(address, servers, topic, int(frames)))


if __name__ == "__main__":
    main(*sys.argv[1:])
