"""Part `soak`: the steps that run all day, on a lake of 2 simulated days and on one of 365."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Figure
from benchmarks.runner import Runner
from benchmarks.trades import DAY_MS

GENERATOR = 1  # increment when `soak_steps.lake` generates other data from the same parameters
STEPS = "benchmarks.soak_steps"
SEED = 11
FIRST_DAY_MS = 1_704_067_200_000  # 2024-01-01


@dataclass(frozen=True)
class Scale:
    """Size of the part: `symbols` that trade, and of the simulated days the `short` and the `long` lake."""

    symbols: int = 500
    short: int = 2
    long: int = 365
    rounds: int = 15


SMALL = Scale(symbols=20, long=8, rounds=3)


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Prepare the lakes if they are missing, measure each step, and return the figures."""
    taken = {days: _measure(runner, scale, days) for days in (scale.short, scale.long)}
    ratios = {
        step: round(taken[scale.long]["seconds"][step] / taken[scale.short]["seconds"][step], 3)
        for step in taken[scale.long]["seconds"]
    }
    detail = {
        "rule": f"largest ratio of a step's medians of {scale.rounds} rounds, day {scale.long} / day {scale.short}",
        "ratios": ratios,
        "short": taken[scale.short],
        "long": taken[scale.long],
    }
    return [Figure("soak_365_vs_2", max(ratios.values()), "ratio", "<= 1.2", detail)]


def _measure(runner: Runner, scale: Scale, days: int) -> dict[str, Any]:
    directory = runner.state / f"soak-{scale.symbols}-{days}"
    key = {"symbols": scale.symbols, "days": days, "seed": SEED, "generator": GENERATOR}
    arguments = {"home": directory / "lake", "symbols": scale.symbols, "first_ms": FIRST_DAY_MS, "days": days}
    if not runner.is_generated(directory, key):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        runner.step_of(STEPS, f"simulating {days} days of {scale.symbols} symbols", "lake", **arguments, seed=SEED)
        runner.step("sealing the lake", "seal", home=arguments["home"])
        runner.remember(directory, key)
    runner.step("restoring the lake", "restore", home=arguments["home"])
    with runner.exchange_clock(FIRST_DAY_MS + days * DAY_MS):
        title = f"measuring day {days}"
        taken = dict(
            runner.step_of(STEPS, title, "measure", **arguments, clock_url=runner.clock_url, rounds=scale.rounds)
        )
    for step, seconds in taken["seconds"].items():
        runner.print(f"  day {days}: {step:<20} {seconds * 1000:9.1f} ms")
    return taken
