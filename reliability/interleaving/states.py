"""All committed states of the tables, and what must hold from one to the next. The judge of readers.

The observer reads each new snapshot right after its commit, before anyone else can run, without the product's code for
reading. A file's rows are read once: data files are immutable.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, Final

from cryptolake_assets.lake.bronze_files import local_path
from reliability.interleaving.scheduler import Actor, Scheduler, Violation

Row = dict[str, Any]
Rows = Counter[tuple[Any, ...]]  # rows as tuples of their values

BRONZE: Final = "bronze.futures_trades"
BARS: Final = "silver.futures_ohlcv_1m"
METRICS: Final = "ops.run_metrics"
QUARANTINE: Final = "silver.futures_trades_quarantine"


@dataclass(frozen=True)
class State:
    """A snapshot: its rows, and the files that it needs."""

    snapshot_id: int | None
    sequence: int
    timestamp_ms: int
    operation: str
    properties: Mapping[str, str]
    rows: Sequence[Row]
    files: frozenset[str]

    @cached_property
    def counted(self) -> Rows:
        return counted(self.rows)


EMPTY: Final = State(None, 0, 0, "", {}, (), frozenset())


@dataclass
class TableStates:
    """The states of a table in the order of their commits, with the step from which each was current."""

    current: list[tuple[int, State]] = field(default_factory=lambda: [(0, EMPTY)])
    by_id: dict[int | None, State] = field(default_factory=lambda: {None: EMPTY})
    retained: frozenset[int] = frozenset()
    replaced_ms: dict[int | None, int] = field(default_factory=dict)  # time of the successor's snapshot
    metadata_file: str = ""

    @property
    def head(self) -> State:
        return self.current[-1][1]

    def between(self, first_step: int, last_step: int) -> list[State]:
        """Return the states that were current at any time from one step to the other."""
        ends = [step for step, _ in self.current[1:]] + [last_step + 1]
        return [
            state
            for (step, state), end in zip(self.current, ends, strict=True)
            if step <= last_step and end >= first_step
        ]


Check = Callable[[Actor, str, State, State], None]  # actor, table, state before and after


class States:
    """Observer of all commits, creations and deletions of one seed."""

    def __init__(self, scheduler: Scheduler, orphan_retention_s: float) -> None:
        self._scheduler = scheduler
        self._orphan_retention_s = orphan_retention_s
        self.tables: defaultdict[str, TableStates] = defaultdict(TableStates)
        self.commits: Counter[str] = Counter()  # by actor
        self.checks: list[Check] = [_nothing_lost_by_maintenance, _nothing_lost_by_appends]
        self._rows_of_files: dict[str, list[Row]] = {}
        self._created: dict[str, tuple[str, int, float]] = {}  # by path: actor, its life, time
        self._used: set[str] = set()  # files that a commit has named

    def adopt(self, name: str, table: Any) -> None:
        """Take the present states of a table as its first ones."""
        states = self.tables[name]
        for snapshot in table.metadata.snapshots:
            states.by_id[snapshot.snapshot_id] = self._read(snapshot)
        for snapshot in table.metadata.snapshots:
            states.replaced_ms[snapshot.parent_snapshot_id] = snapshot.timestamp_ms
        self._take(name, table.metadata, table.metadata_location)

    def committed(self, actor: Actor, table: str, metadata: Any, location: str) -> None:
        with self._scheduler.quiet():
            self.commits[actor.name.partition(" ")[0]] += 1
            before = self.tables[table].head
            after = self._take(table, metadata, location)
            try:
                if after is not before:
                    for check in self.checks:
                        check(actor, table, before, after)
            except Violation as violation:
                self._scheduler.fail(f"{actor.name} commits {table}: {violation}")

    def created(self, actor: Actor, path: str) -> None:
        self._created[local_path(path)] = actor.name, actor.life, self._scheduler.now

    def deleting(self, actor: Actor, path: str) -> None:
        """Judge a deletion: no snapshot needs the file, and it is not a file that its writer may still commit."""
        path = local_path(path)
        for name, states in self.tables.items():
            if path == states.metadata_file:
                self._scheduler.fail(f"{actor.name} deletes the current metadata file of {name}")
            for snapshot_id in states.retained:
                if path in states.by_id[snapshot_id].files:
                    self._scheduler.fail(f"{actor.name} deletes {path}, which snapshot {snapshot_id} of {name} needs")
        writer, life, at = self._created.get(path, ("", 0, 0.0))
        is_young = self._scheduler.now - at < self._orphan_retention_s
        if path not in self._used and is_young and (writer, life) != (actor.name, actor.life) and writer:
            self._scheduler.fail(f"{actor.name} deletes {path}, a young file that {writer} may still commit")

    def age_s(self, path: str) -> float:
        """Return the age of a file in virtual time; that of the seed, if it is older."""
        return self._scheduler.now - self._created.get(local_path(path), ("", 0, 0.0))[2]

    def _take(self, name: str, metadata: Any, location: str) -> State:
        states = self.tables[name]
        states.metadata_file = local_path(location)
        self._used.add(states.metadata_file)
        states.retained = frozenset(snapshot.snapshot_id for snapshot in metadata.snapshots)
        snapshot = metadata.current_snapshot()
        if snapshot is None or snapshot.snapshot_id == states.head.snapshot_id:
            return states.head
        state = states.by_id.get(snapshot.snapshot_id) or self._read(snapshot)
        states.replaced_ms[states.head.snapshot_id] = snapshot.timestamp_ms
        states.by_id[snapshot.snapshot_id] = state
        states.current.append((self._scheduler.steps, state))
        return state

    def _read(self, snapshot: Any) -> State:
        from pyiceberg.io.pyarrow import PyArrowFileIO

        io = PyArrowFileIO()
        files, rows = {local_path(snapshot.manifest_list)}, []
        for manifest in snapshot.manifests(io):
            files.add(local_path(manifest.manifest_path))
            for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
                path = local_path(entry.data_file.file_path)
                files.add(path)
                rows.append((path, entry.data_file.record_count))
        self._used |= files
        found = [row for path, number in sorted(rows) for row in self._rows(path, number)]
        properties = snapshot.summary.additional_properties if snapshot.summary else {}
        operation = snapshot.summary.operation.value if snapshot.summary else ""
        return State(
            snapshot.snapshot_id,
            snapshot.sequence_number or 0,
            snapshot.timestamp_ms,
            operation,
            properties,
            found,
            frozenset(files),
        )

    def _rows(self, path: str, number: int) -> list[Row]:
        import pyarrow.parquet as pq

        if path not in self._rows_of_files:
            self._rows_of_files[path] = pq.ParquetFile(path).read().to_pylist()
        rows = self._rows_of_files[path]
        if len(rows) != number:
            raise Violation(f"{path} has {len(rows)} rows, and its manifest says {number}")
        return rows


def counted(rows: Iterable[Row]) -> Rows:
    """Count equal rows; columns by name, nulls like missing columns."""
    return Counter(map(values_of, rows))


def values_of(row: Row) -> tuple[Any, ...]:
    return tuple(sorted((name, value) for name, value in row.items() if value is not None))


def _nothing_lost_by_maintenance(_: Actor, __: str, before: State, after: State) -> None:
    if after.operation == "replace" and before.counted != after.counted:
        raise Violation(f"a `replace` snapshot changes rows: {difference(before.counted, after.counted)}")


def _nothing_lost_by_appends(_: Actor, __: str, before: State, after: State) -> None:
    if after.operation == "append" and before.counted - after.counted:
        raise Violation(f"an `append` snapshot removes rows: {difference(before.counted, after.counted)}")


def difference(expected: Rows, found: Rows) -> str:
    """Describe what is missing and what is too much, shortened."""
    missing, surplus = expected - found, found - expected
    parts = [
        f"{sum(rows.values())} rows {name}, such as {_shown(next(iter(rows)))}"
        for name, rows in (("missing", missing), ("too many", surplus))
        if rows
    ]
    return "; ".join(parts) or "none"


def _shown(row: tuple[Any, ...]) -> str:
    names = ("symbol", "trade_id", "kafka_offset", "window_start", "event_time", "connected_from", "first_missing_id")
    shown = {name: value for name, value in row if name in names}
    return ", ".join(
        f"{name} {value.isoformat() if isinstance(value, datetime | date) else value}" for name, value in shown.items()
    )
