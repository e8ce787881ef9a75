"""Interleaved writers and readers keep the lake's promises, and the same seed gives the same order.

`python -m reliability.interleaving --seed N --minutes 0` plays a failing seed again.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from reliability.interleaving.scheduler import Scheduler, Violation
from reliability.interleaving.seeds import Lakes, play

SHORT = 22
MIGRATION = 10
NIGHTLY = range(5_000, 5_020)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Lakes:
    return Lakes(tmp_path_factory.mktemp("interleaving"))


@pytest.mark.component
def test_seed_holds_in_the_same_order_each_time(places: Lakes) -> None:
    first, second = play(places, SHORT), play(places, SHORT)
    assert not first.failure
    assert first.reads
    assert {"archive", "producer", "silver", "stream"} <= first.commits.keys()
    assert first.log == second.log


@pytest.mark.component
def test_old_lake_is_migrated_beside_its_stream(places: Lakes) -> None:
    played = play(places, MIGRATION)
    assert not played.failure
    assert {"migration", "stream"} <= played.commits.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", NIGHTLY)
def test_further_seeds_hold(places: Lakes, seed: int) -> None:
    assert not play(places, seed).failure


def test_one_actor_runs_at_a_time() -> None:
    scheduler, running = Scheduler(1), []

    def body() -> None:
        for _ in range(20):
            running.append(threading.get_ident())
            assert len(running) == 1
            running.pop()
            scheduler.point("works")

    for name in "abc":
        scheduler.add(name, body)
    scheduler.run()
    assert len(scheduler.log) >= 60


def test_actors_that_wait_for_each_other_are_reported() -> None:
    scheduler = Scheduler(1)
    scheduler.add("a", lambda: scheduler.wait_until(lambda: False, "nothing"))
    with pytest.raises(Violation, match="all actors wait: a"):
        scheduler.run()


def test_pauses_end_in_virtual_time() -> None:
    scheduler, ended = Scheduler(1), []

    def sleeper(name: str, seconds: float) -> None:
        scheduler.sleep(seconds)
        ended.append(name)

    scheduler.add("late", lambda: sleeper("late", 10_000))
    scheduler.add("early", lambda: sleeper("early", 5_000))
    began = scheduler.now
    scheduler.run()
    assert ended == ["early", "late"]
    assert scheduler.now - began >= 10_000


def test_killed_actor_has_no_further_effect_and_starts_again(tmp_path: Path) -> None:
    scheduler, lives = Scheduler(3), []
    scheduler.chances = scheduler.chances.__class__(stay=0.5, kill=0.2, jump=0, max_kills=2)

    def body() -> None:
        lives.append("begin")
        try:
            for number in range(10):
                scheduler.point("works")
                (tmp_path / str(number)).touch()
        finally:
            scheduler.point("cleans up")
            lives.append("clean end")

    scheduler.add("a", body)
    scheduler.run()
    assert lives == ["begin"] * 3 + ["clean end"]
