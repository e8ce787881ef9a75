"""The one queue between the sockets' readers and the publisher task, bounded in frames and in bytes.

When it is full the readers wait, the sockets' buffers fill, and TCP slows the exchange down: memory stays bounded
whatever the broker does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from cryptolake_assets.stream.coverage import ConnectionSpan

MAX_FRAMES: Final = 50_000
MAX_BYTES: Final = 64 * 1024 * 1024


class ReceivedFrame(Struct, frozen=True, eq=False, gc=False):
    """One WebSocket message as it came."""

    span: ConnectionSpan
    """The connection that it came by."""
    received_at_us: int
    """µs since 1970, UTC, by this machine's clock."""
    raw: bytes


class SpanMark(Struct, frozen=True, eq=False):
    """A place in the order of a connection's frames about which coverage is to be stated."""

    span: ConnectionSpan
    ended: bool
    """Whether no frame of the connection follows."""


class EndOfFrames(Struct, frozen=True, eq=False):
    """Nothing follows: the publisher task ends here."""


QueueItem = ReceivedFrame | SpanMark | EndOfFrames


class FrameQueue:
    """First in, first out; many readers put, one publisher task gets."""

    def __init__(self, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self._items: deque[QueueItem] = deque()
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._is_quiet = True
        """Whether `_news` is to be set with the next item."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        return len(self._items) >= self._max_frames or self._bytes >= self._max_bytes

    def try_put(self, frame: ReceivedFrame) -> bool:
        """Adds a frame unless the queue is full; returns whether it was added."""
        items = self._items
        if len(items) >= self._max_frames or self._bytes >= self._max_bytes:
            return False
        items.append(frame)
        self._bytes += len(frame.raw)
        if self._is_quiet:
            self._wake()
        return True

    def _wake(self) -> None:
        self._is_quiet = False
        self._news.set()

    async def put(self, frame: ReceivedFrame) -> None:
        """Adds a frame, waiting while the queue is full."""
        while not self.try_put(frame):
            self._room.clear()
            await self._room.wait()

    def put_mark(self, mark: SpanMark | EndOfFrames) -> None:
        """Adds a mark at once, full or not: marks are few and small, and must not be lost at a stop."""
        self._items.append(mark)
        self._wake()

    async def take(self, most: int) -> list[QueueItem]:
        """The oldest items, at most so many, waiting for one."""
        while not self._items:
            self._news.clear()
            self._is_quiet = True
            await self._news.wait()
        if len(self._items) <= most:
            items = list(self._items)
            self._items.clear()
            self._bytes = 0
        else:
            items = [self._items.popleft() for _ in range(most)]
            self._bytes -= sum(len(item.raw) for item in items if isinstance(item, ReceivedFrame))
        if not self._room.is_set():
            self._room.set()
        return items
