"""All actions of the drills, and the scenarios: which feed and settings a run has, and which actions it draws from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from reliability.drills import (
    checkpoint_faults,
    exchange_faults,
    history_faults,
    last_trades,
    load_faults,
    process_faults,
    storage_faults,
)
from reliability.drills.actions import Action
from reliability.drills.feed import Feed, minute_begin
from reliability.drills.oracle import DEADLINE_S

AFTER_END_S: Final = 1_200  # the feed goes on after the planned end, for recoveries and quiet points


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A kind of run: its feed by seed and seconds, the settings that differ, and its actions."""

    name: str
    actions: tuple[Action, ...]
    feed: Callable[[int, int], Feed] = lambda seed, seconds: Feed(seed, seconds + AFTER_END_S)
    settings: Mapping[str, object] = field(default_factory=dict)
    is_live: bool = False  # the exchange shows the present time, shifted by the feed's begin
    deadline_s: float = DEADLINE_S  # for a fault's recovery, and for a quiet point
    rounds: str = ""  # a list of actions; empty: drawn ones


RANDOM: Final = Scenario(
    name="random",
    actions=(
        *process_faults.ACTIONS,
        *storage_faults.ACTIONS,
        *checkpoint_faults.ACTIONS,
        *history_faults.ACTIONS,
        *exchange_faults.ACTIONS,
        *last_trades.ACTIONS,
        *load_faults.ACTIONS,
    ),
)
# A round waits for the burst, and all that the exchange dropped meanwhile is repaired from REST, page by page.
OVERLOAD: Final = Scenario(
    name="overload",
    actions=load_faults.OVERLOAD_ACTIONS,
    feed=load_faults.overload_feed,
    deadline_s=1_800.0,
    rounds="overload:at_s=1",  # the feed has one burst
)
SKEW_MIN: Final = 10  # between the exchange's clock and this machine's, less the time that the platform takes to start


def _skewed(name: str, minutes: int) -> Scenario:
    return Scenario(
        name=name,
        actions=(*process_faults.ACTIONS, *exchange_faults.ACTIONS),
        feed=lambda seed, seconds: Feed(seed, seconds + AFTER_END_S, begins=minute_begin(minutes)),
        is_live=True,
    )


BEHIND: Final = _skewed("exchange_behind", -SKEW_MIN)
AHEAD: Final = _skewed("exchange_ahead", SKEW_MIN)
SCENARIOS: Final = {scenario.name: scenario for scenario in (RANDOM, OVERLOAD, BEHIND, AHEAD)}
