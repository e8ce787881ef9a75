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
    from cryptolake_assets.producer.coverage_statements import ConnectionSpan

MAX_FRAMES: Final = 50_000
MAX_BYTES: Final = 64 * 1024 * 1024


class ReceivedFrames(Struct, frozen=True, eq=False, gc=False):
    """WebSocket messages as they came, one behind the other and within a fraction of a millisecond."""

    span: ConnectionSpan
    """The connection that they came by."""
    received_at_us: int
    """When the first of them came, µs since 1970, UTC, by this machine's clock."""
    raws: list[bytes]


class SpanMark(Struct, frozen=True, eq=False):
    """A place in the order of a connection's frames about which coverage is to be stated."""

    span: ConnectionSpan
    ended: bool
    """Whether no frame of the connection follows."""


class EndOfFrames(Struct, frozen=True, eq=False):
    """Nothing follows: the publisher task ends here."""


QueueItem = ReceivedFrames | SpanMark | EndOfFrames


class FrameQueue:
    """First in, first out; many readers put, one publisher task takes."""

    def __init__(self, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self._items: deque[tuple[QueueItem, int]] = deque()
        """With the bytes of each."""
        self._frames = 0
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """Frames that wait."""
        return self._frames

    @property
    def is_full(self) -> bool:
        return self._frames >= self._max_frames or self._bytes >= self._max_bytes

    async def room(self) -> None:
        """Waits while the queue is full."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    def put(self, frames: ReceivedFrames) -> None:
        """Adds frames, room or not: whoever puts waits for `room` before it takes a handful from its socket."""
        size_bytes = sum(map(len, frames.raws))
        self._frames += len(frames.raws)
        self._bytes += size_bytes
        self._items.append((frames, size_bytes))
        self._news.set()

    def put_mark(self, mark: SpanMark | EndOfFrames) -> None:
        """Adds a mark at once, full or not: marks are few and small, and must not be lost at a stop."""
        self._items.append((mark, 0))
        self._news.set()

    async def take(self, enough: int) -> list[QueueItem]:
        """The oldest items, with no more frames than are enough but for a handful, waiting for one item."""
        while not self._items:
            self._news.clear()
            await self._news.wait()
        items: list[QueueItem] = []
        frames = 0
        while self._items and frames < enough:
            item, size_bytes = self._items.popleft()
            items.append(item)
            if type(item) is ReceivedFrames:
                frames += len(item.raws)
                self._bytes -= size_bytes
        self._frames -= frames
        if not self._room.is_set():
            self._room.set()
        return items
