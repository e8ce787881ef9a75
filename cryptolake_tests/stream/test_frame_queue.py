"""The queue is bounded in frames and bytes, keeps the order, and never refuses a mark."""

from __future__ import annotations

import asyncio

from cryptolake_assets.stream.coverage import ConnectionSpan
from cryptolake_assets.stream.frame_queue import EndOfFrames, FrameQueue, ReceivedFrame, SpanMark

SPAN = ConnectionSpan("test", ())


def frame(raw: bytes) -> ReceivedFrame:
    return ReceivedFrame(SPAN, 0, raw)


async def test_items_come_out_in_order() -> None:
    queue = FrameQueue()
    items = [frame(b"1"), SpanMark(SPAN, ended=False), frame(b"2")]
    await queue.put(items[0])  # type: ignore[arg-type]
    queue.put_mark(items[1])  # type: ignore[arg-type]
    await queue.put(items[2])  # type: ignore[arg-type]
    assert await queue.take(2) == items[:2]
    assert await queue.take(2) == items[2:]


async def test_a_full_queue_makes_the_reader_wait_until_there_is_room() -> None:
    queue = FrameQueue(max_frames=2)
    assert queue.try_put(frame(b"1"))
    assert queue.try_put(frame(b"2"))
    assert not queue.try_put(frame(b"3"))
    waiting = asyncio.create_task(queue.put(frame(b"3")))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert [item.raw for item in await queue.take(1) if isinstance(item, ReceivedFrame)] == [b"1"]
    await waiting
    assert len(queue) == 2


async def test_the_bound_in_bytes_holds_for_large_frames() -> None:
    queue = FrameQueue(max_frames=1000, max_bytes=10)
    assert queue.try_put(frame(b"x" * 10))
    assert not queue.try_put(frame(b"y"))
    await queue.take(10)
    assert queue.try_put(frame(b"y"))


async def test_a_waiting_reader_that_is_cancelled_leaves_no_frame_behind() -> None:
    queue = FrameQueue(max_frames=1)
    assert queue.try_put(frame(b"1"))
    waiting = asyncio.create_task(queue.put(frame(b"2")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await queue.take(10)
    assert len(queue) == 0


async def test_marks_are_taken_even_when_full() -> None:
    queue = FrameQueue(max_frames=1)
    assert queue.try_put(frame(b"1"))
    queue.put_mark(EndOfFrames())
    assert isinstance((await queue.take(10))[1], EndOfFrames)


async def test_take_waits_for_the_first_item() -> None:
    queue = FrameQueue()
    taken = asyncio.create_task(queue.take(5))
    await asyncio.sleep(0)
    assert not taken.done()
    queue.try_put(frame(b"1"))
    assert len(await taken) == 1
