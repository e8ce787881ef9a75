"""Bounds of the product that a simulation makes small, drawn from its seed.

A bound such as 1,000 open gaps of a symbol is rarely reached in an hour, a small one often.
The promises hold with each of these values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from types import ModuleType
from typing import Final
from unittest.mock import patch

from cryptolake_assets.producer import dispatch, gap_repair, gap_tracker
from cryptolake_assets.transform import follow_bronze

CHANGED: Final = 0.5  # share of seeds that change a bound

BOUNDS: Final[Sequence[tuple[ModuleType, str, Sequence[float]]]] = (
    (gap_tracker, "MAX_OPEN", (2, 3, 5)),
    (gap_tracker, "MAX_REJECTED", (3, 20)),
    (gap_repair, "PAGES_PER_ROUND", (1, 2)),
    (dispatch, "FRAMES_AT_ONCE", (2, 20)),
    (follow_bronze, "FULL_SEARCH_S", (300.0, 900.0)),
)


def drawn(random: Random) -> dict[str, float]:
    """Return the changed bounds by name."""
    return {name: random.choice(values) for _, name, values in BOUNDS if random.random() < CHANGED}


@contextmanager
def set_to(values: dict[str, float]) -> Iterator[None]:
    """Set these bounds, and restore them at the end."""
    with ExitStack() as stack:
        for module, name, _ in BOUNDS:
            if name in values:
                stack.enter_context(patch.object(module, name, values[name]))
        yield
