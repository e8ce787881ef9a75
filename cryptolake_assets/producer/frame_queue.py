"""The queue between the socket readers and the publisher task, bounded in frames and in bytes.

Backpressure: when the queue is full, readers pause, the socket buffers fill, and TCP slows the exchange down. Memory
stays bounded even without a broker.
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
    """WebSocket messages in order of receipt, received within a fraction of a millisecond."""

    span: ConnectionSpan  # of the receiving connection
    received_at_us: int  # receive time of the first, µs since 1970, UTC, by this machine's clock
    raws: list[bytes]


class SpanMark(Struct, frozen=True, eq=False):
    """A point in a connection's frame order for which coverage is to be claimed."""

    span: ConnectionSpan
    ended: bool  # no frame of the connection follows


class EndOfFrames(Struct, frozen=True, eq=False):
    """The last item: the publisher task ends here."""


QueueItem = ReceivedFrames | SpanMark | EndOfFrames


class FrameQueue:
    """A FIFO queue: many readers put, one publisher task takes."""

    def __init__(self, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self._items: deque[tuple[QueueItem, int]] = deque()  # each with its size in bytes
        self._frames = 0
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._room = asyncio.Event()
        self._has_items = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return self._frames

    @property
    def is_full(self) -> bool:
        return self._frames >= self._max_frames or self._bytes >= self._max_bytes

    async def wait_for_room(self) -> None:
        """Wait while the queue is full."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    def put(self, frames: ReceivedFrames) -> None:
        """Add frames without waiting for room: readers await `wait_for_room` before each batch."""
        size_bytes = sum(map(len, frames.raws))
        self._frames += len(frames.raws)
        self._bytes += size_bytes
        self._items.append((frames, size_bytes))
        self._has_items.set()

    def put_mark(self, mark: SpanMark | EndOfFrames) -> None:
        """Add a mark at once, even to a full queue: marks are few and small, and must not be lost at a stop."""
        self._items.append((mark, 0))
        self._has_items.set()

    async def take(self, enough: int) -> list[QueueItem]:
        """Pop the oldest items, about `enough` frames; wait until there is at least one."""
        while not self._items:
            self._has_items.clear()
            await self._has_items.wait()
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
