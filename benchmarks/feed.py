"""A WebSocket server that sends recorded frames as fast as the client reads, or at a steady rate, at low CPU cost.

Run as `python -m benchmarks.feed PORT FRAMES`. It replays the trades of the shipped capture endlessly, each as the
aggregate of one trade: `aggTrade` is the stream used live, and the only one that cryptofeed reads. Ids increase by one
per symbol; times are the current time. The server acknowledges subscriptions like the exchange and serves its clock at
`/fapi/v1/time`. `/feed?frames=…&per_s=…` starts sending on the newest connection (per_s 0: as fast as it reads).
"""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from itertools import count, cycle, islice
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.settings import DEMO_CAPTURE_DIR

SYMBOLS = ("BTCUSDT", "ETHUSDT")
FRAMES_PER_WRITE = 256
MAX_UNSENT_BYTES = 1 << 20
TICK_S = 0.005
FIRST_ID = 1_000_000_000


class RecordedFrames:
    """An endless repetition of the shipped capture's trades."""

    def __init__(self) -> None:
        trades = [json.loads(frame.raw)["data"] for frame in read_frames(DEMO_CAPTURE_DIR)]
        self._templates = [(trade["s"], _template(trade)) for trade in trades if trade["X"] == "MARKET"]
        self._ids = {symbol: count(FIRST_ID) for symbol in SYMBOLS}
        self._endless = cycle(self._templates)

    def take(self, number: int, time_ms: int) -> Iterator[bytes]:
        """Yield the next `number` frames, with `time_ms` as event and trade time."""
        for symbol, template in islice(self._endless, number):
            trade_id = next(self._ids[symbol])
            yield template % (time_ms, trade_id, trade_id, trade_id, time_ms)


def _template(trade: dict[str, object]) -> bytes:
    """Return an aggregate frame in the exchange's format, with placeholders for E, a, f, l and T."""
    symbol, price, qty, maker = trade["s"], trade["p"], trade["q"], json.dumps(trade["m"])
    return (
        f'{{"stream":"{str(symbol).lower()}@aggTrade","data":{{"e":"aggTrade","E":%d,"a":%d,"s":"{symbol}",'
        f'"p":"{price}","q":"{qty}","f":%d,"l":%d,"T":%d,"m":{maker}}}}}'
    ).encode()


@contextmanager
def serving(port: int, prepared: int) -> Iterator[str]:
    """Run the server in a separate process, with `prepared` frames in memory; yield its host and port."""
    command = [sys.executable, "-m", "benchmarks.feed", str(port), str(prepared)]
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


class Feed:
    """The server's state; it runs one plan at a time, for the newest connection."""

    def __init__(self, prepared: int) -> None:
        self._frames = RecordedFrames()
        self._sockets: list[ServerConnection] = []
        self._task: asyncio.Task[None] | None = None
        # Generate frames in advance, because doing so while sending would slow the sending.
        self._ready = [text_message(frame) for frame in self._frames.take(prepared, time.time_ns() // 1_000_000)]

    async def handle(self, socket: ServerConnection) -> None:
        self._sockets.append(socket)
        with suppress(ConnectionClosed):
            async for text in socket:
                await socket.send(json.dumps({"result": [], "id": json.loads(text)["id"]}))

    def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Respond to plain HTTP requests; return None for a WebSocket handshake."""
        address = urlsplit(request.path)
        if address.path == "/feed":
            plan = {name: int(values[0]) for name, values in parse_qs(address.query).items()}
            send = self._send_paced if plan["per_s"] else self._send_all
            self._task = asyncio.get_running_loop().create_task(send(self._sockets[-1], **plan))
        elif address.path == "/connections":
            return connection.respond(HTTPStatus.OK, str(len(self._sockets)))
        elif address.path != "/fapi/v1/time":
            return None
        return connection.respond(HTTPStatus.OK, json.dumps({"serverTime": time.time_ns() // 1_000_000}))

    async def _send_all(self, socket: ServerConnection, frames: int, per_s: int) -> None:
        assert not per_s
        ready, self._ready = self._ready[:frames], self._ready[frames:]
        assert len(ready) == frames, "more frames requested than prepared"
        for start in range(0, frames, FRAMES_PER_WRITE):
            socket.transport.write(b"".join(ready[start : start + FRAMES_PER_WRITE]))
            while socket.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:  # noqa: ASYNC110
                await asyncio.sleep(0.0005)
            await asyncio.sleep(0)

    async def _send_paced(self, socket: ServerConnection, frames: int, per_s: int) -> None:
        began, sent = time.perf_counter(), 0
        while sent < frames:
            due = min(frames, int((time.perf_counter() - began) * per_s)) - sent
            if due:
                now_ms = time.time_ns() // 1_000_000
                socket.transport.write(b"".join(map(text_message, self._frames.take(due, now_ms))))
                sent += due
            await asyncio.sleep(TICK_S)


async def main(port: int, prepared: int) -> None:
    feed = Feed(prepared)
    async with serve(
        feed.handle, "127.0.0.1", port, process_request=feed.request, ping_interval=None, compression=None
    ) as server:
        print(json.dumps({"listening": port}), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
