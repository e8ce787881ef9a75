"""Publish recomputed rows: one atomic commit that replaces exactly these rows, without a snapshot if nothing differs.

A window's files (a day of Silver, a month of Gold) are rewritten as one file in one `overwrite` snapshot. PyIceberg's
own `Table.overwrite` would commit a delete snapshot and an append snapshot; time travel could then read the table
without these rows.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.duck import open_duckdb, scalar
from cryptolake_assets.lake.maintenance.expiry import due_snapshots, expire, history_of
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.update.snapshot import _OverwriteFiles

log = structlog.get_logger(__name__)

SNAPSHOTS_KEPT = 50  # PyIceberg's commit cost grows with the snapshots in the metadata
READABLE_S = 300.0  # minimum time that a replaced snapshot stays readable; maintenance keeps it longer


@dataclass(frozen=True)
class Publication:
    """Result of a commit; `snapshot_id` is the table's current snapshot afterwards.

    `changed_keys` are the keys of new or changed rows; `stamps` are the keys and `updated_at` of all rows of the
    window.
    """

    snapshot_id: int | None
    changed_keys: pa.Table
    rows_removed: int
    stamps: pa.Table

    @property
    def rows_changed(self) -> int:
        return int(self.changed_keys.num_rows)

    @property
    def committed(self) -> bool:
        return self.rows_changed + self.rows_removed > 0

    def version(self, column: str, start: date | datetime, end: date | datetime) -> str:
        """Return a hash that changes exactly when rows with start <= `column` < end are added, changed or removed.

        It is computed from the table, not from this commit, so that a run after a crash between commit and report still
        reports the change.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.stamps[column]
        first, after = (pa.scalar(bound, values.type) for bound in (start, end))
        inside = pc.and_(pc.greater_equal(values, first), pc.less(values, after))
        stamps = self.stamps.filter(inside)["updated_at"].cast(pa.int64()).to_pylist()
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]


def read_window(table: Table, window: str | BooleanExpression) -> pa.Table:
    """Return the current rows of the window."""
    return table.scan(row_filter=window).to_arrow()


def keys_of(spec: TableSpec, *tables: pa.Table) -> pa.Table:
    """Return the keys (columns `spec.key`) of all rows of the tables."""
    import pyarrow as pa

    return pa.concat_tables([table.select(list(spec.key)) for table in tables]).combine_chunks()


def publish(
    table: Table,
    spec: TableSpec,
    window: str | BooleanExpression,
    candidate: pa.Table,
    replaced_keys: pa.Table,
    properties: Mapping[str, str],
    table_properties: Callable[[Table], Mapping[str, str]] | None = None,
) -> Publication:
    """Replace the rows of `replaced_keys` (columns `spec.key`) by `candidate`.

    The snapshot gets `properties`; the table gets `table_properties` of its state before, in the same commit.
    `candidate` has all columns; `updated_at` is set here. `window` is the partition-aligned filter whose files are
    rewritten. A row equal to the current one keeps its `updated_at`; without any difference there is no snapshot. After
    a concurrent commit the rows are merged into the new table. Raises PyIceberg's `CommitFailedException` or
    `ValidationException` after the last attempt.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    for attempt in commit_attempts(CommitFailedException, ValidationException):
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                table = table.refresh()
            current = read_window(table, window)
            rows, changed, removed = _merge(spec, current, candidate, replaced_keys, datetime.now(UTC))
            if changed.num_rows + removed > 0:
                replace_files(table, window, rows, properties, table_properties(table) if table_properties else None)
            elif table_properties is not None:
                set_properties(table, table_properties(table))
    if changed.num_rows + removed > 0:
        expire_snapshots(table)
    snapshot = table.current_snapshot()
    stamps = rows.select([*spec.key, "updated_at"])
    return Publication(snapshot.snapshot_id if snapshot else None, changed, removed, stamps)


def _merge(
    spec: TableSpec, current: pa.Table, candidate: pa.Table, replaced_keys: pa.Table, now: datetime
) -> tuple[pa.Table, pa.Table, int]:
    """Return all rows of the new window sorted by key, the keys of changed rows, and the number of removed rows."""
    key = ", ".join(spec.key)
    values = [name for name in spec.column_names if name not in (*spec.key, "updated_at")]
    same = " AND ".join(f"c.{name} IS NOT DISTINCT FROM p.{name}" for name in values) + " AND p.updated_at IS NOT NULL"
    columns = ", ".join(f"c.{name}" for name in (*spec.key, *values))
    ordered = ", ".join(spec.column_names)
    with open_duckdb() as duck:
        duck.register("present", current)
        duck.register("candidate", candidate)
        duck.register("replaced_keys", replaced_keys)
        duck.execute(
            f"""CREATE TEMP TABLE fresh AS
            SELECT {columns}, CASE WHEN {same} THEN p.updated_at ELSE $now END AS updated_at, NOT ({same}) AS differs
            FROM candidate c LEFT JOIN present p USING ({key})""",
            {"now": now},
        )
        changed = duck.sql(f"SELECT {key} FROM fresh WHERE differs").to_arrow_table()
        removed = scalar(
            duck,
            f"SELECT count(*) FROM present SEMI JOIN replaced_keys USING ({key}) "
            f"WHERE ({key}) NOT IN (SELECT ({key}) FROM fresh)",
        )
        rows = duck.sql(
            f"""SELECT {ordered} FROM fresh
            UNION ALL SELECT {ordered} FROM present ANTI JOIN replaced_keys USING ({key})
            ORDER BY {key}"""
        ).to_arrow_table()
    return rows.cast(spec.arrow_schema()), changed, removed


def replace_files(
    table: Table,
    window: str | BooleanExpression,
    rows: pa.Table,
    properties: Mapping[str, str] | None = None,
    table_properties: Mapping[str, str] | None = None,
) -> None:
    """Replace the window's files by one file with `rows`, or by none without rows, in one overwrite snapshot."""
    old_files = [task.file for task in table.scan(row_filter=window).plan_files()]
    swap_files(table, old_files, data_files(table, rows), properties, table_properties)


def data_files(table: Table, rows: pa.Table) -> Iterable[DataFile]:
    """Write the rows as data files of the table, without a commit; none without rows."""
    from pyiceberg.io.pyarrow import _dataframe_to_data_files

    if not rows.num_rows:
        return ()
    return _dataframe_to_data_files(table.metadata, rows, table.io, write_uuid=uuid.uuid4())


def swap_files(
    table: Table,
    removed: Iterable[DataFile],
    added: Iterable[DataFile],
    properties: Mapping[str, str] | None = None,
    table_properties: Mapping[str, str] | None = None,
) -> None:
    """Replace the files `removed` by the files `added` in one overwrite snapshot with these properties.

    The commit also sets the table properties. Without files it makes no snapshot. Raises PyIceberg's
    `CommitFailedException` or `ValidationException` after a conflicting commit of another writer.
    """
    removed, added = list(removed), list(added)
    with table.transaction() as transaction:
        if table_properties:
            transaction.set_properties(dict(table_properties))
        if removed or added:
            with _overwrite(transaction, dict(properties or {})) as snapshot:
                for file in removed:
                    snapshot.delete_data_file(file)
                for file in added:
                    snapshot.append_data_file(file)


def set_properties(table: Table, properties: Mapping[str, str]) -> None:
    """Set table properties in one commit. Raises PyIceberg's `CommitFailedException` after the last attempt.

    PyIceberg itself retries only commits with a snapshot, and any commit of another writer is a conflict.
    """
    from pyiceberg.exceptions import CommitFailedException

    for attempt in commit_attempts(CommitFailedException):
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                table.refresh()
            with table.transaction() as transaction:
                transaction.set_properties(dict(properties))


def _overwrite(transaction: Transaction, properties: dict[str, str]) -> _OverwriteFiles:
    """Return PyIceberg's overwrite without the manifests that hold only deleted entries.

    PyIceberg (0.12) keeps such manifests forever; Iceberg's Java library drops them.
    """
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table.snapshots import Operation
    from pyiceberg.table.update.snapshot import _OverwriteFiles

    class Overwrite(_OverwriteFiles):
        def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
            return [
                manifest
                for manifest in manifests
                if manifest.has_added_files()
                or manifest.has_existing_files()
                or manifest.added_snapshot_id == self.snapshot_id
            ]

    metadata = transaction.table_metadata
    return Overwrite(
        operation=Operation.APPEND if metadata.current_snapshot_id is None else Operation.OVERWRITE,
        transaction=transaction,
        io=transaction._table.io,
        snapshot_properties=properties,
    )


def expire_snapshots(table: Table, keep: int = SNAPSHOTS_KEPT, readable_s: float = READABLE_S) -> int:
    """Expire the oldest snapshots down to `keep`, once `keep` of them are due; return their number.

    Files that only these snapshots hold are deleted. A snapshot that was replaced less than `readable_s` ago stays
    readable. The preceding commit has succeeded already, so after a lost race the next commit expires the snapshots.
    """
    from pyiceberg.exceptions import CommitFailedException

    def choose(table: Table) -> list[int]:
        cutoff_ms = round((time.time() - readable_s) * 1000)
        due = due_snapshots(history_of(table), cutoff_ms, keep)
        return due if len(due) >= keep else []

    try:
        return expire(table, choose).snapshots
    except CommitFailedException as error:
        log.info("snapshot_expiry_failed", table=".".join(table.name()), cause=str(error))
        return 0
