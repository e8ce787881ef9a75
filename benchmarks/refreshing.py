"""Incremental refresh of a lake: append a minute of new trades to Bronze and time the refresh of Silver."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lakes
from benchmarks.trades import SYMBOLS, KafkaOffsets, Trades, bronze_rows
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.engine import AggregationEngine

_IO = Path("/proc/self/io")


class Follower:
    """Refresh one lake minute by minute and store the cost of timed refreshes. `pending` yields the next minutes."""

    def __init__(self, settings: Settings, engine: AggregationEngine, pending: Iterator[Trades], hour_ms: int) -> None:
        self._settings = settings
        self._engine = engine
        self._pending = pending
        self._hour = datetime.fromtimestamp(hour_ms / 1000, UTC)
        self._offsets = KafkaOffsets()
        self._costs: list[dict[str, float]] = []

    def take_minute(self, *, timed: bool) -> None:
        """Append the next minute and refresh; store the cost if `timed`."""
        trades, sequence = self._append()
        wall, cpu, read = time.perf_counter(), time.process_time(), _bytes_read()
        self._refresh(sequence)
        cost = {
            "seconds": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "bytes_read": _bytes_read() - read,
            "trades": len(trades),
        }
        if timed:
            self._costs.append(cost)

    def observed(self) -> dict[str, Any]:
        """Return medians over the timed refreshes, and the seconds of each."""
        medians = {name: statistics.median(cost[name] for cost in self._costs) for name in self._costs[0]}
        return {
            "median_s": round(medians["seconds"], 4),
            "cpu_s": round(medians["cpu_s"], 4),
            "bytes_read": int(medians["bytes_read"]),
            "new_trades": int(medians["trades"]),
            "all_s": [round(cost["seconds"], 4) for cost in self._costs],
        }

    def inspected(self) -> dict[str, Any]:
        """Run one more refresh, not timed; return what it reads and writes, and the sizes of the tables."""
        from cryptolake_assets.lake.bronze_files import files_between
        from cryptolake_assets.lake.catalog import load_table
        from cryptolake_assets.model.family_tables import FUTURES

        trades, sequence = self._append()
        with _counting_manifests() as read:
            self._refresh(sequence)
        minutes = trades.event_ms // MINUTE_MS
        first = datetime.fromtimestamp(int(minutes.min()) * 60, UTC)
        last = datetime.fromtimestamp(int(minutes.max()) * 60, UTC) + timedelta(minutes=1)
        bronze = lakes.bronze(self._settings)
        snapshot, silver = bronze.current_snapshot(), load_table(self._settings, FUTURES.bars).current_snapshot()
        assert snapshot is not None
        assert snapshot.summary is not None
        assert silver is not None
        assert silver.summary is not None
        return {
            "windows_touched": len(np.unique(minutes * len(SYMBOLS) + trades.symbol)),
            "bronze_files_read": len(files_between(bronze, snapshot.snapshot_id, first, last)),
            "manifests_read": len(read),
            "silver_rows_written": int(silver.summary["added-records"] or 0),
            "bronze_rows": int(snapshot.summary["total-records"] or 0),
            "bronze_files": int(snapshot.summary["total-data-files"] or 0),
            "bronze_manifests": len(lakes.manifests(bronze)),
            "silver_rows": int(silver.summary["total-records"] or 0),
            "silver_files": int(silver.summary["total-data-files"] or 0),
        }

    def _append(self) -> tuple[Trades, int]:
        """Append the next minute of trades as a micro-batch; return them and the snapshot's sequence number."""
        trades = next(self._pending)
        table = lakes.bronze(self._settings)
        lakes.append(table, lakes.data_files(table, bronze_rows(trades, *self._offsets.assign(trades))))
        snapshot = table.current_snapshot()
        assert snapshot is not None
        return trades, snapshot.sequence_number or 0

    def _refresh(self, sequence: int) -> None:
        from cryptolake_assets.transform.silver_run import run_silver

        list(run_silver(self._settings, self._engine, [self._hour], "benchmark", from_sequence=sequence))


@contextmanager
def _counting_manifests() -> Iterator[list[str]]:
    """Collect the paths of the manifests that PyIceberg reads within the context, of all tables."""
    from pyiceberg.manifest import ManifestFile

    read: list[str] = []
    original = ManifestFile.fetch_manifest_entry

    def counted(self: ManifestFile, *arguments: Any, **named: Any) -> Any:
        read.append(self.manifest_path)
        return original(self, *arguments, **named)

    ManifestFile.fetch_manifest_entry = counted  # type: ignore[method-assign]
    try:
        yield read
    finally:
        ManifestFile.fetch_manifest_entry = original  # type: ignore[method-assign]


def _bytes_read() -> int:
    """Return the bytes that this process has read with read calls, by the kernel's count; 0 if unavailable."""
    if not _IO.exists():
        return 0
    return int(_IO.read_text().splitlines()[0].split()[1])
