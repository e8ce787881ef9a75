"""Part `scale`: rebuild Silver from 1, 2 and 4 times the trades, and with 1 and 2 workers of a Spark cluster."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import Figure
from benchmarks.runner import BenchmarkError, Runner
from benchmarks.trades import DAY, DAY_MS
from cryptolake_assets.errors import CryptolakeError
from cryptolake_tests.support.standalone import spark_cluster

SEED = 7
GENERATOR = 1  # increment when `scale_steps.lake` generates other data from the same parameters
STEPS = "benchmarks.scale_steps"
SIZES = (1, 2, 4)  # trades of each day, as multiples of the first day's
SHARED_SIZE = 4  # the day rebuilt with one worker and with two


@dataclass(frozen=True)
class Scale:
    """Size of the part. `trades` is the number of trades of the smallest day."""

    trades: int = 4_000_000
    rounds: int = 3
    warm_up: int = 2  # unmeasured rebuilds, for JIT compilation in driver and executors


SMALL = Scale(20_000, rounds=1, warm_up=1)


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Prepare the lake if it is missing, measure, and return the figures."""
    directory = runner.state / f"scale-{scale.trades}"
    home = directory / "lake"
    key = {"trades": scale.trades, "sizes": SIZES, "seed": SEED, "generator": GENERATOR}
    if not runner.is_generated(directory, key):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        title = f"writing {sum(SIZES) * scale.trades:,} trades"
        made = runner.step_of(STEPS, title, "lake", home=home, trades=scale.trades, sizes=SIZES, seed=SEED)
        runner.remember(directory, key, made)
    made = runner.recall(directory)
    with runner.exchange_clock(int(DAY.timestamp() * 1000) + DAY_MS):
        two = _measure(runner, home, scale, workers=2, sizes=SIZES)
        one = _measure(runner, home, scale, workers=1, sizes=(SHARED_SIZE,))
    read = {**one["rows"], **two["rows"]}
    if any(read[size] != made[size]["rows"] for size in read):
        raise BenchmarkError(f"rows are missing: read {read}, expected {made}")
    if two["bars_sha256"] != one["bars_sha256"]:
        raise BenchmarkError("one and two workers built different bars from the same trades")
    runner.print("  one and two workers built equal bars")
    return _figures(scale, made, two, one)


def _measure(runner: Runner, home: Path, scale: Scale, workers: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Start a cluster with `workers` workers, run all rounds on it, and stop it."""
    directory = home.parent / f"workers-{workers}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    lake = {"home": home, "clock_url": runner.clock_url}
    try:
        with spark_cluster(directory, workers) as cluster:
            runner.step_of(STEPS, f"starting Spark with {workers} workers", "spark_up", home=home, master=cluster.url)
            try:
                runner.step("emptying Silver", "prepare_rebuild", **lake)
                days = {"all_sizes": SIZES, "sizes": sizes, "shared": SHARED_SIZE}
                repetitions = {"warm_up": scale.warm_up, "rounds": scale.rounds}
                title = f"rebuilding Silver with {workers} workers"
                return dict(runner.step_of(STEPS, title, "rebuilds", **lake, **days, **repetitions))
            finally:
                runner.step("stopping Spark", "spark_down", home=home)
    except CryptolakeError as error:
        raise BenchmarkError(str(error)) from error


def _figures(scale: Scale, made: dict[str, Any], two: dict[str, Any], one: dict[str, Any]) -> list[Figure]:
    rows = [
        {
            "workers": workers,
            "size": int(size),
            "rows": made[size]["rows"],
            "bytes": made[size]["bytes"],
            "seconds": median(all_seconds),
            "rows_per_s": round(made[size]["rows"] / median(all_seconds)),
            "all_seconds": all_seconds,
        }
        for workers, taken in ((2, two), (1, one))
        for size, all_seconds in taken["seconds"].items()
    ]
    seconds = {(row["workers"], row["size"]): row["seconds"] for row in rows}
    rule = f"medians of {scale.rounds} rounds, days in turn"
    detail = {"rule": rule, "rebuilds": rows, "executor_cores": 1}
    data = round(seconds[2, 4] / seconds[2, 1], 3)
    workers = round(seconds[1, SHARED_SIZE] / seconds[2, SHARED_SIZE], 3)
    return [
        Figure("data_4x_vs_1x", data, "ratio", "<= 4", detail),
        Figure("workers_2_vs_1", workers, "ratio", ">= 1.5", {"rule": rule}),
    ]
