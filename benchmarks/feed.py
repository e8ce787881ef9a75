"""A WebSocket server that sends recorded frames as fast as the client reads, or at a steady rate, at low CPU cost.

Run as `python -m benchmarks.feed PORT FRAMES [MARKETS]`. It replays the trades of the shipped capture endlessly, each
as the aggregate of one trade: `aggTrade` is the stream used live, and the only one that cryptofeed reads. Ids increase
by one per symbol; times are the current time. The server acknowledges subscriptions like the exchange and serves its
clock at each market's `/time`. `/feed?frames=…&per_s=…` starts sending on the newest connection of each market (per_s
0: as fast as it reads); the markets take turns. The base URL of one of several markets ends with its name.
"""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from itertools import count, cycle, islice
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import DEMO_CAPTURE_DIR

SYMBOLS = ("BTCUSDT", "ETHUSDT")
COIN_M_SYMBOLS = {"BTCUSDT": "BTCUSD_PERP", "ETHUSDT": "ETHUSD_PERP"}
FRAMES_PER_WRITE = 256
MAX_UNSENT_BYTES = 1 << 20
TICK_S = 0.005
FIRST_ID = 1_000_000_000


class RecordedFrames:
    """An endless repetition of the shipped capture's trades, with the symbols of a market."""

    def __init__(self, market: str = Market.USD_M) -> None:
        trades = [json.loads(frame.raw)["data"] for frame in read_frames(DEMO_CAPTURE_DIR)]
        trades = [trade | {"s": symbol_in(market, trade["s"])} for trade in trades]
        self._templates = [(trade["s"], _template(trade)) for trade in trades if trade["X"] == "MARKET"]
        self._ids = {symbol_in(market, symbol): count(FIRST_ID) for symbol in SYMBOLS}
        self._endless = cycle(self._templates)

    def take(self, number: int, time_ms: int) -> Iterator[bytes]:
        """Yield the next `number` frames, with `time_ms` as event and trade time."""
        for symbol, template in islice(self._endless, number):
            trade_id = next(self._ids[symbol])
            yield template % (time_ms, trade_id, trade_id, trade_id, time_ms)


def symbol_in(market: str, symbol: str) -> str:
    """Return the market's symbol for one of SYMBOLS."""
    return COIN_M_SYMBOLS[symbol] if market == Market.COIN_M else symbol


def _template(trade: dict[str, object]) -> bytes:
    """Return an aggregate frame in the exchange's format, with placeholders for E, a, f, l and T."""
    symbol, price, qty, maker = trade["s"], trade["p"], trade["q"], json.dumps(trade["m"])
    return (
        f'{{"stream":"{str(symbol).lower()}@aggTrade","data":{{"e":"aggTrade","E":%d,"a":%d,"s":"{symbol}",'
        f'"p":"{price}","q":"{qty}","f":%d,"l":%d,"T":%d,"m":{maker}}}}}'
    ).encode()


@contextmanager
def serving(port: int, prepared: int, markets: Sequence[str] = (Market.USD_M,)) -> Iterator[str]:
    """Run the server in a separate process, with `prepared` frames in memory; yield its host and port."""
    command = [sys.executable, "-m", "benchmarks.feed", str(port), str(prepared), *markets]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "the frame server exited"
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def text_message(payload: bytes) -> bytes:
    """Return a WebSocket text message in a server's framing."""
    size = len(payload)
    return (struct.pack("!BB", 0x81, size) if size < 126 else struct.pack("!BBH", 0x81, 126, size)) + payload


class MarketStream:
    """One market's frames and its newest connection."""

    def __init__(self, market: str, prepared: int) -> None:
        self.frames = RecordedFrames(market)
        self.socket: ServerConnection | None = None
        # Generate frames in advance, because doing so while sending would slow the sending.
        self.ready = [text_message(frame) for frame in self.frames.take(prepared, time.time_ns() // 1_000_000)]

    def write(self, frames: Iterable[bytes]) -> None:
        assert self.socket is not None, "no connection"
        self.socket.transport.write(b"".join(frames))

    async def wait_for_room(self) -> None:
        """Wait while the client does not read."""
        assert self.socket is not None, "no connection"
        while self.socket.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(0.0005)


class Feed:
    """The server's state; it runs one plan at a time, spread over the markets."""

    def __init__(self, prepared: int, markets: Sequence[str]) -> None:
        self._streams = {market: MarketStream(market, prepared // len(markets)) for market in markets}
        self._connections = 0
        self._task: asyncio.Task[None] | None = None

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        market = socket.request.path.split("/")[1]
        self._streams.get(market, next(iter(self._streams.values()))).socket = socket
        self._connections += 1
        with suppress(ConnectionClosed):
            async for text in socket:
                await socket.send(json.dumps({"result": [], "id": json.loads(text)["id"]}))

    def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Respond to plain HTTP requests; return None for a WebSocket handshake."""
        address = urlsplit(request.path)
        if address.path == "/feed":
            plan = {name: int(values[0]) for name, values in parse_qs(address.query).items()}
            send = self._send_paced if plan["per_s"] else self._send_all
            self._task = asyncio.get_running_loop().create_task(send(**plan))
        elif address.path == "/connections":
            return connection.respond(HTTPStatus.OK, str(self._connections))
        elif not address.path.endswith("/time"):
            return None
        return connection.respond(HTTPStatus.OK, json.dumps({"serverTime": time.time_ns() // 1_000_000}))

    async def _send_all(self, frames: int, per_s: int) -> None:
        assert not per_s
        streams = list(self._streams.values())
        share = frames // len(streams)
        assert all(len(stream.ready) >= share for stream in streams), "more frames requested than prepared"
        for start in range(0, share, FRAMES_PER_WRITE):
            for stream in streams:
                stream.write(stream.ready[start : min(share, start + FRAMES_PER_WRITE)])
                await stream.wait_for_room()
            await asyncio.sleep(0)
        for stream in streams:
            del stream.ready[:share]

    async def _send_paced(self, frames: int, per_s: int) -> None:
        streams = cycle(self._streams.values())
        began, sent = time.perf_counter(), 0
        while sent < frames:
            due = min(frames, int((time.perf_counter() - began) * per_s)) - sent
            if due:
                stream = next(streams)
                stream.write(map(text_message, stream.frames.take(due, time.time_ns() // 1_000_000)))
                sent += due
            await asyncio.sleep(TICK_S)


async def main(port: int, prepared: int, markets: Sequence[str]) -> None:
    feed = Feed(prepared, markets)
    async with serve(
        feed.handle, "127.0.0.1", port, process_request=feed.request, ping_interval=None, compression=None
    ) as server:
        print(json.dumps({"listening": port}), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or [Market.USD_M]))
