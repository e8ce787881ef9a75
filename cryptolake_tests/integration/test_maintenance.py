"""Maintenance on the real Spark, catalog and Bronze stream: fewer files and snapshots, no row lost or duplicated.

The tests share a separate platform without Dagster and run in this order: the stream comes last.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.bronze.offsets import query_ids, query_of
from cryptolake_assets.lake.bronze_files import added_files, current_sequence, local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.maintenance import manifests as merging
from cryptolake_assets.lake.maintenance.expiry import history_of
from cryptolake_assets.lake.maintenance.layout import live_files, manifests
from cryptolake_assets.lake.maintenance.tasks import Report, StreamPosition, Task, maintain
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.stream_checkpoints import checkpoint
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import SPOT, Family, Market
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.quality.reconciliation import Verdict
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import run_metrics as metrics
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.replaying import (
    FRAMES,
    SPEED,
    kill,
    refreshed_bars,
    verdicts,
    wait_until_all_is_in_bronze,
)
from cryptolake_tests.support.waiting import wait_for

HOUR = datetime(2024, 7, 18, 5, tzinfo=UTC)
AFTER_EVERY_HOUR = StreamPosition(HOUR + timedelta(days=400))
"""An exchange time after the end of every hour, including the one that the stream writes."""
OLD_S = 5 * 24 * 3_600

BRONZE_ROWS = "SELECT * FROM cryptolake.bronze.futures_trades ORDER BY ALL"
SPOT_ROWS = "SELECT * FROM cryptolake.bronze.spot_trades ORDER BY ALL"
METRICS_ROWS = "SELECT * FROM cryptolake.ops.run_metrics ORDER BY ALL"


@pytest.fixture(scope="module")
def home(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A platform with Kafka and Spark, in a directory with a space in its name."""
    settings = settings_for(
        tmp_path_factory.mktemp("own home"),
        replay_speed=SPEED,
        bronze_trigger_s=1.0,
        bronze_max_offsets=1_500,
        coverage_interval_s=1.0,
        compaction_grace_s=0,
    )
    with start_platform(settings, [KAFKA, SPARK]):
        yield settings


def expire_at_once(settings: Settings) -> Settings:
    """Return settings that expire everything at once, with retentions below the allowed minimum."""
    return settings.model_copy(update={"snapshot_retention_s": 0, "snapshots_kept": 2, "compaction_min_files": 2})


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_sql(settings, sql).to_pylist()
    return found


def changes(report: Report) -> dict[str, str]:
    return {change.before.table: change.done for change in report.changed}


def age(path: Path) -> None:
    moment = time.time() - OLD_S
    os.utime(path, (moment, moment))


def test_maintenance_tasks_keep_every_row_and_a_second_run_changes_nothing(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MANIFESTS_ENOUGH", 10)
    for number in range(20):
        late = trade(HOUR - timedelta(days=1), 900 + number)
        append(home, [trade(HOUR + timedelta(seconds=number), number), *([late] if number < 3 else [])])
    for number in range(6):
        row = metrics.RunMetrics(f"run {number}", "silver/futures_ohlcv_1m", "p", "duckdb", 1, 1, 1, 1, 1, 1)
        metrics.record(home, [row])
    before = rows(home, BRONZE_ROWS), rows(home, METRICS_ROWS)
    bronze = load_table(home, FUTURES.trades)
    cursor = current_sequence(bronze)
    newest_snapshot_id = bronze.metadata.current_snapshot_id
    assert len(live_files(bronze)) == 23

    position = AFTER_EVERY_HOUR
    settings = home.model_copy(update={"snapshot_retention_s": 0, "snapshots_kept": 3})
    assert changes(maintain(settings, Task.MANIFESTS, position)) == {"bronze.futures_trades": "20 small manifests"}
    assert len(manifests(load_table(home, FUTURES.trades))) <= 2
    assert added_files(load_table(home, FUTURES.trades), cursor) == []
    cursor = current_sequence(load_table(home, FUTURES.trades))
    compacted = maintain(settings, Task.COMPACTION, position)
    # The late hour has only three files, too few for compaction.
    assert changes(compacted) == {"bronze.futures_trades": "1 hours", "ops.run_metrics": "1 partitions"}
    assert len(live_files(load_table(home, FUTURES.trades))) == 4
    assert len(live_files(load_table(home, OPS_RUN_METRICS))) == 1
    (change,) = [
        change
        for change in maintain(settings, Task.SNAPSHOTS, position).changed
        if change.before.table == "bronze.futures_trades"
    ]
    assert (change.before.snapshots, change.after.snapshots) == (22, 3)
    assert int(change.done.split()[-2]) >= 19

    # Everything is older than the retention now; every file except one orphan is in use.
    warehouse = Path(local_path(home.warehouse_location))
    orphan, young = (warehouse / f"bronze/futures_trades/data/{name}.parquet" for name in ("orphan", "young"))
    commit_file = warehouse / "_checkpoints" / query_of(TRADES) / "commits" / "0"
    commit_file.parent.mkdir(parents=True)
    for path in (orphan, commit_file):
        path.write_bytes(b"left by a writer that was killed")
    for path in warehouse.rglob("*"):
        age(path)
    young.write_bytes(b"about to be committed")
    bronze = load_table(home, FUTURES.trades)
    spellings = {task.file.file_path.partition("/own")[0][:7] for task in bronze.scan().plan_files()}
    assert len(spellings) == 2, "the test needs both `file:/` and `file:///`"
    files = {path for path in warehouse.rglob("*") if path.is_file()}
    removed = maintain(settings, Task.ORPHANS, position)
    gone = files - {path for path in warehouse.rglob("*") if path.is_file()}
    assert orphan in gone
    assert young.exists()
    assert commit_file.exists()
    assert {"bronze.futures_trades"} <= set(changes(removed)) <= {f"{path.parts[-4]}.{path.parts[-3]}" for path in gone}
    young.unlink()
    commit_file.unlink()
    commit_file.parent.rmdir()
    commit_file.parent.parent.rmdir()

    assert (rows(home, BRONZE_ROWS), rows(home, METRICS_ROWS)) == before
    assert next(version.snapshot_id for version in history_of(load_table(home, FUTURES.trades))) == newest_snapshot_id
    at_snapshot = load_table(home, FUTURES.trades).scan(snapshot_id=newest_snapshot_id).to_arrow()
    assert sorted(at_snapshot["trade_id"].to_pylist()) == sorted(row["trade_id"] for row in before[0])
    assert added_files(load_table(home, FUTURES.trades), cursor) == []
    # The snapshots that added the late hour's files are expired, so it counts as old now.
    assert changes(maintain(settings, Task.COMPACTION, position)) == {"bronze.futures_trades": "1 hours"}
    maintain(settings, Task.SNAPSHOTS, position)
    checksums = [path for path in warehouse.rglob(".*.crc") if ".metadata.json" not in path.name]
    assert checksums
    assert [path for path in checksums if not path.with_name(path.name[1:-4]).exists()] == []
    assert (rows(home, BRONZE_ROWS), rows(home, METRICS_ROWS)) == before
    for task in Task:
        assert changes(maintain(settings, task, position)) == {}, task


def test_hours_of_spot_trades_are_compacted_like_those_of_futures(home: Settings) -> None:
    settings = home.model_copy(update={"snapshot_retention_s": 0, "snapshots_kept": 3})
    for number in range(5):
        symbols = ("ETHUSDT", "BTCUSDT")
        append(
            home.of_market(Market.SPOT),
            [trade(HOUR + timedelta(seconds=number), number, symbol=name, exchange=SPOT.exchange) for name in symbols],
        )
    before = rows(home, SPOT_ROWS)
    assert changes(maintain(settings, Task.COMPACTION, AFTER_EVERY_HOUR)) == {"bronze.spot_trades": "1 hours"}
    assert changes(maintain(settings, Task.SNAPSHOTS, AFTER_EVERY_HOUR))["bronze.spot_trades"].startswith("3 snapshots")
    (file,) = load_table(home, FAMILY_TABLES[Family.SPOT].trades).scan().plan_files()
    stored = pq.read_table(local_path(file.file.file_path)).to_pylist()
    assert [(row["symbol"], row["trade_id"]) for row in stored] == [
        (symbol, number) for symbol in ("BTCUSDT", "ETHUSDT") for number in range(5)
    ]
    assert rows(home, SPOT_ROWS) == before


@pytest.mark.nightly
def test_maintenance_during_the_stream_and_kills_loses_and_duplicates_no_row(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MANIFESTS_ENOUGH", 2)
    other_rows = len(rows(home, BRONZE_ROWS))
    lifecycle.up(home, [KAFKA, SPARK, EXCHANGE, BRONZE])
    lifecycle.up(home, [KAFKA, SPARK, EXCHANGE, BRONZE, PRODUCER])
    done: list[str] = []
    with MaintenanceThread(home, done):
        # At least two small batches are committed by then, and more follow.
        wait_for(lambda: any("hours" in item for item in done), timeout_s=180)
        kill(home, BRONZE)
        refreshed_bars(home)
        wait_until_all_is_in_bronze(home)
    for what in ("hours", "manifests", "snapshots"):
        assert any(what in item for item in done), f"maintenance changed no {what} while the stream ran"

    # Delete the checkpoint's commit of the last batch, after expiring as many snapshots as possible.
    lifecycle.stop(home, BRONZE)
    maintain_all(home, Task)
    assert len(history_of(load_table(home, FUTURES.trades))) < 10
    commits = Path(local_path(checkpoint(home, query_of(TRADES)))) / "commits"
    last = max(int(path.name) for path in commits.iterdir() if path.name.isdigit())
    for path in (commits / str(last), commits / f".{last}.crc"):
        path.unlink(missing_ok=True)
    lifecycle.start(home, BRONZE)
    wait_for(lambda: (commits / str(last)).exists(), timeout_s=120)
    wait_until_all_is_in_bronze(home)

    trades = rows(home, "SELECT symbol, stream, trade_id FROM cryptolake.bronze.futures_trades")
    assert len(trades) == FRAMES + other_rows
    assert len({tuple(row.values()) for row in trades}) == FRAMES + other_rows
    bars = [bar for bar in refreshed_bars(home) if bar["window_start"] >= HOUR + timedelta(hours=2)]
    found = verdicts(home, bars)
    assert (found.count(Verdict.EQUAL), found.count(Verdict.INCOMPLETE)) == (14, len(bars) - 14)


def maintain_all(settings: Settings, tasks: Iterable[Task]) -> list[str]:
    position = StreamPosition(AFTER_EVERY_HOUR.exchange_time, query_ids(settings))
    return [item for task in tasks for item in changes(maintain(expire_at_once(settings), task, position)).values()]


class MaintenanceThread:
    """Runs the maintenance tasks that change tables repeatedly in a thread; fails if one of them fails."""

    def __init__(self, settings: Settings, done: list[str]) -> None:
        self._settings, self._done = settings, done
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._errors == []

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._done += maintain_all(self._settings, (Task.COMPACTION, Task.MANIFESTS, Task.SNAPSHOTS))
        except BaseException as error:
            self._errors.append(error)
