"""The simulation: virtual time, the same events for the same seed, shortened schedules, and seeds of found faults."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from random import Random

import pytest

from reliability.simulation.actions import KINDS, Action, draw
from reliability.simulation.schedules import schedule_of, simulate
from reliability.simulation.shorten import shortened, without
from reliability.simulation.virtual_loop import DeadlockError, VirtualLoop


def test_virtual_time_passes_without_waiting() -> None:
    loop = VirtualLoop(lambda: (2.0, 1.0))

    async def work() -> list[object]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):
                await asyncio.Event().wait()
        return [loop.time(), await asyncio.to_thread(int, "7"), loop.time()]

    assert loop.run_until_complete(work()) == [3_600.0, 7, 3_603.0]
    loop.run_until(10_000.0)
    assert loop.time() == 10_000.0
    loop.close()


def test_loop_without_timers_is_a_deadlock() -> None:
    loop = VirtualLoop()
    with pytest.raises(DeadlockError):
        loop.run_until_complete(asyncio.Event().wait())


def test_dropped_jobs_have_no_effect() -> None:
    loop = VirtualLoop(lambda: (5.0, 0.0))
    done: list[int] = []
    loop.run_in_executor(None, done.append, 1)
    loop.run_until(4.0)
    loop.drop_jobs()
    loop.run_until(10.0)
    assert done == []
    loop.close()


_DIGEST = "from reliability.simulation.schedules import simulate; print(simulate(3).digest)"


def test_same_seed_gives_the_same_events_in_two_processes() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert digests[0] == digests[1] != ""


# Seeds that found faults of the product when they were added.
@pytest.mark.parametrize("seed", [2, 12, 20])
def test_promises_hold(seed: int) -> None:
    assert simulate(seed).violations == []


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_promises_hold_with_one_kind_of_fault(kind: str) -> None:
    random = Random(f"one kind: {kind}")  # noqa: S311
    drawn = (draw(random) for _ in range(100_000))
    actions = [action for action in drawn if action.kind == kind][:4]
    assert simulate(1, actions).violations == []


def test_schedule_is_shortened_to_the_needed_actions() -> None:
    actions = [Action("cut", after_s=float(number), count=number) for number in range(20)]

    def fails(shorter: Sequence[Action]) -> bool:
        return {3, 17} <= {action.count for action in shorter}

    found = shortened(actions, fails)
    assert [action.count for action in found] == [3, 17]
    assert [action.after_s for action in found] == [sum(range(4)), sum(range(4, 18))], "they stay at their times"


def test_removed_actions_keep_the_times_of_the_others() -> None:
    actions = schedule_of(1)
    times = [sum(action.after_s for action in actions[: place + 1]) for place in range(len(actions))]
    left = without(actions, [0, 2])
    assert sum(action.after_s for action in left) == pytest.approx(times[-1], abs=0.1)
