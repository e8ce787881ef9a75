"""The replay exchange on a socket, in its own thread, for blocking tests."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_tests.support.waiting import wait_for


class ExchangeThread:
    """A replay exchange whose clock is at `clock_ms`; `replay.batch` records the requests to batch sources."""

    def __init__(self, directory: Path, clock_ms: int) -> None:
        self.replay = ReplayExchange(directory, speed=0)
        self._clock_ms = clock_ms
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ExchangeThread:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.replay.start(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self.replay.clock.advance_to, self._clock_ms * 1_000_000)
        wait_for(lambda: self.replay.clock.now_ms() == self._clock_ms)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.replay.stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return self.replay.url
