"""Deterministic scheduler: actors run in threads of which one runs at a time; a seed chooses who goes on at each point.

An actor gives up the baton at points: before and after each access to the catalog or a file, at locks and pauses. The
clock is virtual: it advances at each point, and a pause ends when the clock reaches its end. The same seed gives the
same order.

An actor can be killed at a point: `Killed` is raised there and at every later point, so that no further access to the
catalog or a file takes effect, as after kill -9. The actor then starts again.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

START_S: Final = 1_798_761_600.0  # the virtual clock's start, 2027-01-01: after the tables of the template lake
MEAN_STEP_S: Final = 0.05
MAX_STEPS: Final = 60_000  # of one seed: more means that an actor never ends
STALL_CHANCE: Final = 1 / 150  # at a point: the actor stands still for up to `MAX_STALL` points of others
MAX_STALL: Final = 400
MAX_DOWN: Final = (100, 100, 1_500)  # points of others until a killed actor starts again, one of these at most


class Killed(BaseException):
    """The actor is dead: nothing that it still does may take effect."""


class Violation(AssertionError):
    """A broken promise."""


@dataclass
class Actor:
    """A thread that plays one process. `body` continues from what is stored, because it runs again after a kill."""

    name: str
    body: Callable[[], None]
    is_writer: bool = True  # readers go on until all writers have ended
    life: int = 1  # number of starts
    killed: bool = False
    ended: bool = False
    wakes_at: float = 0.0
    rests_until: int = 0  # number of the step until which the actor stands still
    waits_for: Callable[[], bool] | None = None
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0), repr=False)
    points: int = 0


@dataclass(frozen=True)
class Chances:
    """What a seed does how often."""

    stay: float  # that the actor at a point goes on
    kill: float  # that it is killed there
    jump: float  # that the clock jumps there
    max_kills: int

    @classmethod
    def drawn(cls, random: Random) -> Chances:
        return cls(
            stay=random.choice((0.0, 0.3, 0.7, 0.9)),
            kill=random.choice((0.0, 1 / 800, 1 / 300)),
            jump=random.choice((0.0, 1 / 600, 1 / 200)),
            max_kills=random.choice((1, 3, 6)),
        )


class Scheduler:
    """Runs the actors of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.chances = Chances.drawn(self.random)
        self.now = START_S
        self.steps = 0
        self.log: list[str] = []
        self.states: Counter[str] = Counter()
        self.failure: str | None = None
        self._actors: list[Actor] = []
        self._by_thread: dict[int, Actor] = {}
        self._quiet: set[int] = set()
        self._finished = threading.Event()
        self._kills = 0

    def add(self, name: str, body: Callable[[], None], *, is_writer: bool = True) -> None:
        self._actors.append(Actor(name, body, is_writer))

    def run(self) -> None:
        """Run all actors to their end. Raises `Violation` with the first failure."""
        threads = [threading.Thread(target=self._play, args=(actor,), daemon=True) for actor in self._actors]
        for actor, thread in zip(self._actors, threads, strict=True):
            thread.start()
            assert thread.ident is not None
            self._by_thread[thread.ident] = actor
        self._wake(self._choose())
        self._finished.wait()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise Violation(self.failure)

    @property
    def current(self) -> Actor | None:
        """The actor of this thread; None in other threads."""
        return self._by_thread.get(threading.get_ident())

    @property
    def writers_ended(self) -> bool:
        return all(actor.ended for actor in self._actors if actor.is_writer)

    def is_alive(self, *names: str) -> bool:
        """Return whether an actor with one of these first words has not ended."""
        return any(not actor.ended for actor in self._actors if actor.name.partition(" ")[0] in names)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Pass no point in this thread: for observers."""
        ident = threading.get_ident()
        if ident in self._quiet:
            yield
            return
        self._quiet.add(ident)
        try:
            yield
        finally:
            self._quiet.discard(ident)

    def point(self, what: str, danger: float = 1.0) -> None:
        """Let the seed choose who goes on; `danger` is how much likelier than elsewhere a kill is here.

        Raises `Killed` if this actor is dead.
        """
        actor = self.current
        if actor is None or threading.get_ident() in self._quiet:
            return
        if actor.killed or self.failure is not None:
            raise Killed
        self.steps += 1
        actor.points += 1
        self.log.append(f"{self.steps} {actor.name} {what}")
        self._advance()
        if self.steps > MAX_STEPS:
            self.fail(f"no end after {MAX_STEPS} steps")
            raise Killed
        if self._kills < self.chances.max_kills and self.random.random() < self.chances.kill * danger:
            self._kills += 1
            actor.killed = True
            self.states["killed"] += 1
            self.log.append(f"{self.steps} {actor.name} is killed")
            raise Killed
        if self.random.random() < STALL_CHANCE:
            actor.rests_until = self.steps + self.random.randrange(MAX_STALL)
        elif self.random.random() < self.chances.stay:
            return
        self._hand_over(actor)

    def sleep(self, seconds: float) -> None:
        """Pause the actor in virtual time."""
        actor = self.current
        assert actor is not None
        actor.wakes_at = self.now + seconds
        self.point("pauses")
        if actor.wakes_at > self.now:
            self._hand_over(actor)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Block the actor until the condition holds."""
        actor = self.current
        assert actor is not None
        while not condition():
            actor.waits_for = condition
            self.point(f"waits for {what}")
            if not condition():
                self._hand_over(actor)

    def fail(self, reason: str) -> None:
        """Record the first failure of the seed; the actors end."""
        if self.failure is None:
            self.failure = f"step {self.steps}: {reason}"

    def _advance(self) -> None:
        self.now += self.random.expovariate(1 / MEAN_STEP_S)
        if self.random.random() < self.chances.jump:
            self.now += self.random.uniform(5, 60)
            self.states["clock_jumped"] += 1

    def _hand_over(self, actor: Actor) -> None:
        """Let another actor run, until it is this one's turn again."""
        following = self._choose()
        if following is not actor:
            self._wake(following)
            actor.turn.acquire()
        actor.waits_for = None
        if self.failure is not None:
            raise Killed

    def _choose(self) -> Actor | None:
        """Return who goes on; None if all have ended."""
        alive = [actor for actor in self._actors if not actor.ended]
        if not alive or self.failure is not None:
            return alive[0] if alive else None
        ready = [actor for actor in alive if actor.waits_for is None or actor.waits_for()]
        awake = [actor for actor in ready if actor.wakes_at <= self.now and actor.rests_until <= self.steps]
        if awake:
            return awake[self.random.randrange(len(awake))]
        if not ready:
            self.fail(f"all actors wait: {', '.join(actor.name for actor in alive)}")
            return alive[0]
        following = min(ready, key=lambda actor: (actor.wakes_at, actor.rests_until))
        self.now = max(self.now, following.wakes_at)
        return following

    def _wake(self, following: Actor | None) -> None:
        if following is None:
            self._finished.set()
        else:
            following.turn.release()

    def _play(self, actor: Actor) -> None:
        actor.turn.acquire()
        while self.failure is None and not actor.ended:
            try:
                actor.body()
                actor.ended = True
            except Killed:
                if self.failure is None:
                    self._restart(actor)
            except BaseException as error:  # whatever it is, it is the seed's failure
                self.fail(f"{actor.name}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        actor.ended = True
        self._wake(self._choose())

    def _restart(self, actor: Actor) -> None:
        """Leave a killed actor down for a while."""
        actor.life += 1
        actor.killed = False
        actor.wakes_at = 0.0
        actor.rests_until = self.steps + self.random.randrange(self.random.choice(MAX_DOWN))
        try:
            self._hand_over(actor)
        except Killed:
            return
