"""The times of coverage rounds: at the interval, and right after the end of each minute of the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

from cryptolake_assets.producer.coverage_loop import CoverageLoop
from cryptolake_assets.producer.coverage_statements import CoverageWriter
from reliability.simulation.virtual_loop import VirtualLoop

GRACE_MS = 2_000


class Market:
    """A market whose newest frame has the time of `clock`; without barriers and claims."""

    def __init__(self, clock: Callable[[], int | None]) -> None:
        self.newest_ms = clock
        self.claims = None

    async def send_barriers(self) -> None: ...

    def check_stale_symbols(self) -> None: ...


class Rounds:
    """A writer that notes the time of each round."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    async def write(self, _claims: Any) -> bool:
        self.times_s.append(round(asyncio.get_running_loop().time(), 3))
        return True


def rounds(clock: Callable[[float], int | None], until_s: float) -> list[float]:
    """Return the times of the rounds; `clock` maps the loop's time to that of the newest frame."""

    async def run() -> list[float]:
        loop, writer = asyncio.get_running_loop(), Rounds()
        market = Market(lambda: clock(loop.time()))
        coverage = CoverageLoop(
            lambda: [cast(Any, market)],
            cast(CoverageWriter, writer),
            interval_s=5.0,
            grace_ms=GRACE_MS,
            barrier_wait_s=1.0,
        )
        task = asyncio.create_task(coverage.run())
        await asyncio.sleep(until_s)
        coverage.stop()
        await task
        return writer.times_s

    loop = VirtualLoop()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def test_round_follows_the_end_of_each_minute_by_the_grace() -> None:
    begin_ms = 3 * 60_000 + 43_000
    found = rounds(lambda now_s: begin_ms + round(now_s * 1_000), 90)
    assert found[:6] == [5, 10, 15, 19.1, 24.1, 29.1], "the minute ends at 17 s"
    assert 79.1 in found
    assert max(after - before for before, after in pairwise(found)) <= 5


def test_paused_exchange_gets_no_more_rounds_than_the_interval() -> None:
    found = rounds(lambda now_s: min(60_000 + round(now_s * 1_000), 60_000 + 61_500), 80)
    assert [time_s for time_s in found if time_s > 62] == [62.1, 67.1, 72.1, 77.1]


def test_without_a_frame_rounds_keep_the_interval() -> None:
    assert rounds(lambda _: None, 16) == [5, 10, 15]
