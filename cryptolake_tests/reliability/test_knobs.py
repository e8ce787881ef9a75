"""The bounds that a simulation changes are the product's, and are restored."""

from __future__ import annotations

from random import Random

from cryptolake_assets.producer import gap_tracker
from reliability.simulation import knobs


def test_changed_bounds_are_restored() -> None:
    before: int = gap_tracker.MAX_OPEN
    with knobs.set_to({"MAX_OPEN": 2}):
        assert vars(gap_tracker)["MAX_OPEN"] == 2
    assert before == gap_tracker.MAX_OPEN
    with knobs.set_to({name: values[0] for _, name, values in knobs.BOUNDS}):
        assert all(getattr(module, name) == values[0] for module, name, values in knobs.BOUNDS)


def test_bounds_are_drawn_from_the_seed() -> None:
    found = [knobs.drawn(Random(seed)) for seed in range(20)]  # noqa: S311  seeded
    assert found == [knobs.drawn(Random(seed)) for seed in range(20)]  # noqa: S311  seeded
    assert {name for each in found for name in each} == {name for _, name, _ in knobs.BOUNDS}
