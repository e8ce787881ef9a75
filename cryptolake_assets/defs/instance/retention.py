"""Retention of Dagster's own records: finished runs, their events and logs, and events without a run.

A purge keeps the state at the retention limit: the newest event of each kind per (asset, partition) before the limit,
the newest evaluation per (check, partition) before it, and their runs. It keeps all records after the limit. Queries
about the present, or any moment since the limit, return the same as before. A purge decides by rows before the limit
only, so concurrent writes by Dagster cannot invalidate it.

Works on the tables of Dagster's SQL storages, which SQLite and PostgreSQL share.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
import structlog

from cryptolake_assets.errors import RetentionError
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
    from sqlalchemy import Connection, Table
    from sqlalchemy.sql import ColumnElement, Executable, Select
    from sqlalchemy.sql.selectable import ScalarSelect

    Connect = Callable[[], AbstractContextManager[Connection]]

log = structlog.get_logger(__name__)
T = TypeVar("T")

BATCH = 200
LOCK_RETRIES = 5
PAUSE_S = 0.02  # between two batches, so that other processes can take SQLite's write lock
EMPTY_TICK_LOG_AGE = timedelta(hours=1)
RUNLESS = ""
_TICK_LOG = re.compile(r"\d+\.(err|out|complete)")
_SUCCEEDED = ("SUCCESS",)
_NOT_SUCCEEDED = ("FAILURE", "CANCELED")
_RERUN_TAGS = ("dagster/root_run_id", "dagster/parent_run_id")


@dataclass(frozen=True)
class Limits:
    """Retention limits (UTC): `successes` for successful runs and superseded events, `failures` for other runs."""

    successes: datetime
    failures: datetime

    @classmethod
    def of(cls, settings: Settings, now: datetime) -> Limits:
        return cls(
            now - timedelta(days=settings.run_retention_days), now - timedelta(days=settings.failed_run_retention_days)
        )


@dataclass
class Purged:
    """Counts of deleted records. `runs_trimmed` lost logs and events but stay, because a partition's state refers to
    them; `is_complete` is False if records are left for the next run."""

    runs: int = 0
    runs_trimmed: int = 0
    events: int = 0
    check_executions: int = 0
    backfills: int = 0
    tick_logs: int = 0
    file_bytes: int = 0
    is_complete: bool = True


@dataclass(frozen=True)
class Census:
    """Counts of existing records. `bytes_on_disk` is 0 if the storage is not on this machine."""

    runs: int
    events: int
    check_executions: int
    bytes_on_disk: int


def census(instance: dg.DagsterInstance) -> Census:
    """Count the records that `purge` limits."""
    import sqlalchemy as db
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
    from dagster._core.storage.runs.schema import RunsTable

    runs, events = storages(instance)
    tables = {
        RunsTable: runs.connect,
        SqlEventLogStorageTable: events.index_connection,
        AssetCheckExecutionsTable: events.index_connection,
    }
    counts = []
    for table, connect in tables.items():
        with connect() as connection:
            counts.append(connection.execute(db.select(db.func.count()).select_from(table)).scalar_one())
    run_count, event_count, check_count = counts
    return Census(run_count, event_count, check_count, sum(_size(path) for path in _state_directories(instance)))


def purge(instance: dg.DagsterInstance, limits: Limits, *, max_s: float = 600.0) -> Purged:
    """Delete records past the limits, oldest first, for about `max_s` seconds; the next run deletes the rest.

    Safe while daemon and webserver run, and safe to interrupt: a run's row is deleted last. Raises `RetentionError`
    for storages other than Dagster's SQL storages.
    """
    runs, events = storages(instance)
    work = _Purge(instance, runs, events, limits, time.monotonic() + max_s)
    for step in (work.successes, work.failures, work.backfills, work.tick_logs):
        step()
    log.info("event_log_purged", **vars(work.purged))
    return work.purged


@dataclass(frozen=True)
class _State:
    """Ids of the rows that hold the state at a limit, and the newest ids of all.

    The newest row always stays: SQLite would reuse its id, and Dagster's cursors are ids.
    """

    events: frozenset[int]
    checks: frozenset[int]


@dataclass
class _Purge:
    """One pass over the records."""

    instance: dg.DagsterInstance
    run_storage: SqlRunStorage
    event_storage: SqlEventLogStorage
    limits: Limits
    deadline: float
    purged: Purged = field(default_factory=Purged)

    def successes(self) -> None:
        """Delete successful runs, then superseded events without a run."""
        limit = self.limits.successes
        state = self._state_at(limit)
        self._runs(_SUCCEEDED, limit, state)
        self._superseded([RUNLESS], limit, state)
        if self.event_storage.is_run_sharded:
            self._runless_copies(limit)

    def failures(self) -> None:
        """Delete failed and canceled runs."""
        self._runs(_NOT_SUCCEEDED, self.limits.failures, self._state_at(self.limits.failures))

    def backfills(self) -> None:
        """Delete finished backfills without remaining runs."""
        import sqlalchemy as db
        from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
        from dagster._core.storage.runs.schema import BackfillTagsTable, BulkActionsTable, RunsTable

        table = BulkActionsTable.c
        old = db.select(table.id, table.key).where(
            table.id < _newest(BulkActionsTable),
            table.status.in_([status.value for status in BULK_ACTION_TERMINAL_STATUSES]),
            table.timestamp < _naive(self.limits.failures),
            ~db.exists().where(RunsTable.c.backfill_id == table.key),
        )
        for rows in self._pages(old, table.id, self.run_storage.connect):
            _execute(
                self.run_storage.connect,
                db.delete(BackfillTagsTable).where(BackfillTagsTable.c.backfill_id.in_([row.key for row in rows])),
                db.delete(BulkActionsTable).where(table.id.in_([row.id for row in rows])),
            )
            self.purged.backfills += len(rows)

    def tick_logs(self) -> None:
        """Delete empty and old log files of sensor ticks; Dagster creates them for every tick and never deletes any."""
        now, oldest = datetime.now(UTC), self.limits.failures
        for path in _tick_logs(Path(self.instance.storage_directory())):
            if self._deadline_passed():
                return
            try:
                stat = path.stat()
                changed = datetime.fromtimestamp(stat.st_mtime, UTC)
                if changed < oldest or (stat.st_size == 0 and changed < now - EMPTY_TICK_LOG_AGE):
                    path.unlink()
                    self.purged.tick_logs += 1
                    self.purged.file_bytes += stat.st_size
            except FileNotFoundError:
                continue

    def _state_at(self, limit: datetime) -> _State:
        """Return the newest event of each kind per (asset, partition), and the newest execution and newest completed
        execution per (check, partition). A finished run may leave an execution that never completed."""
        import sqlalchemy as db
        from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable

        event, check = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
        events = (
            db.select(db.func.max(event.id))
            .where(event.asset_key.is_not(None), event.timestamp < _naive(limit))
            .group_by(event.asset_key, event.dagster_event_type, event.partition)
        )
        checks = (
            db.select(db.func.max(check.id))
            .where(check.evaluation_event_timestamp < _naive(limit))
            .group_by(check.asset_key, check.check_name, check.partition)
        )
        completed = checks.where(check.execution_status.in_(("SUCCEEDED", "FAILED")))
        return _State(
            frozenset(self._ids(events, db.select(db.func.max(event.id)))),
            frozenset(self._ids(checks, completed, db.select(db.func.max(check.id)))),
        )

    def _ids(self, *queries: Select[Any]) -> set[int]:
        def read(connection: Connection) -> set[int]:
            return {row[0] for query in queries for row in connection.execute(query) if row[0] is not None}

        return transact(self.event_storage.index_connection, read)

    # Runs.

    def _runs(self, statuses: Sequence[str], limit: datetime, state: _State) -> None:
        import sqlalchemy as db
        from dagster._core.storage.runs.schema import RunsTable

        table = RunsTable.c
        ended = db.select(table.id, table.run_id).where(
            table.id < _newest(RunsTable),
            table.status.in_(statuses),
            db.or_(
                table.end_time < limit.timestamp(),
                db.and_(table.end_time.is_(None), table.update_timestamp < _naive(limit)),
            ),
        )
        for rows in self._pages(ended, table.id, self.run_storage.connect):
            run_ids = [str(row.run_id) for row in rows]
            self._superseded(run_ids, limit, state)
            if self._deadline_passed():
                return
            referenced = self._referenced(run_ids)
            for run_id in run_ids:
                bytes_deleted = self._delete_files(run_id)
                if run_id not in referenced:
                    self.instance.compute_log_manager.delete_logs(prefix=[run_id])
                    _retrying(partial(self.run_storage.delete_run, run_id))
                    self.purged.runs += 1
                elif bytes_deleted:
                    self.purged.runs_trimmed += 1

    def _referenced(self, run_ids: Sequence[str]) -> set[str]:
        """Return the runs that are still referenced: by the state of an asset or check, a pool slot, or a re-executed
        run."""
        import sqlalchemy as db
        from dagster._core.storage.event_log import schema
        from dagster._core.storage.runs.schema import RunTagsTable

        columns = [
            schema.SqlEventLogStorageTable.c.run_id,
            schema.AssetCheckExecutionsTable.c.run_id,
            schema.AssetKeyTable.c.last_run_id,
            schema.ConcurrencySlotsTable.c.run_id,
            schema.PendingStepsTable.c.run_id,
        ]

        def of_events(connection: Connection) -> set[str]:
            queries = [db.select(column).where(column.in_(run_ids)).distinct() for column in columns]
            return {str(row[0]) for query in queries for row in connection.execute(query)}

        tags = RunTagsTable.c
        reexecuted = db.select(tags.value).where(tags.key.in_(_RERUN_TAGS), tags.value.in_(run_ids))
        return transact(self.event_storage.index_connection, of_events) | transact(
            self.run_storage.connect, lambda connection: {str(row[0]) for row in connection.execute(reexecuted)}
        )

    def _delete_files(self, run_id: str) -> int:
        """Delete the run's files on this machine: captured output and SQLite's event file; return their bytes."""
        from dagster._core.storage.event_log import SqliteEventLogStorage

        output = Path(self.instance.storage_directory()) / run_id
        found = _size(output)
        shutil.rmtree(output, ignore_errors=True)
        if isinstance(self.event_storage, SqliteEventLogStorage):
            shard = Path(self.event_storage.path_for_shard(run_id))
            for path in (shard, *(shard.with_name(shard.name + end) for end in ("-wal", "-shm"))):
                found += _size(path)
                path.unlink(missing_ok=True)
        self.purged.file_bytes += found
        return found

    # Rows.

    def _superseded(self, run_ids: Sequence[str], limit: datetime, state: _State) -> None:
        """Delete the events and check executions of the runs before the limit that are not part of the state.

        Events without an asset are deleted too: a check's state is its execution, which has its own table.
        """
        import sqlalchemy as db
        from dagster._core.storage.event_log.schema import (
            AssetCheckExecutionsTable,
            AssetEventTagsTable,
            SqlEventLogStorageTable,
        )

        event, tag, check = SqlEventLogStorageTable.c, AssetEventTagsTable.c, AssetCheckExecutionsTable.c
        connect = self.event_storage.index_connection
        old_events = db.select(event.id).where(event.run_id.in_(run_ids), event.timestamp < _naive(limit))
        for rows in self._pages(old_events, event.id, connect):
            if ids := [row.id for row in rows if row.id not in state.events]:
                _execute(
                    connect,
                    db.delete(AssetEventTagsTable).where(tag.event_id.in_(ids)),
                    db.delete(SqlEventLogStorageTable).where(event.id.in_(ids)),
                )
                self.purged.events += len(ids)
        old_checks = db.select(check.id).where(
            check.run_id.in_(run_ids), check.evaluation_event_timestamp < _naive(limit)
        )
        for rows in self._pages(old_checks, check.id, connect):
            if ids := [row.id for row in rows if row.id not in state.checks]:
                _execute(connect, db.delete(AssetCheckExecutionsTable).where(check.id.in_(ids)))
                self.purged.check_executions += len(ids)

    def _runless_copies(self, limit: datetime) -> None:
        """Delete SQLite's second copy of events without a run. It is a separate file, and no state is read from it."""
        import sqlalchemy as db
        from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

        event, connect = SqlEventLogStorageTable.c, partial(self.event_storage.run_connection, RUNLESS)
        old = db.select(event.id).where(event.id < _newest(SqlEventLogStorageTable), event.timestamp < _naive(limit))
        for rows in self._pages(old, event.id, connect):
            _execute(connect, db.delete(SqlEventLogStorageTable).where(event.id.in_([row.id for row in rows])))

    def _pages(self, query: Select[Any], key: ColumnElement[int], connect: Connect) -> Iterator[list[Any]]:
        """Yield the rows of a query by ascending `key`, in batches, each in its own transaction."""
        after = 0
        while not self._deadline_passed():
            statement = query.where(key > after).order_by(key).limit(BATCH)
            rows: list[Any] = transact(connect, lambda connection, of=statement: list(connection.execute(of)))  # type: ignore[misc]
            if rows:
                after = rows[-1].id
                yield rows
            if len(rows) < BATCH:
                return
            time.sleep(PAUSE_S)

    def _deadline_passed(self) -> bool:
        if time.monotonic() < self.deadline:
            return False
        self.purged.is_complete = False
        return True


def storages(instance: dg.DagsterInstance) -> tuple[SqlRunStorage, SqlEventLogStorage]:
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    runs, events = instance.run_storage, instance.event_log_storage
    if not (isinstance(runs, SqlRunStorage) and isinstance(events, SqlEventLogStorage)):
        raise RetentionError(
            f"dagster: {type(events).__name__} is not one of Dagster's SQL storages, so its records cannot be deleted. "
            "Use SQLite or PostgreSQL in dagster.yaml, or turn off the schedule event_log_retention_daily."
        )
    return runs, events


def _newest(table: Table) -> ScalarSelect[Any]:
    """Return a subquery for the largest id of a table."""
    import sqlalchemy as db

    return db.select(db.func.max(table.alias("newest").c.id)).scalar_subquery()


def _execute(connect: Connect, *statements: Executable) -> None:
    """Execute the statements in one transaction."""

    def work(connection: Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    transact(connect, work)


def transact(connect: Connect, work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction and return its result."""

    def once() -> T:
        with connect() as connection:
            return work(connection)

    return _retrying(once)


def _retrying(work: Callable[[], T]) -> T:
    """Run `work`; retry it while another process holds SQLite's lock."""
    from sqlalchemy.exc import OperationalError
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception_type(OperationalError),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_after_attempt(LOCK_RETRIES),
        reraise=True,
    )
    return retrying(work)


def _naive(at: datetime) -> datetime:
    """Return a time as Dagster stores it: UTC without a time zone."""
    return at.astimezone(UTC).replace(tzinfo=None)


def _state_directories(instance: dg.DagsterInstance) -> list[Path]:
    root = Path(instance.root_directory)
    return [root / name for name in ("history", "schedules", "storage")]


def _tick_logs(storage: Path) -> Iterator[Path]:
    """Yield the log files of ticks: `storage/<repository>/<sensor>/<tick>.err`, `.out` and `.complete`."""
    if storage.is_dir():
        for path in storage.glob("*/*/*"):
            if _TICK_LOG.fullmatch(path.name):
                yield path


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a directory; 0 if there is none."""
    total = 0
    try:
        if not path.is_dir():
            return path.stat().st_size
    except FileNotFoundError:
        return 0
    for file in path.rglob("*"):
        try:
            if file.is_file():
                total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total
