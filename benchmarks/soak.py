"""Part `soak`: the steps that run all day, on a lake of 2 simulated days and on one of 365."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import Figure
from benchmarks.runner import Runner
from benchmarks.trades import DAY_MS

GENERATOR = 4  # increment when `soak_lake` generates other data from the same parameters
STEPS = "benchmarks.soak_steps"
SEED = 11


@dataclass(frozen=True)
class Scale:
    """Size of the part: `symbols` that trade, and of the simulated days the `short` and the `long` lake."""

    symbols: int = 500
    short: int = 2
    long: int = 365
    rounds: int = 15


SMALL = Scale(symbols=20, long=8, rounds=3)


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Prepare the lakes if they are missing, measure each step on both in turn, and return the figures."""
    # Dagster's partitions end now, so the days end today.
    end_ms = int(datetime.now(UTC).timestamp() * 1000) // DAY_MS * DAY_MS
    with runner.exchange_clock(end_ms):
        homes = {str(days): _lake(runner, scale, days, end_ms) for days in (scale.short, scale.long)}
        arguments = {"homes": homes, "symbols": scale.symbols, "end_ms": end_ms, "rounds": scale.rounds}
        taken: dict[str, Any] = runner.step_of(STEPS, "measuring", "measure", **arguments, clock_url=runner.clock_url)
    ratios = {}
    for step, seconds in taken["seconds"].items():
        short_s, long_s = seconds[str(scale.short)], seconds[str(scale.long)]
        ratios[step] = round(long_s / short_s, 3)
        cpu = taken["cpu_seconds"][step]
        runner.print(
            f"  {step:<20} {short_s * 1000:9.1f} ms {long_s * 1000:9.1f} ms {ratios[step]:6.2f}, CPU "
            f"{cpu[str(scale.short)] * 1000:9.1f} ms {cpu[str(scale.long)] * 1000:9.1f} ms"
        )
    detail = {
        "rule": f"largest ratio of a step's medians of {scale.rounds} rounds, day {scale.long} / day {scale.short}",
        "ratios": ratios,
        **taken,
    }
    return [Figure("soak_365_vs_2", max(ratios.values()), "ratio", "<= 1.2", detail)]


def _lake(runner: Runner, scale: Scale, days: int, end_ms: int) -> Path:
    """Return the home of the simulated lake of `days` days, sealed and restored."""
    directory = runner.state / f"soak-{scale.symbols}-{days}"
    key = {"symbols": scale.symbols, "days": days, "end_ms": end_ms, "seed": SEED, "generator": GENERATOR}
    home = directory / "lake"
    if not runner.is_generated(directory, key):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        runner.step_of(
            STEPS,
            f"simulating {days} days of {scale.symbols} symbols",
            "lake",
            home=home,
            symbols=scale.symbols,
            first_ms=end_ms - days * DAY_MS,
            days=days,
            seed=SEED,
            clock_url=runner.clock_url,
        )
        runner.step("sealing the lake", "seal", home=home)
        runner.remember(directory, key)
    runner.step("restoring the lake", "restore", home=home)
    return home
