"""Receive and discard WebSocket messages with one of the producer's WebSocket libraries."""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from typing import Any

from benchmarks.bare.clock import Clock, report
from benchmarks.feed import serving


async def receive(library: str, address: str, frames: int) -> Clock:
    connect: Any
    if library == "picows":
        from picows.websockets import connect
    else:
        from websockets.asyncio.client import connect

    options = {"compression": None, "max_queue": 1024, "ping_interval": None, "proxy": None}
    async with connect(f"ws://{address}/market/stream?streams=x", **options) as socket:
        clock = Clock()
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{address}/feed?frames={frames}&per_s=0").read())
        for _ in range(frames):
            await socket.recv(decode=False)
        return clock


def main(library: str, port: str, frames: str) -> None:
    with serving(int(port), int(frames)) as address:
        clock = asyncio.run(receive(library, address, int(frames)))
        report(f"receive, {library}", clock, frames=int(frames))


if __name__ == "__main__":
    main(*sys.argv[1:])
