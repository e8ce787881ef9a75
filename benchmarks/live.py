"""Part `live`: how old the newest bar is that a client has, and when a minute is final, on a whole platform."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Figure
from benchmarks.runner import Runner

STEPS = "benchmarks.live_steps"
SEED = 13


@dataclass(frozen=True)
class Scale:
    """Size of the part: the rates of two platforms at real time, each measured for `seconds` after `warm_up_s`."""

    symbols: int = 300
    busy_per_s: int = 5_000
    quiet_per_s: int = 100
    warm_up_s: int = 90
    seconds: int = 300
    compared_minutes: int = 360  # of all symbols, replayed at `compared_speed`
    compared_speed: float = 40.0


SMALL = Scale(
    symbols=20, busy_per_s=200, quiet_per_s=50, warm_up_s=60, seconds=90, compared_minutes=60, compared_speed=60.0
)


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Measure both platforms and compare many bars on a third one; return the figures."""
    busy, quiet = (_measured(runner, scale, per_s) for per_s in (scale.busy_per_s, scale.quiet_per_s))
    rule = (
        f"{scale.symbols} symbols, {scale.busy_per_s:,} trades/s for {scale.seconds} s at real time; without the "
        "replay exchange and the clients"
    )
    latency, compared = busy["latency_ms"], Counter(busy["compared"]) + Counter(quiet["compared"])
    compared += Counter(
        runner.step_of(
            STEPS,
            f"a replay at {scale.compared_speed:g} times the speed",
            "compare",
            directory=runner.state / "live-compared",
            symbols=scale.symbols,
            per_s=scale.quiet_per_s,
            seed=SEED,
            minutes=scale.compared_minutes,
            speed=scale.compared_speed,
        )
    )
    return [
        Figure("live_p50_ms", latency["p50"], "ms", "", {"rule": rule, "trades": latency["trades"]}),
        Figure("live_p95_ms", latency["p95"], "ms", "<= 250"),
        Figure("live_p99_ms", latency["p99"], "ms", "<= 1000"),
        Figure("live_bars_compared", compared.total(), "bars", ">= 100000", {"outcomes": dict(compared)}),
        Figure("live_unexplained", compared["unexplained"], "bars", "<= 0"),
        Figure("final_p95_s", busy["final_s"]["p95"], "s", "<= 20", {"busy": busy["final_s"]}),
        Figure("final_p95_s_quiet", quiet["final_s"]["p95"], "s", "<= 20", {"quiet": quiet["final_s"]}),
        Figure("live_cores", busy["cores"], "cores", "<= 1.2", {"cores": busy["cores_by_part"]}),
        Figure("platform_mb", busy["platform_mb"], "MB", "<= 3600", {"mb": busy["mb_by_part"]}),
        Figure("api_tail_mb", busy["api_growth_mb"], "MB", "", {"minutes": busy["tail_minutes"]}),
    ]


def _measured(runner: Runner, scale: Scale, per_s: int) -> dict[str, Any]:
    return dict(
        runner.step_of(
            STEPS,
            f"a platform with {per_s:,} trades/s",
            "measure",
            directory=runner.state / f"live-{per_s}",
            symbols=scale.symbols,
            per_s=per_s,
            seed=SEED,
            warm_up_s=scale.warm_up_s,
            seconds=scale.seconds,
        )
    )
