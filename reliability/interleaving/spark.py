"""Spark's part, played by PyIceberg: the streaming sink, and the procedures that maintenance calls.

The production lake is written by Spark's Iceberg library in a JVM, whose threads no scheduler of this process could
hold. These stand-ins make the same commits with the same snapshot properties in the same order:

- `append_batch` is the sink of Structured Streaming. `offsets/N` is written before micro-batch N and `commits/N` after
  its commit. A batch that was planned before a crash is run again with the same records, and the sink skips it if a
  snapshot of its query has the batch's number or a later one; it looks for it from the head back.
- `StandInSession.sql` runs `rewrite_data_files` (operation `replace`, the sequence number of its start, validation that
  the replaced files are still live) and `remove_orphan_files`. Conflicts are raised as Spark raises them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.bronze.offsets import query_of
from cryptolake_assets.lake import files
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import data_files
from cryptolake_assets.lake.maintenance.compaction import SORT_ORDER
from cryptolake_assets.lake.maintenance.expiry import QUERY_ID
from cryptolake_assets.lake.stream_checkpoints import EPOCH_ID, checkpoint, query_id
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.reference import Trade
from reliability.interleaving.scheduler import Scheduler

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

QUERY: Final = "00000000-0000-4000-8000-000000000001"
Offsets = dict[int, int]  # next offset by Kafka partition


class Sink:
    """One start of the streaming query: continues from its checkpoint."""

    def __init__(self, settings: Settings, scheduler: Scheduler) -> None:
        self._settings, self._scheduler = settings, scheduler
        self._location = checkpoint(settings, query_of(TRADES))
        if query_id(settings, self._location) is None:
            files.write_text(settings, f"{self._location}/metadata", json.dumps({"id": QUERY}))
        self._batch = self._newest("commits") + 1

    def offsets(self) -> Offsets:
        """Return the offsets at which the next batch begins."""
        return self._planned(self._batch - 1) or {}

    def run_batch(self, records: Callable[[Offsets, Offsets], Sequence[Trade]], ends: Offsets) -> None:
        """Append the next batch: up to the offsets that were planned before a crash, or up to `ends`."""
        planned = self._planned(self._batch)
        if planned is None:
            planned = ends
            topic = {TRADES.topic(self._settings): {str(number): offset for number, offset in ends.items()}}
            text = f"v1\n{{}}\n{json.dumps(topic)}"
            files.write_text(self._settings, f"{self._location}/offsets/{self._batch}", text)
        else:
            self._scheduler.states["batch_run_again"] += 1
        self._append(records(self.offsets(), planned))
        files.write_text(self._settings, f"{self._location}/commits/{self._batch}", "v1\n{}")
        self._batch += 1

    def _append(self, rows: Sequence[Trade]) -> None:
        import pyarrow as pa
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        table = load_table(self._settings, FUTURES.trades)
        if self._newest_batch(table) >= self._batch:
            self._scheduler.states["batch_found_in_table"] += 1
            return
        schema = schema_to_pyarrow(table.schema(), include_field_ids=False)  # that of an old lake is older
        properties = {QUERY_ID: QUERY, EPOCH_ID: str(self._batch)}
        table.append(pa.Table.from_pylist(list(rows), schema), snapshot_properties=properties)

    def _newest_batch(self, table: Table) -> int:
        """Return the number of the query's last batch among the ancestors of the head; -1 if there is none."""
        snapshot = table.current_snapshot()
        while snapshot is not None:
            if snapshot.summary is not None and snapshot.summary[QUERY_ID] == QUERY:
                return int(snapshot.summary[EPOCH_ID] or 0)
            parent = snapshot.parent_snapshot_id
            snapshot = None if parent is None else table.snapshot_by_id(parent)
        return -1

    def _planned(self, batch: int) -> Offsets | None:
        text = files.read_text(self._settings, f"{self._location}/offsets/{batch}")
        if text is None:
            return None
        (offsets,) = json.loads(text.splitlines()[2]).values()
        return {int(number): offset for number, offset in offsets.items()}

    def _newest(self, folder: str) -> int:
        directory = Path(local_path(f"{self._location}/{folder}"))
        return max((int(path.name) for path in directory.glob("*") if path.name.isdigit()), default=-1)


class StandInSession:
    """A Spark session that knows the procedures of maintenance."""

    def __init__(self, settings: Settings, scheduler: Scheduler, age_s: Callable[[str], float]) -> None:
        self._settings, self._scheduler, self._age_s = settings, scheduler, age_s

    def sql(self, text: str) -> _Result:
        from pyspark.errors.exceptions.base import PySparkException

        name = _found(r"table => '([\w.]+)'", text)
        try:
            table = get_catalog(self._settings).load_table(name)
            if "rewrite_data_files" in text:
                self._rewrite(table, text)
                return _Result([])
            return _Result(self._remove_orphans(table, text))
        except FileNotFoundError as error:
            self._scheduler.states["file_expired_under_spark"] += 1
            raise PySparkException(f"org.apache.iceberg.exceptions.NotFoundException: {error}") from error

    def stop(self) -> None: ...

    def _rewrite(self, table: Table, text: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        min_files = int(_found(r"'min-input-files', '(\d+)'", text))
        intervals = [
            (datetime.fromisoformat(first), datetime.fromisoformat(last))
            for first, last in re.findall(
                r"event_time >= TIMESTAMP '([^']+)' AND event_time < TIMESTAMP '([^']+)'", text
            )
        ]
        snapshot = table.current_snapshot()
        if snapshot is None:
            return
        by_partition: defaultdict[Any, list[DataFile]] = defaultdict(list)
        for task in table.scan(row_filter=_overlapping(intervals)).plan_files():
            by_partition[tuple(task.file.partition[place] for place in range(len(task.file.partition)))].append(
                task.file
            )
        removed: list[DataFile] = []
        added: list[DataFile] = []
        for _, of_partition in sorted(by_partition.items(), key=lambda item: repr(item[0])):
            if len(of_partition) < min_files:
                continue
            parts = []
            for file in sorted(of_partition, key=lambda file: file.file_path):
                with table.io.new_input(file.file_path).open() as stream:
                    parts.append(pq.ParquetFile(stream).read())
            rows = pa.concat_tables(parts, promote_options="permissive")
            if "strategy => 'sort'" in text:
                rows = rows.sort_by([(name, "ascending") for name in SORT_ORDER.split(", ")])
            removed += of_partition
            added += _written(table, rows)
        if removed:
            _commit_rewrite(table, removed, added, snapshot.sequence_number or 0)
            self._scheduler.states["compacted"] += 1

    def _remove_orphans(self, table: Table, text: str) -> list[Mapping[str, str]]:
        """Delete the files of the table's directory that its metadata does not name, older than the given time."""
        cutoff = datetime.fromisoformat(_found(r"older_than => TIMESTAMP '([^']+)'", text)).timestamp()
        named = {local_path(table.metadata_location)} | {
            local_path(one.metadata_file) for one in table.metadata.metadata_log
        }
        for snapshot in table.metadata.snapshots:
            named.add(local_path(snapshot.manifest_list))
            for manifest in snapshot.manifests(table.io):
                named.add(local_path(manifest.manifest_path))
                named |= {local_path(e.data_file.file_path) for e in manifest.fetch_manifest_entry(table.io, True)}
        self._scheduler.point("lists files")
        found = []
        for path in sorted(Path(local_path(table.location())).rglob("*")):
            is_old = self._scheduler.now - self._age_s(str(path)) < cutoff
            if path.is_file() and str(path) not in named and is_old:
                found.append(path)
        for path in found:
            self._scheduler.states["orphan_removed"] += 1
            table.io.delete(str(path))
        return [{"orphan_file_location": str(path)} for path in found]


class _Result:
    def __init__(self, rows: Sequence[Mapping[str, str]]) -> None:
        self._rows = rows

    def collect(self) -> Sequence[Mapping[str, str]]:
        return self._rows


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def _overlapping(intervals: Sequence[tuple[datetime, datetime]]) -> Any:
    from cryptolake_assets.lake.filters import all_of, any_of, at_least, below

    if not intervals:
        return all_of()
    return any_of(*(all_of(at_least("event_time", first), below("event_time", last)) for first, last in intervals))


def _written(table: Table, rows: Any) -> list[DataFile]:
    import pyarrow as pa
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)

    columns = {
        field.name: rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in schema
    }
    return list(data_files(table, pa.table(columns, schema=schema)))


def _commit_rewrite(table: Table, removed: Sequence[DataFile], added: Sequence[DataFile], sequence: int) -> None:
    """Commit as Iceberg's `RewriteFiles`: on the newest state, as long as it still has the replaced files."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, ManifestFile
    from pyiceberg.table.snapshots import Operation, Summary
    from pyiceberg.table.update.snapshot import _OverwriteFiles
    from pyspark.errors.exceptions.base import PySparkException

    class Rewrite(_OverwriteFiles):
        def _validate_concurrency(self) -> None:
            """New files do not matter; missing ones are found in `_deleted_entries`."""

        def _summary(self, snapshot_properties: Any = None) -> Summary:
            self._added_data_files = list(added)
            totals = super()._summary(snapshot_properties or {})
            self._added_data_files = []  # `_manifests` writes them, with their sequence number
            return Summary(Operation.REPLACE, **totals.additional_properties)

        def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
            return [
                manifest
                for manifest in manifests
                if manifest.has_existing_files()
                or manifest.has_added_files()
                or manifest.added_snapshot_id == self.snapshot_id
            ]

        def _manifests(self) -> list[ManifestFile]:
            manifests = super()._manifests()
            with self.new_manifest_writer(self._transaction.table_metadata.spec()) as writer:
                for file in added:
                    writer.add(
                        ManifestEntry.from_args(
                            status=ManifestEntryStatus.ADDED,
                            snapshot_id=self._snapshot_id,
                            sequence_number=sequence,
                            file_sequence_number=None,
                            data_file=file,
                        )
                    )
            return [*manifests, writer.to_manifest_file()]

    try:
        with table.transaction() as transaction:
            rewrite = Rewrite(operation=Operation.OVERWRITE, transaction=transaction, io=table.io)
            for file in removed:
                rewrite.delete_data_file(file)
            rewrite.commit()
    except (CommitFailedException, ValidationException) as error:
        for file in added:
            table.io.delete(file.file_path)
        raise PySparkException(f"org.apache.iceberg.exceptions.{type(error).__name__}: {error}") from error
