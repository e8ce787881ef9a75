"""Hypothesis drives the simulated world: it makes schedules, and shrinks those that break a promise."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reliability.simulation.actions import KINDS, Action, perform
from reliability.simulation.schedules import settle
from reliability.simulation.world import World


class SimulationMachine(RuleBasedStateMachine):
    """Any order of actions and pauses; the promises hold after each, and all is repaired at the end."""

    world: World | None = None

    @initialize(seed=st.integers(1, 1_000))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.world.start()
        self.world.run(20.0)

    @rule(
        kind=st.sampled_from(sorted(KINDS)),
        after_s=st.floats(0.0, 120.0),
        lasts=st.floats(0.0, 1.0),
        count=st.floats(0.0, 1.0),
        pick=st.floats(0.0, 1.0, exclude_max=True),
    )
    def act(self, kind: str, after_s: float, lasts: float, count: float, pick: float) -> None:
        (shortest, longest), (fewest, most) = KINDS[kind].lasts_s, KINDS[kind].count
        lasts_s = shortest + lasts * (longest - shortest)
        assert self.world is not None
        perform(self.world, Action(kind, after_s, lasts_s, fewest + round(count * (most - fewest)), pick))

    @rule(seconds=st.floats(0.1, 300.0))
    def wait(self, seconds: float) -> None:
        assert self.world is not None
        self.world.run(seconds)

    @invariant()
    def promises_hold(self) -> None:
        assert self.world is None or self.world.violations == []

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            if not self.world.violations:
                problems = settle(self.world)
                assert [*self.world.violations, *problems] == []
        finally:
            self.world.close()


SimulationMachine.TestCase.settings = settings(
    max_examples=4, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_schedule = SimulationMachine.TestCase


class LongSimulationMachine(SimulationMachine):
    """The same with more and longer schedules."""


LongSimulationMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_long_schedule = pytest.mark.nightly(LongSimulationMachine.TestCase)
