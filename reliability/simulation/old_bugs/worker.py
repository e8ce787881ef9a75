"""Simulate consecutive seeds until one has a violation; print the result as JSON. Runs in a patched tree."""

from __future__ import annotations

import sys
import time

import msgspec

from reliability.simulation.old_bugs.search import Search
from reliability.simulation.schedules import simulate


def search_here(first_seed: int, seeds: int) -> Search:
    """Return the first violation of these seeds, in the tree that is imported."""
    begin, hours = time.process_time(), 0.0
    for seed in range(first_seed, first_seed + seeds):
        try:
            outcome = simulate(seed)
        except Exception as error:
            violation = f"{type(error).__name__}: {error}"
        else:
            hours += outcome.hours
            violation = outcome.violations[0] if outcome.violations else ""
        if violation:
            tried = seed - first_seed + 1
            return Search(seed, tried, time.process_time() - begin, hours, violation)
    return Search(None, seeds, time.process_time() - begin, hours)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(search_here(int(sys.argv[1]), int(sys.argv[2]))) + b"\n")
