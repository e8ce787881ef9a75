"""The machine that a producer runs on: its wall clock, random numbers and sockets. A simulation replaces them.

The running event loop is the monotonic clock (`loop_time`) and, by `asyncio.to_thread`, the executor.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptolake_assets.producer.websocket_libraries import ExchangeSocket, open_socket

RANDOM: Final = random.Random()  # noqa: S311 - for jitter and request ids, not for secrets


@dataclass(frozen=True, slots=True)
class Machine:
    """The real machine by default."""

    wall_ns: Callable[[], int] = time.time_ns  # since 1970, UTC
    random: random.Random = RANDOM
    # Takes the library, the URL and the options of `websockets.connect`.
    open_socket: Callable[..., AbstractAsyncContextManager[ExchangeSocket]] = open_socket

    def now(self) -> datetime:
        """Return the wall clock's time, UTC."""
        return datetime.fromtimestamp(self.wall_ns() / 1e9, UTC)


def loop_time() -> float:
    """Return the running event loop's monotonic clock, s."""
    return asyncio.get_running_loop().time()
