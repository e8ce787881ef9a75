"""The four kinds of table maintenance: compaction, manifest rewrite, snapshot expiry, orphan removal.

Each checks all tables, does what is due, and is idempotent. Each may run alongside the stream and every other writer;
only one runs at a time, because they would invalidate each other's plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.errors import MaintenanceInUseError
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.maintenance import compaction
from cryptolake_assets.lake.maintenance.crowded import crowded_files
from cryptolake_assets.lake.maintenance.expiry import due_snapshots, expire, history_of
from cryptolake_assets.lake.maintenance.layout import LiveFile, TableState, count_small, manifests, sizes_on_disk
from cryptolake_assets.lake.maintenance.manifests import merge_manifests
from cryptolake_assets.lake.maintenance.orphans import remove_lone_checksums, remove_orphans
from cryptolake_assets.lake.marts import marts_tables
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.model.windows import EPOCH, HOUR
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

REWRITE_BELOW_BYTES = 384 * 1024 * 1024  # Spark joins files below three quarters of its target size, 512 MiB

LATE = timedelta(hours=1)  # an hour with few files is compacted if no file arrived for this long

STRAY = HOUR  # an hour that begins more than this ahead of the exchange clock comes from trades with a wrong time

MANY_FILES = 200  # a closed hour with this many files is compacted even if rows still arrive


class Task(StrEnum):
    """The kinds of maintenance, in the order in which each helps the next."""

    COMPACTION = "compaction"
    MANIFESTS = "manifest_rewrite"
    SNAPSHOTS = "snapshot_expiry"
    ORPHANS = "orphan_removal"


@dataclass(frozen=True)
class StreamPosition:
    """The exchange clock and the ids of the streaming queries.

    If the clock is None (unknown), no hour counts as closed.
    """

    exchange_time: datetime | None
    query_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TableChange:
    """A table before and after a task, and a short description of the change; empty if nothing was due."""

    before: TableState
    after: TableState
    done: str

    def shown(self, figure: str) -> str:
        """Return a figure as text: `before → after` if it changed; empty if it was not measured."""
        old, new = getattr(self.before, figure), getattr(self.after, figure)
        if old is None:
            return ""
        return f"{old:,}" if old == new else f"{old:,} → {new:,}"


@dataclass(frozen=True)
class Report:
    """The result of one kind of maintenance."""

    task: Task
    tables: list[TableChange]

    @property
    def changed(self) -> list[TableChange]:
        return [change for change in self.tables if change.done]

    def totals(self) -> dict[str, int]:
        """Return the sums over all tables, by `<figure>_before` and `<figure>_after`."""
        return {
            f"{figure}_{when}": sum(getattr(getattr(change, when), figure) for change in self.tables)
            for figure in FIGURES
            for when in ("before", "after")
            if all(getattr(change.before, figure) is not None for change in self.tables)
        }


FIGURES = tuple(field.name for field in fields(TableState) if field.name != "table")


@dataclass(frozen=True)
class BronzeHour:
    """An hour of Bronze: the number of files that could be joined, and when the newest of them arrived.

    `newest` is None if that was before the oldest snapshot in the metadata.
    """

    hour: datetime
    files: int
    newest: datetime | None


def due_hours(
    hours: Iterable[BronzeHour],
    exchange_time: datetime | None,
    now: datetime,
    *,
    grace: timedelta,
    min_files: int,
    limit: int,
) -> list[datetime]:
    """Return the hours to compact now: at most `limit`, those with the most files.

    An hour is closed once the exchange clock is past its end by the grace; a stray hour in the far future counts as
    closed. A closed hour is due with `min_files` if nothing was appended for the grace, with two files if nothing was
    appended for `LATE`, and with `MANY_FILES` at once.
    """
    if exchange_time is None:
        return []
    due = []
    for item in hours:
        is_closed = item.hour + HOUR + grace <= exchange_time or item.hour > exchange_time + STRAY
        idle = timedelta.max if item.newest is None else now - item.newest
        is_worthwhile = (
            item.files >= max(min_files, MANY_FILES)
            or (item.files >= min_files and idle >= grace)
            or (item.files >= 2 and idle >= LATE)
        )
        if is_closed and is_worthwhile:
            due.append(item)
    due.sort(key=lambda item: (-item.files, item.hour))
    return sorted(item.hour for item in due[:limit])


def hours_of(files: Iterable[LiveFile], committed_at: Callable[[int | None], datetime | None]) -> list[BronzeHour]:
    """Group Bronze's joinable files by hour; `committed_at` maps a snapshot to its commit time."""
    found: dict[datetime, list[datetime | None]] = {}
    for file in files:
        if file.size_bytes < REWRITE_BELOW_BYTES:
            hour = EPOCH + timedelta(hours=file.partition[0])
            found.setdefault(hour, []).append(committed_at(file.snapshot_id))
    return [
        BronzeHour(hour, len(times), max((moment for moment in times if moment is not None), default=None))
        for hour, times in found.items()
    ]


def maintain(settings: Settings, task: Task, position: StreamPosition) -> Report:
    """Run one kind of maintenance on every table that needs it.

    Raises `MaintenanceInUseError` if another process maintains the tables, `SparkError` if Spark is needed and is
    unreachable or fails; the tables maintained before that keep their changes.
    """
    with maintenance_lock(settings):
        maintainer = _TableMaintainer(settings, position)
        try:
            changes = []
            for spec in (*TABLES, *marts_tables(settings)):
                started = time.monotonic()
                table = load_table(settings, spec)
                before = _state_of(settings, task, table)
                done = maintainer.run(task, spec, table)
                after = _state_of(settings, task, table.refresh()) if done else before
                changes.append(TableChange(before, after, done))
                if done:
                    duration_s = round(time.monotonic() - started, 1)
                    log.info(
                        "table_maintained", task=task.value, table=spec.full_name, change=done, duration_s=duration_s
                    )
            return Report(task, changes)
        finally:
            maintainer.close()


def _state_of(settings: Settings, task: Task, table: Table) -> TableState:
    """Return the table's current figures; disk use only for orphan removal, which lists the directory anyway."""
    snapshot = table.current_snapshot()
    totals = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    on_disk = sizes_on_disk(table) if task is Task.ORPHANS else None
    return TableState(
        table=".".join(table.name()),
        files=int(totals.get("total-data-files", 0)),
        size_bytes=int(totals.get("total-files-size", 0)),
        small_files=count_small(crowded_files(settings, table), settings.small_file_bytes),
        manifests=len(manifests(table)),
        snapshots=len(table.metadata.snapshots),
        disk_files=None if on_disk is None else len(on_disk),
        disk_bytes=None if on_disk is None else sum(on_disk),
    )


class _TableMaintainer:
    """Maintains one table at a time; connects to Spark on first use."""

    def __init__(self, settings: Settings, position: StreamPosition) -> None:
        self._settings = settings
        self._position = position

    @cached_property
    def _spark(self) -> SparkSession:
        from cryptolake_assets.lake.spark_session import connect

        return connect(self._settings)

    def close(self) -> None:
        if "_spark" in self.__dict__:
            self._spark.stop()

    def run(self, task: Task, spec: TableSpec, table: Table) -> str:
        """Do what is due and return a short description of it."""
        match task:
            case Task.COMPACTION:
                return self._compact(spec, table)
            case Task.MANIFESTS:
                return self._merge_manifests(table)
            case Task.SNAPSHOTS:
                return self._expire(table)
            case Task.ORPHANS:
                return self._remove_orphans(spec, table)

    def _compact(self, spec: TableSpec, table: Table) -> str:
        if spec.rewritten:
            return ""
        files = crowded_files(self._settings, table)
        if any(spec is tables.trades for tables in FAMILY_TABLES.values()):
            hours = self._due_hours(files, table)
            if hours:
                compaction.compact_hours(self._settings, self._spark, spec, hours)
            return f"{len(hours)} hours" if hours else ""
        partitions = due_partitions(files, self._settings.compaction_min_files)
        if partitions:
            compaction.compact_table(self._spark, spec, self._settings.compaction_min_files)
        return f"{len(partitions)} partitions" if partitions else ""

    def _due_hours(self, files: Sequence[LiveFile], table: Table) -> list[datetime]:
        times = {
            snapshot.snapshot_id: datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
            for snapshot in table.metadata.snapshots
        }
        return due_hours(
            hours_of(files, lambda snapshot_id: times.get(snapshot_id or 0)),
            self._position.exchange_time,
            datetime.now(UTC),
            grace=timedelta(seconds=self._settings.compaction_grace_s),
            min_files=self._settings.compaction_min_files,
            limit=self._settings.compaction_max_hours,
        )

    def _merge_manifests(self, table: Table) -> str:
        number = merge_manifests(table)
        return f"{number} small manifests" if number else ""

    def _expire(self, table: Table) -> str:
        cutoff_ms = round((time.time() - self._settings.snapshot_retention_s) * 1000)

        def choose(table: Table) -> list[int]:
            history = history_of(table)
            return due_snapshots(history, cutoff_ms, self._settings.snapshots_kept, self._position.query_ids)

        expired = expire(table, choose)
        return f"{expired.snapshots} snapshots, {expired.files} files" if expired.snapshots else ""

    def _remove_orphans(self, spec: TableSpec, table: Table) -> str:
        if not table.metadata.snapshots:
            return ""
        retention = timedelta(hours=self._settings.orphan_retention_h)
        number = len(remove_orphans(self._spark, spec, retention))
        location = local_path(table.location())
        if "://" not in location:
            number += remove_lone_checksums(Path(location), retention)
        return f"{number} files" if number else ""


def due_partitions(files: Iterable[LiveFile], min_files: int) -> set[tuple[object, ...]]:
    """Return the partitions with at least `min_files` files that Spark would join."""
    numbers: dict[tuple[object, ...], int] = {}
    for file in files:
        if file.size_bytes < REWRITE_BELOW_BYTES:
            numbers[file.partition] = numbers.get(file.partition, 0) + 1
    return {partition for partition, number in numbers.items() if number >= min_files}


@contextmanager
def maintenance_lock(settings: Settings, wait_s: float = 0) -> Iterator[None]:
    """Hold the lock for maintenance of this home's tables.

    Raises `MaintenanceInUseError` if another process still holds it after `wait_s`.
    """
    from filelock import FileLock, Timeout

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    path = settings.run_dir / "maintenance.lock"
    try:
        with FileLock(path, timeout=wait_s):
            yield
    except Timeout:
        raise MaintenanceInUseError(
            f"maintenance: another process maintains the tables ({path}). Wait until it ends, then retry."
        ) from None
