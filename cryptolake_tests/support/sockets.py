"""Helpers of the replay exchange's tests: small captures, clients, waiting for conditions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_tests.support.captures import trade_frame, write_capture

NOON_MS = 1_700_049_600_000  # 2023-11-15T12:00:00Z
SKEW_MS = 1_500  # the receive clock of these captures is behind the exchange's


def numbered_capture(directory: Path, count: int, step_ms: int, *, symbol: str = "BTCUSDT", padding: int = 0) -> Path:
    """Write a capture of trades 0 to count-1 of a symbol, one every `step_ms`; `padding` bytes enlarge the frames."""
    qty = "1." + "0" * padding if padding else "1"
    frames = (
        ((NOON_MS - SKEW_MS + i * step_ms) * 10**6, trade_frame(symbol, i, NOON_MS + i * step_ms, qty=qty))
        for i in range(count)
    )
    return write_capture(directory / f"{symbol}.ndjson", frames)


def open_socket(exchange: ReplayExchange, path: str, **options: Any) -> connect:
    """Open a client like the producer's, without compression; it closes at once, even with unread frames."""
    return connect(f"ws://127.0.0.1:{exchange.port}{path}", compression=None, close_timeout=0.1, **options)


async def take(socket: ClientConnection, count: int) -> list[str]:
    """Return the next `count` text frames."""
    async with asyncio.timeout(20):
        return [str(await socket.recv()) for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; raise `TimeoutError` after 20 s."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the product code has no event for it
            await asyncio.sleep(0.002)


async def ask(socket: ClientConnection, **request: Any) -> Any:
    """Send one request and return the next message."""
    await socket.send(json.dumps(request))
    return json.loads((await take(socket, 1))[0])


def trade_ids(frames: list[str]) -> list[int]:
    return [json.loads(frame)["data"]["t"] for frame in frames]
