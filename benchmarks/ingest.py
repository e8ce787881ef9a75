"""Part `ingest`: throughput into Kafka and Bronze, compared with bare scripts and cryptofeed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import bronze, producer
from benchmarks.bronze import BronzeScale
from benchmarks.producer import ProducerScale
from benchmarks.results import Figure
from benchmarks.runner import Runner

GENERATOR = 1  # increment when `ingest_steps.make_archive` generates other data from the same parameters
STEPS = "benchmarks.ingest_steps"


@dataclass(frozen=True)
class Scale:
    """Size of the part. `archive_rows` is the number of aggregates in the loaded day."""

    archive_rows: int = 2_000_000
    rounds: int = 5
    producer: ProducerScale = field(default_factory=ProducerScale)
    bronze: BronzeScale = field(default_factory=BronzeScale)


SMALL = Scale(20_000, 1, ProducerScale(20_000, 500, 2, 1, 1), BronzeScale(20_000, 1, 0, 100, 5, 1))


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Prepare missing data, measure, and return the figures."""
    figures = _archive(runner, scale)
    home = runner.state / "ingest" / "home"
    shutil.rmtree(home.parent, ignore_errors=True)
    try:
        servers = runner.step_of(producer.STEPS, "starting Kafka", "kafka_up", home=home)
        return [
            *producer.measure(runner, home, servers, scale.producer),
            *bronze.measure(runner, home, scale.bronze),
            *figures,
        ]
    finally:
        runner.step_of(producer.STEPS, "stopping Kafka and Spark", "down", home=home)


def _archive(runner: Runner, scale: Scale) -> list[Figure]:
    """Measure alternately the load of an archive day, from request to commit, and a bare conversion of its file."""
    directory = runner.state / f"archive-{scale.archive_rows}"
    key = {"rows": scale.archive_rows, "generator": GENERATOR}
    if not runner.is_generated(directory, key):
        title = f"generating {scale.archive_rows:,} aggregates"
        runner.remember(
            directory, key, runner.step_of(STEPS, title, "make_archive", directory=directory, rows=scale.archive_rows)
        )
    made = runner.recall(directory)
    served = directory / "served"
    rounds: list[dict[str, Any]] = []
    for number in range(scale.rounds):
        label = f"round {number + 1} of {scale.rounds}"
        bare = runner.bare(f"bare conversion, {label}", "archive_csv", served / made["name"], directory / "out.parquet")
        ours = runner.step_of(STEPS, f"load of the day, {label}", "load_archive", home=_fresh(directory), served=served)
        rounds.append({"bare": bare, "ours": ours})
    ratios = [one["bare"]["query_s"] / one["ours"]["query_s"] for one in rounds]
    contestants = {
        kind: {name: round(median(one[kind][name] for one in rounds), 3) for name in ("query_s", "cpu_s", "rss_mb")}
        for kind in ("bare", "ours")
    }
    rows_per_s = round(scale.archive_rows / contestants["ours"]["query_s"])
    detail = {**made, "rounds": [round(value, 3) for value in ratios], "contestants": contestants}
    return [
        Figure("archive_vs_bare", round(median(ratios), 3), "ratio", ">= 0.7", detail),
        Figure("archive_rows_per_s", rows_per_s, "rows/s", ">= 200000"),
        Figure("archive_peak_mb", contestants["ours"]["rss_mb"], "MB", "", {"bare": contestants["bare"]["rss_mb"]}),
    ]


def _fresh(directory: Path) -> Path:
    return directory / "home"
