"""An asyncio event loop on virtual time: it never waits, and jumps to the next timer when nothing is ready.

It has no selector, no sockets and no threads. `run_in_executor` runs jobs on the loop itself, after a delay.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import Future, TimerHandle
from collections import deque
from collections.abc import Callable
from typing import Any

Job = Callable[[], Any]


class DeadlockError(Exception):
    """Nothing is ready and no timer is set: the loop would wait forever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop; its time is in s since its creation.

    `delays` returns, per executor job, the seconds before it takes effect and those until its result is known.
    """

    _ready: deque[Any]
    _scheduled: list[Any]
    _timer_cancelled_count: int

    def __init__(self, delays: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)) -> None:
        super().__init__()
        self._now = 0.0
        self._delays = delays
        self._jobs: dict[Future[Any], TimerHandle] = {}  # those without effect yet
        self._stopping = False

    def time(self) -> float:
        return self._now

    def run_until(self, when: float) -> None:
        """Run until this time."""
        end = self.call_at(when, self.stop)
        try:
            self.run_forever()
        finally:
            end.cancel()

    def drop_jobs(self) -> None:
        """Drop executor jobs that have not taken effect yet, as the end of their process does."""
        for handle in self._jobs.values():
            handle.cancel()
        self._jobs.clear()

    def run_in_executor(  # type: ignore[override]
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> Future[Any]:
        """Run the job after its delay, even if the returned future is cancelled: a thread cannot be stopped."""
        future: Future[Any] = self.create_future()
        before_s, after_s = self._delays()
        self._jobs[future] = self.call_later(before_s, self._run_job, future, func, args, after_s)
        return future

    def _run_job(self, future: Future[Any], func: Callable[..., Any], args: tuple[Any, ...], after_s: float) -> None:
        del self._jobs[future]
        try:
            result = func(*args)
        except Exception as error:
            self.call_later(after_s, _finish, future, None, error)
        else:
            self.call_later(after_s, _finish, future, result, None)

    def _run_once(self) -> None:
        """Run one iteration, like the base class, with a jump in time instead of a wait."""
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not ready and not self._stopping:
            if not scheduled:
                raise DeadlockError("simulation: nothing is scheduled")
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _finish(future: Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
