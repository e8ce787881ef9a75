"""Steps of part `scale`, each in a separate process: write days of different sizes, and rebuild them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import lakes
from benchmarks.bare.clock import Clock
from benchmarks.runner import progress
from benchmarks.steps import main
from benchmarks.trades import DAY, DAY_MS, FIRST_TRADE_ID, KafkaOffsets, make_day, sorted_hours

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

DRIVER_HEAP_MB = 2048


def _day(all_sizes: Sequence[int], size: int) -> datetime:
    """Return the day of a size; the last size is `DAY`."""
    return DAY - timedelta(days=len(all_sizes) - 1 - list(all_sizes).index(size))


def lake(home: str, trades: int, sizes: Sequence[int], seed: int) -> dict[int, dict[str, int]]:
    """Create a lake with a day per size, in sorted hourly files; return rows, files and bytes by size."""
    first_ms = int(_day(sizes, sizes[0]).timestamp() * 1000)
    settings = lakes.create(Path(home), first_ms, len(sizes))
    made: dict[int, dict[str, int]] = {}
    first_trade_id, bytes_before = FIRST_TRADE_ID, 0
    for number, size in enumerate(sizes):
        day = make_day(first_ms + number * DAY_MS, size * trades, seed + number, first_trade_id)
        first_trade_id += size * trades
        offsets = KafkaOffsets()
        files = lakes.write_sorted(settings, ((hour, *offsets.assign(hour)) for _, hour in sorted_hours(day)))
        bytes_after = _bronze_bytes(settings)
        made[size] = {"rows": len(day), "files": files, "bytes": bytes_after - bytes_before}
        bytes_before = bytes_after
        progress((number + 1) / len(sizes))
    return made


def _bronze_bytes(settings: Settings) -> int:
    from cryptolake_assets.lake.maintenance.layout import live_files

    return sum(file.size_bytes for file in live_files(lakes.bronze(settings)))


def spark_up(home: str, master: str) -> bool:
    """Start the Connect server as the driver of an application on the cluster `master`."""
    from cryptolake_assets.platform import lifecycle
    from cryptolake_assets.platform.parts import SPARK

    lakes.give_ports(Path(home))
    update = {"spark_memory_mb": DRIVER_HEAP_MB, "spark_master": master}
    lifecycle.up(lakes.lake_settings(Path(home)).model_copy(update=update), [SPARK])
    return True


def rebuilds(
    home: str, clock_url: str, all_sizes: Sequence[int], sizes: Sequence[int], shared: int, warm_up: int, rounds: int
) -> dict[str, Any]:
    """Rebuild the days; return seconds per round and rows read by size, and a digest of the shared day's bars."""
    from cryptolake_assets.lake.spark_session import connect
    from cryptolake_assets.transform.engines.spark_engine import SparkEngine

    settings = lakes.lake_settings(Path(home), clock_url)
    session = connect(settings)
    engine = SparkEngine(settings, session)
    rows: dict[int, int] = {}

    def seconds_of(size: int) -> float:
        lakes.empty_silver(settings)
        day, clock = _day(all_sizes, size), Clock()
        candidates = lakes.rebuild(settings, engine, day, day + timedelta(days=1))
        taken = clock.reading()["query_s"]
        failed = [outcome for candidate in candidates for outcome in candidate.outcomes if not outcome.passed]
        assert not failed, failed[:3]
        rows[size] = sum(candidate.counts.rows_in for candidate in candidates)
        return taken

    try:
        for _ in range(warm_up):
            seconds_of(shared)
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for number in range(rounds):
            for size in sizes:
                seconds[size].append(seconds_of(size))
            progress((number + 1) / rounds)
        seconds_of(shared)
        return {"seconds": seconds, "rows": rows, "bars_sha256": _digest(settings)}
    finally:
        session.stop()


def _digest(settings: Settings) -> str:
    """Return the SHA-256 of all bars in Silver, without `updated_at`."""
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.model.family_tables import FUTURES

    bars = load_table(settings, FUTURES.bars).scan().to_arrow().drop_columns(["updated_at"])
    ordered = bars.sort_by([("symbol", "ascending"), ("window_start", "ascending")])
    assert len(ordered) > 0
    return hashlib.sha256(repr(ordered.to_pylist()).encode()).hexdigest()


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (lake, spark_up, rebuilds)}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
