"""Steps in separate processes, started by `benchmarks.runner`: generate data and lakes, rebuild, refresh.

Run as `python -m benchmarks.steps NAME ARGUMENTS`, with the arguments as a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import lakes
from benchmarks.bare.clock import Clock, peak_mb
from benchmarks.runner import progress
from benchmarks.trades import (
    DAY,
    DAY_MS,
    HOUR_MS,
    KafkaOffsets,
    Trades,
    by_arrival,
    make_day,
    sorted_hours,
    write_plain,
)
from cryptolake_assets.model.windows import MINUTE_MS

if TYPE_CHECKING:
    import psutil

    from cryptolake_assets.settings import Settings
    from cryptolake_assets.transform.engines.engine import AggregationEngine

LAST_DAY_MS = int(DAY.timestamp() * 1000)
OPEN_HOUR_MS = LAST_DAY_MS + 23 * HOUR_MS  # the hour that is refreshed
OPEN_MINUTES = 40  # minutes of that hour in Bronze; the other trades are in the file PENDING_FILE
PENDING_FILE = "waiting.npz"


def plain(directory: str, trades: int, seed: int) -> int:
    """Write the bare scripts' input; return the number of rows."""
    day = make_day(LAST_DAY_MS, trades, seed)
    write_plain(day, Path(directory))
    return len(day)


def fresh(home: str, trades: int, seed: int) -> int:
    """Create a lake with Bronze as the stream writes it; return the number of rows."""
    settings = lakes.create(Path(home), LAST_DAY_MS, 1)
    day = make_day(LAST_DAY_MS, trades, seed)
    for share in lakes.write_fresh(settings, day):
        progress(share)
    return len(day)


def linked(home: str, source: str) -> None:
    """Create a second lake over the same files."""
    settings = lakes.create(Path(home), LAST_DAY_MS, 1)
    lakes.link(settings, lakes.lake_settings(Path(source)))


def compact(home: str, days: int, leave_open_hour: bool) -> dict[str, Any]:
    """Run the product's compaction on the days up to the last one; the Spark server is already running."""
    from dataclasses import asdict

    from cryptolake_tests.support.compacting import compact as compact_bronze

    settings = lakes.lake_settings(Path(home))
    end = DAY + timedelta(hours=23 if leave_open_hour else 24)
    with _spark_session(settings) as spark:
        (jvm,) = _jvm(settings)
        cpu_before, started = _cpu_s(jvm), time.perf_counter()
        result = compact_bronze(settings, spark, DAY - timedelta(days=days - 1), end)
        took = {"query_s": round(time.perf_counter() - started, 2), "jvm_cpu_s": round(_cpu_s(jvm) - cpu_before, 2)}
    return {**asdict(result), **took, "manifests": len(lakes.manifests(lakes.bronze(settings)))}


def history(home: str, days: int, trades_a_day: int, seed: int) -> dict[str, int]:
    """Create a lake of `days` days in the compacted layout; return rows and files.

    The last hour is open: it has a micro-batch per minute up to OPEN_MINUTES; PENDING_FILE stores its later trades. The
    last day does not depend on `days`.
    """
    settings = lakes.create(Path(home), LAST_DAY_MS - (days - 1) * DAY_MS, days)
    rows = files = 0
    for number in range(days):
        ago = days - 1 - number
        day = make_day(LAST_DAY_MS - ago * DAY_MS, trades_a_day, seed + ago, 5_000_000_000 - ago * trades_a_day)
        pending = None
        if ago == 0:
            is_open = day.event_ms >= OPEN_HOUR_MS
            opened, day = day.take(is_open), day.take(~is_open)
            is_pending = opened.arrival_us >= (OPEN_HOUR_MS + OPEN_MINUTES * MINUTE_MS) * 1000
            opened, pending = opened.take(~is_pending), opened.take(is_pending)
        offsets = KafkaOffsets()
        files += lakes.write_sorted(settings, ((hour, *offsets.assign(hour)) for _, hour in sorted_hours(day)))
        rows += len(day)
        if pending is not None:
            lakes.write_minutes(settings, opened, offsets)
            rows += len(opened)
            np.savez(Path(home).parent / PENDING_FILE, **vars(pending))
        progress((number + 1) / days)
    return {"rows": rows, "files": files}


def history_silver(home: str, days: int, clock_url: str) -> dict[str, Any]:
    """Build Silver of the entire history, day by day, as after live operation."""
    settings = lakes.lake_settings(Path(home), clock_url)
    lakes.follow_to_head(settings)
    started = time.perf_counter()
    with _engine(settings, "duckdb") as engine:
        for number in range(days):
            start = DAY - timedelta(days=days - 1 - number)
            _require_passed(lakes.rebuild(settings, engine, start, start + timedelta(days=1)))
            progress((number + 1) / days)
    return {"query_s": round(time.perf_counter() - started, 2), "rss_mb": peak_mb()}


def seal(home: str) -> None:
    lakes.seal(Path(home))


def restore(home: str) -> None:
    """Restore the sealed lake and apply later schema migrations."""
    from cryptolake_assets.lake.bootstrap import bootstrap

    lakes.restore(Path(home))
    bootstrap(lakes.lake_settings(Path(home)))


def spark_up(home: str) -> bool:
    """Start the Spark server with the heap size of the bare Spark script."""
    from benchmarks.bare.spark_local import HEAP_MB
    from cryptolake_assets.platform import lifecycle
    from cryptolake_assets.platform.parts import SPARK

    lakes.give_ports(Path(home))
    settings = lakes.lake_settings(Path(home)).model_copy(update={"spark_memory_mb": HEAP_MB})
    lifecycle.up(settings, [SPARK])
    return True


def spark_down(home: str) -> bool:
    from cryptolake_assets.platform import lifecycle

    lifecycle.down(lakes.lake_settings(Path(home)))
    return True


def prepare_rebuild(home: str, clock_url: str) -> None:
    """Empty Silver and advance the quarantine to the current snapshot of Bronze."""
    settings = lakes.lake_settings(Path(home), clock_url)
    lakes.empty_silver(settings)
    lakes.follow_to_head(settings)


def rebuild(home: str, clock_url: str, engine: str, out: str) -> dict[str, Any]:
    """Rebuild Silver of the entire day from Bronze; measure from after the imports to after the last commit.

    On Spark, first warm the server up with as many rebuilds as the bare script has warm-up passes.
    """
    from benchmarks.bare.spark_local import WARM_PASSES

    settings = lakes.lake_settings(Path(home), clock_url)
    _import_all()
    more: dict[str, Any] = {}
    with _engine(settings, engine) as chosen:
        jvms = _jvm(settings) if engine == "spark" else []
        for _ in range(WARM_PASSES if jvms else 0):
            clock = Clock()
            _require_passed(lakes.rebuild(settings, chosen, DAY, DAY + timedelta(days=1)))
            more.setdefault("warming_s", []).append(clock.reading()["query_s"])
            lakes.empty_silver(settings)
        jvm_cpu_s = sum(_cpu_s(jvm) for jvm in jvms)
        clock = Clock()
        candidates = lakes.rebuild(settings, chosen, DAY, DAY + timedelta(days=1))
        reading = clock.reading()
        if jvms:
            more["jvm_cpu_s"] = round(sum(_cpu_s(jvm) for jvm in jvms) - jvm_cpu_s, 2)
            more["jvm_rss_mb"] = max(peak_mb(jvm.pid) for jvm in jvms)
    _require_passed(candidates)
    export_bars(settings, Path(out))
    return {**reading, **more, "rows_in": sum(candidate.counts.rows_in for candidate in candidates)}


def export_bars(settings: Settings, path: Path) -> None:
    """Write Silver's bars with the column names of `benchmarks.bars`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.model.family_tables import FUTURES

    bars = load_table(settings, FUTURES.bars).scan().to_arrow()
    names = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "volume", "quote_volume": "qvol"}
    columns = {new: bars[old] for old, new in {**names, "trades": "trades", "taker_buy_volume": "taker_buy"}.items()}
    minute_us = bars["window_start"].cast(pa.timestamp("us")).cast(pa.int64())
    columns |= {"symbol": bars["symbol"], "minute": pa.compute.divide(minute_us, 1000)}
    pq.write_table(pa.table(columns), path)


def refresh(homes: dict[str, str], clock_url: str, warm: int, minutes: int) -> dict[str, Any]:
    """Append a minute of new trades to each lake in turn and time the refresh of the open hour."""
    from benchmarks.refreshing import Follower

    _import_all()
    followers = {}
    for name, home in homes.items():
        settings = lakes.lake_settings(Path(home), clock_url)
        engine = _make_engine(settings)
        pending = _pending(Path(home))
        followers[name] = Follower(settings, engine, pending, OPEN_HOUR_MS)
    for number in range(warm + minutes):
        names = list(followers) if number % 2 else list(reversed(followers))
        for name in names:
            followers[name].take_minute(timed=number >= warm)
        progress((number + 1) / (warm + minutes + 1))
    return {
        "lakes": {name: {**follower.observed(), **follower.inspected()} for name, follower in followers.items()},
        "rss_mb": peak_mb(),
    }


def _pending(home: Path) -> Iterator[Trades]:
    with np.load(home.parent / PENDING_FILE) as arrays:
        trades = Trades(**{name: arrays[name] for name in arrays.files})
    return (minute for _, minute in by_arrival(trades, MINUTE_MS))


def _require_passed(candidates: Any) -> None:
    failed = [outcome for candidate in candidates for outcome in candidate.outcomes if not outcome.passed]
    if failed:
        raise AssertionError(f"checks failed: {failed[:3]}")


def _make_engine(settings: Settings) -> AggregationEngine:
    from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine

    return DuckDBEngine(settings)


@contextmanager
def _engine(settings: Settings, name: str) -> Iterator[AggregationEngine]:
    if name == "duckdb":
        yield _make_engine(settings)
        return
    from cryptolake_assets.transform.engines.spark_engine import SparkEngine

    with _spark_session(settings) as session:
        yield SparkEngine(settings, session)


@contextmanager
def _spark_session(settings: Settings) -> Iterator[Any]:
    from cryptolake_assets.lake.spark_session import connect

    session = connect(settings)
    try:
        yield session
    finally:
        session.stop()


def _jvm(settings: Settings) -> list[psutil.Process]:
    """Return the JVMs of this lake's Spark server."""
    from cryptolake_assets.platform.processes import instance_processes

    found = [process for process in instance_processes(settings.home) if "java" in process.name()]
    assert found, "the Spark server is not running"
    return found


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _import_all() -> None:
    """Import what a refresh imports lazily; the bare scripts' imports are not timed either."""
    import duckdb  # noqa: F401
    import httpx  # noqa: F401
    import pyarrow.compute
    import pyarrow.dataset
    import pyarrow.parquet  # noqa: F401
    import pyiceberg.catalog.sql
    import pyiceberg.expressions.parser
    import pyiceberg.io.pyarrow  # noqa: F401

    from cryptolake_assets.binance import rest  # noqa: F401
    from cryptolake_assets.captures import tracked_symbols  # noqa: F401
    from cryptolake_assets.transform import load_inputs, silver_run  # noqa: F401


STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step
    for step in (
        *(plain, fresh, linked, compact, history, history_silver, seal, restore),
        *(spark_up, spark_down, prepare_rebuild, rebuild, refresh),
    )
}


def main(steps: Mapping[str, Callable[..., Any]], name: str, arguments: str) -> None:
    """Run a step and print its result."""
    from cryptolake_assets.log import configure_logging

    configure_logging("WARNING")
    result = steps[name](**json.loads(arguments))
    print(json.dumps({"result": result}), flush=True)


if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
