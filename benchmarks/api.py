"""Part `api`: a day of bars over HTTP (cached, conditional, cold), compared with bare FastAPI routes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.results import Figure
from benchmarks.runner import Runner

GENERATOR = 1  # increment when `api_steps.make_year` generates other data from the same parameters
STEPS = "benchmarks.api_steps"
FIGURES = ("per_s", "p50_ms", "p99_ms")


@dataclass(frozen=True)
class Scale:
    """Size of the part."""

    days: int = 365
    symbols: int = 10
    rounds: int = 5
    seconds: float = 3.0
    cold_queries: int = 1_000


SMALL = Scale(days=10, symbols=2, rounds=1, seconds=0.5, cold_queries=20)


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Prepare the lake, measure, and return the figures."""
    directory = runner.state / "api-year"
    key = {"days": scale.days, "symbols": scale.symbols, "generator": GENERATOR}
    if not runner.is_generated(directory, key):
        rows = runner.step_of(
            STEPS,
            "generating a year of bars",
            "make_year",
            home=directory / "home",
            days=scale.days,
            symbols=scale.symbols,
        )
        runner.remember(directory, key, rows)
    home = directory / "home"
    scope = {"days": scale.days, "symbols": scale.symbols}
    cold = runner.step_of(
        STEPS, "different days, one request each", "cold", home=home, **scope, queries=scale.cold_queries, seed=7
    )
    per_request = runner.step_of(
        STEPS,
        "different days, reading the table per request",
        "cold_per_request",
        home=home,
        **scope,
        queries=min(100, scale.cold_queries),
        seed=7,
    )
    rounds = [
        runner.step_of(
            STEPS,
            f"the same day repeatedly, round {number + 1} of {scale.rounds}",
            "warm",
            home=home,
            seconds=scale.seconds,
        )
        for number in range(scale.rounds)
    ]
    return [
        _ratio("warm_vs_bare", rounds, "warm", "bare", ">= 0.5"),
        _ratio("conditional_vs_bare", rounds, "conditional", "bare_empty", ">= 0.8"),
        Figure("cold_p99_ms", round(cold["p99_ms"], 1), "ms", "<= 150", {"api": cold, "per_request": per_request}),
        Figure("peak_mb", round(cold["peak_mb"], 1), "MB", "<= 600", {"rows": runner.recall(directory)}),
    ]


def _ratio(name: str, rounds: list[dict[str, Any]], ours: str, bare: str, target: str) -> Figure:
    """Return the median over the rounds of requests per second of the API, divided by those of the bare route."""
    values = [one[ours]["per_s"] / one[bare]["per_s"] for one in rounds]
    contestants = {
        kind: {figure: round(median(one[kind][figure] for one in rounds), 3) for figure in FIGURES}
        for kind in (ours, bare)
    }
    return Figure(
        name,
        round(median(values), 3),
        "ratio",
        target,
        {"rounds": [round(value, 3) for value in values], "contestants": contestants},
    )
