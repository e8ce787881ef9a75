"""A server that sends recorded frames as fast as they are taken, or at a steady rate, and costs little itself.

Run as `python -m benchmarks.feed PORT FRAMES`. The trades are those of the shipped capture, again and again, each as
the aggregate of one trade (`aggTrade` is what is followed live, and the only one that cryptofeed reads): ids go on by
one for each symbol, and times are the present. It answers requests as the exchange does, tells its clock at
`/fapi/v1/time`, and begins with `/feed?frames=…&per_s=…` (per_s 0: as fast as they are taken) on the newest connection.
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
FRAMES_A_WRITE = 256
MAX_UNSENT_BYTES = 1 << 20
TICK_S = 0.005
FIRST_ID = 1_000_000_000


class RecordedFrames:
    """The shipped capture's trades without end."""

    def __init__(self) -> None:
        trades = [json.loads(frame.raw)["data"] for frame in read_frames(DEMO_CAPTURE_DIR)]
        self._templates = [(trade["s"], _template(trade)) for trade in trades if trade["X"] == "MARKET"]
        self._ids = {symbol: count(FIRST_ID) for symbol in SYMBOLS}
        self._endless = cycle(self._templates)

    def take(self, number: int, time_ms: int) -> Iterator[bytes]:
        """The next frames, sent and traded at that time."""
        for symbol, template in islice(self._endless, number):
            trade_id = next(self._ids[symbol])
            yield template % (time_ms, trade_id, trade_id, trade_id, time_ms)


def _template(trade: dict[str, object]) -> bytes:
    """A frame of an aggregate, as the exchange writes it, with places for E, a, f, l and T."""
    symbol, price, qty, maker = trade["s"], trade["p"], trade["q"], json.dumps(trade["m"])
    return (
        f'{{"stream":"{str(symbol).lower()}@aggTrade","data":{{"e":"aggTrade","E":%d,"a":%d,"s":"{symbol}",'
        f'"p":"{price}","q":"{qty}","f":%d,"l":%d,"T":%d,"m":{maker}}}}}'
    ).encode()


@contextmanager
def serving(port: int, prepared: int) -> Iterator[str]:
    """The server in a process of its own, with so many frames ready; its host and port."""
    command = [sys.executable, "-m", "benchmarks.feed", str(port), str(prepared)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "the server of frames ended"
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def text_message(payload: bytes) -> bytes:
    """A WebSocket text message as a server sends it."""
    size = len(payload)
    return (struct.pack("!BB", 0x81, size) if size < 126 else struct.pack("!BBH", 0x81, 126, size)) + payload


class Feed:
    """One plan at a time, for the newest connection."""

    def __init__(self, prepared: int) -> None:
        self._frames = RecordedFrames()
        self._sockets: list[ServerConnection] = []
        self._task: asyncio.Task[None] | None = None
        # Making them while they are sent would slow the sending.
        self._ready = [text_message(frame) for frame in self._frames.take(prepared, time.time_ns() // 1_000_000)]

    async def handle(self, socket: ServerConnection) -> None:
        self._sockets.append(socket)
        with suppress(ConnectionClosed):
            async for text in socket:
                await socket.send(json.dumps({"result": [], "id": json.loads(text)["id"]}))

    def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """What is asked without a WebSocket."""
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
        assert len(ready) == frames, "more frames were asked for than were prepared"
        for start in range(0, frames, FRAMES_A_WRITE):
            socket.transport.write(b"".join(ready[start : start + FRAMES_A_WRITE]))
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
