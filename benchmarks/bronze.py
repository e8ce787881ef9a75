"""Figures of part `ingest` from Kafka to Bronze: throughput against a bare query, and the cost of two families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import Figure
from benchmarks.runner import Runner

STEPS = "benchmarks.bronze_steps"
TOPIC = "bronze"


@dataclass(frozen=True)
class BronzeScale:
    rows: int = 2_000_000
    rounds: int = 3
    warm_up: int = 1  # unmeasured rounds, for JIT compilation in the server
    steady_per_s: int = 1_000
    steady_s: int = 60
    steady_rounds: int = 2


def measure(runner: Runner, home: Path, scale: BronzeScale) -> list[Figure]:
    """Measure both alternately on one Spark server. The broker of `home` must be running."""
    arguments = {"home": home, "topic": TOPIC, "rows": scale.rows}
    filled = runner.step_of(STEPS, f"writing {scale.rows:,} events", "fill", **arguments)
    assert filled == scale.rows
    runner.step_of(STEPS, "starting Spark", "spark_up", home=home)
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(-scale.warm_up, scale.rounds):
        label = f"round {number + 1} of {scale.rounds}" if number >= 0 else "warming up"
        rounds.append(
            {
                "bare": runner.step_of(
                    STEPS, f"bare Spark to Parquet, {label}", "bare", **arguments, out=home / "bare"
                ),
                "ours": runner.step_of(STEPS, f"Kafka to Bronze, {label}", "stream", **arguments),
            }
        )
    measured = rounds[scale.warm_up :]
    ratios = [round(one["ours"]["rows_per_s"] / one["bare"]["rows_per_s"], 3) for one in measured]
    rows_per_s = {kind: round(median(one[kind]["rows_per_s"] for one in measured)) for kind in ("bare", "ours")}
    rejected_lag_s = median(one["ours"]["with_rejected_s"] - one["ours"]["query_s"] for one in measured)
    detail = {
        "rows": scale.rows,
        "rounds": ratios,
        "rows_per_s": rows_per_s,
        "rejected_behind_s": round(rejected_lag_s, 2),
    }
    return [
        Figure("bronze_vs_bare_spark", round(median(ratios), 3), "ratio", ">= 0.8", detail),
        _families(runner, home, scale),
    ]


def _families(runner: Runner, home: Path, scale: BronzeScale) -> Figure:
    """Measure alternately the CPU time of the same steady flow in one family and in two."""
    used: dict[bool, list[float]] = {False: [], True: []}
    for number in range(-scale.warm_up, scale.steady_rounds):
        # The server still gets faster: each kind is first in every second round.
        for spot in (number % 2 == 0, number % 2 != 0):
            title = f"{scale.steady_per_s:,} events a second in {'two families' if spot else 'one family'}"
            options = {"topic": f"steady_{spot}_{number}", "per_s": scale.steady_per_s, "seconds": scale.steady_s}
            found = runner.step_of(STEPS, title, "steady", home=home, **options, spot=spot)
            if number >= 0:
                used[spot].append(found["all_cpu_s"])
    detail = {"per_s": scale.steady_per_s, "seconds": scale.steady_s, "one_cpu_s": used[False], "two_cpu_s": used[True]}
    return Figure("bronze_families_vs_one", round(sum(used[True]) / sum(used[False]), 3), "ratio", "<= 1.15", detail)
