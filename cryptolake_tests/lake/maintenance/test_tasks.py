"""Due compaction and manifest rewrites, and maintenance without Spark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cryptolake_assets.errors import MaintenanceInUseError, SparkError
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.maintenance import manifests
from cryptolake_assets.lake.maintenance.crowded import small_files
from cryptolake_assets.lake.maintenance.layout import LiveFile, count_small, live_files
from cryptolake_assets.lake.maintenance.orphans import remove_lone_checksums
from cryptolake_assets.lake.maintenance.tasks import (
    FIGURES,
    LATE,
    MANY_FILES,
    REWRITE_BELOW_BYTES,
    BronzeHour,
    StreamPosition,
    Task,
    due_hours,
    due_partitions,
    hours_of,
    maintain,
    maintenance_lock,
)
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
START = datetime(2024, 7, 19, 10, tzinfo=UTC)
"""An hour of a replay: the exchange clock differs from this machine's clock."""
GRACE = timedelta(minutes=5)
LONG_CLOSED = START + timedelta(days=1)


def due(hours: Sequence[BronzeHour], exchange_time: datetime | None = LONG_CLOSED, limit: int = 10) -> list[datetime]:
    return due_hours(hours, exchange_time, NOW, grace=GRACE, min_files=5, limit=limit)


def files(number: int, idle: timedelta | None = GRACE, hour: datetime = START) -> BronzeHour:
    return BronzeHour(hour, number, None if idle is None else NOW - idle)


@pytest.mark.parametrize(
    ("exchange_time", "expected"),
    [
        (START + HOUR + GRACE, [START]),
        (START + HOUR + GRACE - timedelta(milliseconds=1), []),
        (START, []),
        (START - HOUR, []),
        (START - HOUR - timedelta(milliseconds=1), [START]),
        (None, []),
    ],
    ids=["closed", "within the grace", "open", "next hour", "stray future hour", "unknown clock"],
)
def test_hour_is_due_once_the_exchange_clock_has_passed_it(
    exchange_time: datetime | None, expected: list[datetime]
) -> None:
    assert due([files(700)], exchange_time) == expected


@pytest.mark.parametrize(
    ("item", "is_due"),
    [
        (files(5), True),
        (files(5, GRACE - timedelta(seconds=1)), False),
        (files(MANY_FILES, timedelta(0)), True),
        (files(4), False),
        (files(2, LATE), True),
        (files(2, LATE - timedelta(seconds=1)), False),
        (files(2, None), True),
        (files(1, None), False),
    ],
    ids=["idle", "active", "very many files", "few files", "few, idle long", "few, idle short", "few, old", "one file"],
)
def test_hour_is_due_by_its_number_of_files_and_idle_time(item: BronzeHour, is_due: bool) -> None:
    assert bool(due([item])) == is_due


def test_run_compacts_the_hours_with_most_files_up_to_its_limit() -> None:
    hours = [files(number, hour=START + number * HOUR) for number in (10, 7, 12, 9)]
    assert due(hours, START + timedelta(days=9), limit=2) == [START + 10 * HOUR, START + 12 * HOUR]


def test_hours_have_their_joinable_files_and_the_newest_commit_time() -> None:
    number = int(START.timestamp()) // 3600
    big = LiveFile((number,), REWRITE_BELOW_BYTES, 3)
    found = [LiveFile((number,), 10, 1), LiveFile((number,), 10, 2), big, LiveFile((number + 1,), 10, None)]
    known: dict[int | None, datetime] = {1: NOW, 2: NOW - HOUR}
    assert hours_of(found, known.get) == [BronzeHour(START, 2, NOW), BronzeHour(START + HOUR, 1, None)]


def test_partition_is_due_by_its_joinable_files() -> None:
    found = [*[LiveFile((1,), 10, 1)] * 3, *[LiveFile((2,), 10, 1)] * 2, LiveFile((2,), REWRITE_BELOW_BYTES, 1)]
    assert due_partitions(found, 3) == {(1,)}


def test_file_is_small_if_its_partition_has_another_small_file() -> None:
    found = [LiveFile((1,), 10, 1), LiveFile((2,), 10, 1), LiveFile((2,), 99, 1), LiveFile((2,), 100, 1)]
    assert count_small(found, 100) == 2


def test_layout_is_read_from_the_metadata(lake: Settings) -> None:
    assert small_files(lake) == {spec.full_name: 0 for spec in TABLES}
    append(lake, [trade(START, 1), trade(START + HOUR, 2)])
    append(lake, [trade(START, 3)])
    table = load_table(lake, FUTURES.trades)
    hour = int(START.timestamp()) // 3600
    assert sorted(file.partition for file in live_files(table)) == [(hour,), (hour,), (hour + 1,)]
    assert small_files(lake)[FUTURES.trades.full_name] == 2
    assert len(manifests.small_manifests(table)) == 2


def test_maintenance_without_due_work_needs_no_spark(lake: Settings) -> None:
    append(lake, [trade(START, 1)])
    for task in Task:
        if task is not Task.ORPHANS:
            assert maintain(lake, task, StreamPosition(LONG_CLOSED)).changed == []


def test_compaction_without_spark_raises_an_error_and_changes_nothing(lake: Settings) -> None:
    for number in range(5):
        append(lake, [trade(START, number)])
    eager = lake.model_copy(update={"compaction_grace_s": 0, "spark_connect_port": 1})
    before = load_table(lake, FUTURES.trades).metadata.current_snapshot_id
    with pytest.raises(SparkError, match="cryptolake up"):
        maintain(eager, Task.COMPACTION, StreamPosition(LONG_CLOSED))
    assert load_table(lake, FUTURES.trades).metadata.current_snapshot_id == before


def test_snapshots_expire_without_spark_and_are_reported(lake: Settings) -> None:
    for number in range(6):
        append(lake, [trade(START, number)])
    assert maintain(lake, Task.SNAPSHOTS, StreamPosition(None)).changed == [], "younger than the retention"
    eager = lake.model_copy(update={"snapshot_retention_s": 0, "snapshots_kept": 2})
    report = maintain(eager, Task.SNAPSHOTS, StreamPosition(None))
    (change,) = report.changed
    assert change.before.table == "bronze.futures_trades"
    assert (change.before.snapshots, change.after.snapshots) == (6, 2)
    assert change.done == "4 snapshots, 4 files"
    assert (change.before.files, change.before.size_bytes) == (change.after.files, change.after.size_bytes)
    totals = report.totals()
    listed = {figure for figure in FIGURES if not figure.startswith("disk")}
    assert set(totals) == {f"{figure}_{when}" for figure in listed for when in ("before", "after")}
    assert (totals["snapshots_before"], totals["snapshots_after"]) == (6, 2)
    assert maintain(eager, Task.SNAPSHOTS, StreamPosition(None)).changed == []


def test_second_maintenance_process_is_rejected(lake: Settings) -> None:
    with maintenance_lock(lake), pytest.raises(MaintenanceInUseError, match="another process"):
        maintain(lake, Task.SNAPSHOTS, StreamPosition(None))
    assert maintain(lake, Task.SNAPSHOTS, StreamPosition(None)).changed == []


def test_manifests_are_merged_above_the_limit(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        append(lake, [trade(START, number)])
    assert maintain(lake, Task.MANIFESTS, StreamPosition(None)).changed == []
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 2)
    (change,) = maintain(lake, Task.MANIFESTS, StreamPosition(None)).changed
    assert change.done == "3 small manifests"
    assert (change.before.manifests, change.after.manifests) == (3, 1)
    assert (change.before.files, change.after.files) == (3, 3)


def test_old_checksum_without_its_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("here", ".here.crc", ".gone.crc", ".young.crc", ".other"):
        (tmp_path / "data" / name).write_bytes(b"")
        if name != ".young.crc":
            os.utime(tmp_path / "data" / name, (1, 1))
    assert remove_lone_checksums(tmp_path, timedelta(hours=1)) == 1
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"here", ".here.crc", ".young.crc", ".other"}
