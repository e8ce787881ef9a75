"""The producer's figures of part `ingest`: from the exchange's socket to Kafka's acknowledgement."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import ROOT, Figure
from benchmarks.runner import BenchmarkError, Runner
from cryptolake_assets.model.markets import Market

STEPS = "benchmarks.producer_steps"
TOPIC = "bare"
ONE_MARKET = (Market.USD_M,)
# WebSocket and Kafka library of each setting of the producer's IO; the bare scripts use the same.
LIBRARIES = {"default": ("websockets", "aiokafka"), "fast": ("picows", "confluent-kafka")}


@dataclass(frozen=True)
class ProducerScale:
    """Number of frames per contestant, duration of the steady rates in seconds, and numbers of rounds."""

    frames: int = 600_000
    cryptofeed_frames: int = 10_000
    steady_s: int = 10
    rounds: int = 5
    steady_rounds: int = 3


def measure(runner: Runner, home: Path, servers: str, scale: ProducerScale) -> list[Figure]:
    """Measure all contestants in turn, then the steady rates. The broker of `home` must be running."""
    python = _cryptofeed(runner)
    port = runner.step_of(STEPS, "choosing a port", "feed_port", home=home)
    runner.step_of(STEPS, f"creating topic {TOPIC}", "make_topic", home=home, topic=TOPIC)
    contestants: dict[str, Callable[[str], dict[str, Any]]] = {
        "parse, msgspec": lambda title: runner.bare(title, "parse", str(scale.frames)),
    }
    for io, (reader, writer) in LIBRARIES.items():
        contestants[f"receive, {reader}"] = lambda title, reader=reader: runner.bare(  # type: ignore[misc]
            title, "receive", reader, str(port), str(scale.frames)
        )
        contestants[f"produce, {writer}"] = lambda title, writer=writer: runner.bare(  # type: ignore[misc]
            title, "produce", writer, servers, TOPIC, str(scale.frames)
        )
        for name, markets in ((io, ONE_MARKET), (f"{io}, three markets", tuple(Market))):
            contestants[name] = lambda title, io=io, markets=markets: runner.step_of(  # type: ignore[misc]
                STEPS, title, "produce", home=home, io=io, frames=scale.frames, per_s=0, markets=markets
            )
    if python:
        contestants["cryptofeed"] = lambda title: runner.step_of(
            STEPS, title, "cryptofeed", home=home, python=python, topic=TOPIC, frames=scale.cryptofeed_frames
        )
    rounds = [
        {name: _costs(run(f"{name}, round {number + 1} of {scale.rounds}")) for name, run in contestants.items()}
        for number in range(scale.rounds)
    ]
    return [*_cpu_figures(rounds, scale), *_steady(runner, home, scale)]


def _cryptofeed(runner: Runner) -> str:
    """Return the Python of an environment with cryptofeed; empty if it cannot be installed here."""
    directory = runner.state / "cryptofeed"
    lock = ROOT / "requirements/cryptofeed.lock"
    key = {"lock": hashlib.sha256(lock.read_bytes()).hexdigest()}
    if not runner.is_generated(directory, key):
        try:
            python = runner.step_of(STEPS, "installing cryptofeed", "make_cryptofeed", directory=directory)
        except BenchmarkError as error:
            runner.print(f"  skipping cryptofeed: its installation failed (it needs a C compiler): {error}")
            return ""
        runner.remember(directory, key, python)
    return str(runner.recall(directory))


def _costs(result: dict[str, Any]) -> dict[str, float]:
    """Return CPU seconds per million frames, frames per second, and peak memory."""
    return {
        "cpu_s_per_million": round(result["cpu_s"] / result["frames"] * 1e6, 3),
        "frames_per_s": round(result["frames"] / result["query_s"]),
        "rss_mb": result["rss_mb"],
    }


def _cpu_figures(rounds: list[dict[str, dict[str, float]]], scale: ProducerScale) -> list[Figure]:
    medians = {
        name: {unit: round(median(one[name][unit] for one in rounds), 3) for unit in costs}
        for name, costs in rounds[0].items()
    }
    cpu = {name: costs["cpu_s_per_million"] for name, costs in medians.items()}

    def against_bare(io: str) -> list[float]:
        """Return, per round, the producer's CPU time divided by the sum of the bare scripts with the same libraries."""
        reader, writer = LIBRARIES[io]
        bare = ("parse, msgspec", f"receive, {reader}", f"produce, {writer}")
        return [
            round(one[io]["cpu_s_per_million"] / sum(one[name]["cpu_s_per_million"] for name in bare), 3)
            for one in rounds
        ]

    seconds = "CPU s"
    detail = {"frames": scale.frames, "cryptofeed_frames": scale.cryptofeed_frames, "contestants": medians}
    figures = [
        Figure("producer_cpu_s_per_million", cpu["default"], seconds, "<= 12", detail),
        Figure("producer_extra_cpu_s_per_million", cpu["fast"], seconds, "<= 6"),
        Figure("bare_cpu_s_per_million", cpu["produce, confluent-kafka"], seconds),
    ]
    if "cryptofeed" in cpu:
        ratio = round(cpu["cryptofeed"] / cpu["default"], 1)
        figures += [
            Figure("cryptofeed_cpu_s_per_million", cpu["cryptofeed"], seconds),
            Figure("cryptofeed_vs_producer", ratio, "ratio", ">= 15"),
        ]
    for name, io in (("producer_vs_bare", "default"), ("producer_extra_vs_bare", "fast")):
        ratios = against_bare(io)
        figures.append(Figure(name, round(median(ratios), 3), "ratio", "<= 1.3", {"rounds": ratios}))
    for name, io in (("producer_markets_vs_one", "default"), ("producer_extra_markets_vs_one", "fast")):
        ratios = [
            round(one[f"{io}, three markets"]["cpu_s_per_million"] / one[io]["cpu_s_per_million"], 3) for one in rounds
        ]
        figures.append(Figure(name, round(median(ratios), 3), "ratio", "<= 1.15", {"rounds": ratios}))
    return figures


def _steady(runner: Runner, home: Path, scale: ProducerScale) -> list[Figure]:
    """Measure latencies at rates below the producer's capacity."""
    figures = []
    for name, io, per_s in (("ack_p99_ms_5k", "default", 5_000), ("ack_p99_ms_20k", "fast", 20_000)):
        found = [
            runner.step_of(
                STEPS,
                f"{per_s:,} frames per second, {io}, round {number + 1} of {scale.steady_rounds}",
                "produce",
                home=home,
                io=io,
                frames=scale.steady_s * per_s,
                per_s=per_s,
            )
            for number in range(scale.steady_rounds)
        ]
        detail = {
            "io": io,
            "per_s": per_s,
            "p50_ms": median(one["p50_ms"] for one in found),
            "p99_ms": [one["p99_ms"] for one in found],
            "cpu_share": round(median(one["cpu_s"] / one["query_s"] for one in found), 3),
        }
        figures.append(Figure(name, median(one["p99_ms"] for one in found), "ms", "<= 50", detail))
    return figures
