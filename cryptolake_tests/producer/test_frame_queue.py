"""The queue is bounded in frames and bytes, keeps the order, and accepts marks even when full."""

from __future__ import annotations

import asyncio

from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.frame_queue import EndOfFrames, FrameQueue, ReceivedFrames, SpanMark

SPAN = ConnectionSpan("test", ())


def frames(*raws: bytes) -> ReceivedFrames:
    return ReceivedFrames(SPAN, 0, list(raws))


async def test_take_returns_items_in_order_up_to_enough_frames() -> None:
    queue = FrameQueue()
    first, mark, second, third = frames(b"1"), SpanMark(SPAN, ended=False), frames(b"2", b"3"), frames(b"4")
    queue.put(first)
    queue.put_mark(mark)
    queue.put(second)
    queue.put(third)
    assert len(queue) == 4
    assert await queue.take(2) == [first, mark, second]
    assert len(queue) == 1
    assert await queue.take(2) == [third]


async def test_full_queue_makes_the_reader_wait_for_room() -> None:
    queue = FrameQueue(max_frames=2)
    await queue.wait_for_room()
    queue.put(frames(b"1"))
    await queue.wait_for_room()
    queue.put(frames(b"2", b"3"))
    waiting = asyncio.create_task(queue.wait_for_room())
    await asyncio.sleep(0)
    assert queue.is_full
    assert not waiting.done()
    assert [item.raws for item in await queue.take(1) if isinstance(item, ReceivedFrames)] == [[b"1"]]
    await asyncio.sleep(0)
    assert not waiting.done()  # two frames still fill the queue
    await queue.take(1)
    await waiting
    assert len(queue) == 0


async def test_byte_limit_applies_to_large_frames() -> None:
    queue = FrameQueue(max_frames=1000, max_bytes=10)
    queue.put(frames(b"x" * 9))
    await queue.wait_for_room()
    queue.put(frames(b"y"))
    waiting = asyncio.create_task(queue.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await queue.take(1)
    await waiting


async def test_full_queue_accepts_marks() -> None:
    queue = FrameQueue(max_frames=1)
    queue.put(frames(b"1"))
    queue.put_mark(EndOfFrames())
    assert isinstance((await queue.take(10))[1], EndOfFrames)


async def test_take_waits_for_the_first_item() -> None:
    queue = FrameQueue()
    taken = asyncio.create_task(queue.take(5))
    await asyncio.sleep(0)
    assert not taken.done()
    queue.put(frames(b"1"))
    assert len(await taken) == 1
