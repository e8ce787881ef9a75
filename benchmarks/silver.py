"""Part `silver`: rebuild of a day vs. bare scripts, refresh vs. length of history, bytes per trade."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bars import compare
from benchmarks.results import Figure
from benchmarks.runner import BenchmarkError, Runner
from benchmarks.trades import DAY, DAY_MS

SEED = 7
GENERATOR = 1  # increment when `trades.py` or `lakes.py` generate other data from the same parameters


@dataclass(frozen=True)
class Scale:
    """Size of the part. `history_day` is the trades per day of history, `long_days` the days of the long history."""

    trades: int = 20_000_000
    history_day: int = 1_000_000
    long_days: int = 100
    dense_day: int = 20_000_000
    rounds: int = 5
    spark_rounds: int = 2
    warm_minutes: int = 2
    minutes: int = 7


# Smoke test: its figures are meaningless.
SMALL = Scale(200_000, 20_000, 5, 200_000, rounds=1, spark_rounds=1, minutes=3)


@dataclass(frozen=True)
class Contestant:
    """One method to build the day's bars: a bare `script` with its `kind`, or this project's `engine` on a `layout`."""

    name: str
    script: str = ""
    kind: str = ""
    layout: str = ""
    engine: str = ""
    makes_bars: bool = True


# Bare engines; figures are divided by the fastest of them.
BARE = (
    Contestant("DuckDB, bare", script="duckdb_hourly"),
    Contestant("Polars, bare", script="polars_streaming"),
    Contestant("pandas, bare", script="pandas_frame"),
)
KERNEL = Contestant("numpy kernel, bare", script="numpy_kernel")  # specialized to these integers; reported only
FLOOR = Contestant("reading only", script="read_only", makes_bars=False)
OWN = (
    Contestant("CryptoLake on DuckDB, fresh Bronze", layout="fresh", engine="duckdb"),
    Contestant("CryptoLake on DuckDB, compacted Bronze", layout="compacted", engine="duckdb"),
)
BARE_SPARK = Contestant("Spark, bare, integers", script="spark_local", kind="int")
BARE_SPARK_DECIMAL = Contestant("Spark, bare, decimal(38,18)", script="spark_local", kind="dec")
OWN_SPARK = (
    Contestant("CryptoLake on Spark, fresh Bronze", layout="fresh", engine="spark"),
    Contestant("CryptoLake on Spark, compacted Bronze", layout="compacted", engine="spark"),
)


def run(runner: Runner, scale: Scale) -> list[Figure]:
    """Prepare missing data, measure, and return the figures."""
    now_ms = int(DAY.timestamp() * 1000) + DAY_MS
    with runner.exchange_clock(now_ms):
        rebuild = Rebuild(runner, scale)
        compaction = rebuild.prepare()
        figures = rebuild.measure()
        figures.append(_refresh(runner, scale))
    figures.append(
        Figure(
            "bytes_per_trade",
            round(compaction["bytes_after"] / compaction["rows"], 2),
            "bytes",
            "<= 12",
            {**compaction, "bytes_per_trade_before": round(compaction["bytes_before"] / compaction["rows"], 2)},
        )
    )
    return figures


class Rebuild:
    """Measurement A: rebuild a day's bars from plain files, fresh Bronze and compacted Bronze, by all contestants."""

    def __init__(self, runner: Runner, scale: Scale) -> None:
        self._runner = runner
        self._scale = scale
        self._state = runner.state / f"day-{scale.trades}"
        self._out = self._state / "out"
        self._taken: dict[str, list[dict[str, Any]]] = {}

    def _home(self, layout: str) -> Path:
        return self._state / layout / "lake"

    def prepare(self) -> dict[str, Any]:
        """Prepare missing data; return the result of the compaction."""
        key = {"trades": self._scale.trades, "seed": SEED, "generator": GENERATOR}
        runner, given = self._runner, {"trades": self._scale.trades, "seed": SEED}
        plain, fresh, compacted = (self._state / name for name in ("plain", "fresh", "compacted"))
        if _is_new(runner, plain, key):
            rows = runner.step(f"generating {self._scale.trades:,} trades", "plain", directory=plain, **given)
            runner.remember(plain, key, rows)
        if _is_new(runner, fresh, key):
            runner.step("writing fresh Bronze", "fresh", home=self._home("fresh"), **given)
            runner.remember(fresh, key)
            _drop(compacted)
        if _is_new(runner, compacted, key):
            home = self._home("compacted")
            runner.step("linking Bronze", "linked", home=home, source=self._home("fresh"))
            with runner.spark(home):
                done = runner.step("compacting Bronze", "compact", home=home, days=1, leave_open_hour=False)
            runner.remember(compacted, key, done)
        self._out.mkdir(exist_ok=True)
        return dict(runner.recall(compacted))

    def measure(self) -> list[Figure]:
        """Measure all contestants in turn, round by round, so that other load on the machine affects all alike."""
        _drop(self._out)
        self._out.mkdir()
        for number in range(self._scale.rounds):
            for contestant in (FLOOR, *OWN, *BARE, KERNEL):
                self._take(contestant, number)
        for number in range(self._scale.spark_rounds):
            self._take(BARE_SPARK, number)
            for contestant in OWN_SPARK:
                with self._runner.spark(self._home(contestant.layout)):
                    self._take(contestant, number)
        self._take(BARE_SPARK_DECIMAL, 0)
        bars, trades, differences = compare(sorted(self._out.glob("*.parquet")))
        if differences:
            raise BenchmarkError(f"the bars differ: {'; '.join(differences)}")
        self._runner.print(f"  all results are equal: {bars:,} bars of {trades:,} trades")
        return self._figures(bars, trades)

    def _take(self, contestant: Contestant, number: int) -> None:
        title = f"{contestant.name}, round {number + 1}"
        out = self._out / f"{contestant.name.replace(' ', '-').replace(',', '')}.parquet"
        if contestant.script:
            kind = (contestant.kind,) if contestant.kind else ()
            taken = self._runner.bare(title, contestant.script, self._state / "plain", out, *kind)
        else:
            lake = {"home": self._home(contestant.layout), "clock_url": self._runner.clock_url}
            self._runner.step("emptying Silver", "prepare_rebuild", **lake)
            taken = dict(self._runner.step(title, "rebuild", **lake, engine=contestant.engine, out=out))
        self._taken.setdefault(contestant.name, []).append(taken)
        self._runner.print(f"  {title:<52} {taken['query_s']:8.2f} s {_cpu(taken):8.2f} CPU-s {_peak(taken):8.0f} MB")

    def _figures(self, bars: int, trades: int) -> list[Figure]:
        table = {
            name: {
                "seconds": min(taken["query_s"] for taken in all_taken),
                "cpu_s": round(min(_cpu(taken) for taken in all_taken), 2),
                "peak_mb": max(_peak(taken) for taken in all_taken),
                "all_seconds": [taken["query_s"] for taken in all_taken],
            }
            for name, all_taken in self._taken.items()
        }
        seconds = {name: float(row["seconds"]) for name, row in table.items()}
        best = min((contestant.name for contestant in BARE), key=lambda name: seconds[name])
        best_spark = min((BARE_SPARK.name, BARE_SPARK_DECIMAL.name), key=lambda name: seconds[name])
        peaks = {own.name: table[own.name]["peak_mb"] for own in OWN}

        def against(own: Contestant, bare: str) -> float:
            return round(seconds[own.name] / seconds[bare], 3)

        def detail(own: Contestant, bare: str, **more: Any) -> dict[str, Any]:
            cpu = round(table[own.name]["cpu_s"] / table[bare]["cpu_s"], 3)
            return {"numerator": own.name, "denominator": bare, "ratio_of_cpu_seconds": cpu, **more}

        def figure(name: str, own: Contestant, target: str, **more: Any) -> Figure:
            rule = "minimum of the rounds, contestants in turn"
            kernel = {"against_numpy_kernel": against(own, KERNEL.name)}
            return Figure(name, against(own, best), "ratio", target, detail(own, best, rule=rule, **kernel, **more))

        return [
            figure("rebuild_fresh_vs_best_bare", OWN[0], "<= 1.5", bars=bars, trades=trades, contestants=table),
            figure("rebuild_compacted_vs_best_bare", OWN[1], "<= 1.0"),
            Figure("rebuild_peak_mb", max(peaks.values()), "MB", "<= 600", {"rule": "maximum of all rounds", **peaks}),
            Figure(
                "rebuild_spark_vs_bare_spark",
                against(OWN_SPARK[0], best_spark),
                "ratio",
                "<= 0.7",
                detail(
                    OWN_SPARK[0],
                    best_spark,
                    rule="third pass of a JVM; faster bare script; minimum of the rounds",
                    compacted=against(OWN_SPARK[1], best_spark),
                    against_bare_decimal=against(OWN_SPARK[0], BARE_SPARK_DECIMAL.name),
                    passes={name: all_taken for name, all_taken in self._taken.items() if "Spark" in name},
                ),
            ),
        ]


def _cpu(taken: dict[str, Any]) -> float:
    """Return the CPU seconds of the process and of its Spark server."""
    return float(taken["cpu_s"] + taken.get("jvm_cpu_s", 0))


def _peak(taken: dict[str, Any]) -> float:
    return float(taken["rss_mb"] + taken.get("jvm_rss_mb", 0))


def _refresh(runner: Runner, scale: Scale) -> Figure:
    """Measurement B: refresh after the same minute of trades on a short, a long and a dense history."""
    shapes = {
        "1m": (1, scale.history_day),
        "100m": (scale.long_days, scale.history_day),
        "dense": (1, scale.dense_day),
    }
    homes = {name: _history(runner, name, days, trades) for name, (days, trades) in shapes.items()}
    for home in homes.values():
        runner.step("restoring the histories", "restore", home=home)
    taken = runner.step(
        "refreshing after a minute of new trades",
        "refresh",
        homes=homes,
        clock_url=runner.clock_url,
        warm=scale.warm_minutes,
        minutes=scale.minutes,
    )
    found = taken["lakes"]
    for name, row in found.items():
        runner.print(f"  refresh, {name:<6} {row['median_s']:8.3f} s {row['cpu_s']:8.3f} CPU-s")
    detail = {
        "rule": f"median of {scale.minutes} refreshes, lakes in turn, in one warm process",
        "peak_mb": taken["rss_mb"],
        "dense_vs_1m": round(found["dense"]["median_s"] / found["1m"]["median_s"], 3),
        "lakes": found,
    }
    return Figure(
        "refresh_100m_vs_1m", round(found["100m"]["median_s"] / found["1m"]["median_s"], 3), "ratio", "<= 1.2", detail
    )


def _history(runner: Runner, name: str, days: int, trades: int) -> Path:
    """Return the home of a history; create it if it is missing."""
    directory = runner.state / f"history-{days}x{trades}"
    home = directory / "lake"
    key = {"days": days, "trades": trades, "seed": SEED, "generator": GENERATOR}
    if _is_new(runner, directory, key):
        made = runner.step(
            f"writing a history of {days * trades:,} trades",
            "history",
            home=home,
            days=days,
            trades_a_day=trades,
            seed=SEED,
        )
        with runner.spark(home):
            runner.step(f"compacting history {name}", "compact", home=home, days=days, leave_open_hour=True)
        silver = runner.step(
            f"building Silver from {days * trades:,} trades",
            "history_silver",
            home=home,
            days=days,
            clock_url=runner.clock_url,
        )
        runner.step(f"sealing history {name}", "seal", home=home)
        runner.remember(directory, key, {**made, "silver": silver})
        runner.print(f"  history {name}: {silver['query_s']:.1f} s for Silver, {silver['rss_mb']:.0f} MB")
    return home


def _is_new(runner: Runner, directory: Path, key: dict[str, Any]) -> bool:
    """Return whether the directory's data must be generated; if so, empty it first."""
    if runner.is_generated(directory, key):
        return False
    _drop(directory)
    directory.mkdir(parents=True)
    return True


def _drop(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
