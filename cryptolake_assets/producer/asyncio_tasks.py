"""Small helpers for asyncio tasks that end together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Does the work unless a stop comes first; returns whether it was done."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        await cancelled([task, stopped])


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and waits until they have ended, however they did."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def heed_cancellation() -> None:
    """Raises the `CancelledError` that a library has swallowed: `asyncio.wait_for` of Python 3.11, with which picows
    closes a connection, drops one that comes in the moment in which its work ends. To be called by a loop whose turns
    would else go on for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
