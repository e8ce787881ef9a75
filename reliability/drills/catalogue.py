"""All actions of the drills, and the scenarios: which feed and settings a run has, and which actions it draws from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from reliability.drills import checkpoint_faults, exchange_faults, history_faults, process_faults, storage_faults
from reliability.drills.actions import Action
from reliability.drills.feed import Feed

AFTER_END_S: Final = 1_200  # the feed goes on after the planned end, for recoveries and quiet points


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A kind of run: its feed by seed and seconds, the settings that differ, and its actions."""

    name: str
    actions: tuple[Action, ...]
    feed: Callable[[int, int], Feed] = lambda seed, seconds: Feed(seed, seconds + AFTER_END_S)
    settings: Mapping[str, object] = field(default_factory=dict)


RANDOM: Final = Scenario(
    name="random",
    actions=(
        *process_faults.ACTIONS,
        *storage_faults.ACTIONS,
        *checkpoint_faults.ACTIONS,
        *history_faults.ACTIONS,
        *exchange_faults.ACTIONS,
    ),
)
SCENARIOS: Final = {scenario.name: scenario for scenario in (RANDOM,)}
