"""Shorten the schedule of a violation: which of its actions are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from reliability.simulation.actions import Action


def without(actions: Sequence[Action], removed: Sequence[int]) -> list[Action]:
    """Return the actions without those at the removed places; the others stay at their times."""
    kept: list[Action] = []
    wait_s = 0.0
    for number, action in enumerate(actions):
        wait_s += action.after_s
        if number not in removed:
            kept.append(msgspec.structs.replace(action, after_s=round(wait_s, 3)))
            wait_s = 0.0
    return kept


def shortened(actions: Sequence[Action], fails: Callable[[Sequence[Action]], bool], attempts: int = 40) -> list[Action]:
    """Return a sublist that still fails, from which no single action can be removed, or the best after `attempts`.

    Removes ever smaller runs of actions (delta debugging).
    """
    shortest, size = list(actions), max(1, len(actions) // 2)
    while shortest:
        is_shorter = False
        start = 0
        while start < len(shortest):
            if not attempts:
                return shortest
            attempts -= 1
            shorter = without(shortest, range(start, min(start + size, len(shortest))))
            if fails(shorter):
                shortest, is_shorter = shorter, True
            else:
                start += size
        if size == 1 and not is_shorter:
            break
        size = max(1, size // 2)
    return shortest
