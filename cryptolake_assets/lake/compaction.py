"""Compaction of Bronze: the many small files of an hour become one sorted file, and no row changes.

Spark's `rewrite_data_files` does it in one commit of its own kind (`replace`), whose files keep the sequence number
that the table had when it began: a follower that had seen everything finds nothing new. Repeats stay, because Bronze
is what was received. The small files stay too, until the snapshots that hold them expire; nothing here expires one,
because the stream's checkpoint needs its last snapshot.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.errors import SparkError
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.tables import BRONZE_TRADES, CATALOG
from cryptolake_assets.lake.windows import between
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

SORT_ORDER = "symbol, event_time, trade_id"

ROW_GROUP_ROWS = 100_000
MANIFEST_BYTES = 64 * 1024
MANIFESTS_ENOUGH = 50
"""Up to so many manifests are left as they are when no file was rewritten."""

LAYOUT = {
    # Iceberg looks at a row group's size every so many rows, and one byte is always reached: a busy hour is read by
    # several threads, and a minute of one symbol without the rest of the file.
    "write.parquet.row-group-check-min-record-count": str(ROW_GROUP_ROWS),
    "write.parquet.row-group-check-max-record-count": str(ROW_GROUP_ROWS),
    "write.parquet.row-group-size-bytes": "1",
    # Version 2 stores times and ids as differences: a quarter less in sorted files, and faster to read.
    "write.parquet.page-version": "v2",
    # A manifest holds some days; planning a minute reads the one that has its hour, however long the history is.
    "commit.manifest.target-size-bytes": str(MANIFEST_BYTES),
}
"""Properties of the table: Spark takes a file's layout from nowhere else."""


@dataclass(frozen=True)
class Compaction:
    """What became of the hours. `rows` are those that they hold afterwards."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows: int


def compact_hours(settings: Settings, spark: SparkSession, first: datetime, last: datetime) -> Compaction:
    """Rewrites the files of first <= event hour < last, both whole UTC hours, sorted by (symbol, event_time, trade_id).

    An hour of a single file is left as it is, so a second call finds nothing to do. It may run beside the stream and
    other writers that only append; it is meant for hours that are over, because an open one would soon be due again.
    Raises `ValueError` for bounds that are no whole hours, `SparkError` when Spark fails; the table is then as before.
    """
    for bound in (first, last):
        if bound.utcoffset() is None or bound.astimezone(UTC).replace(minute=0, second=0, microsecond=0) != bound:
            raise ValueError(f"compaction: {bound.isoformat()} is not the start of a UTC hour")
    started = time.monotonic()
    table = load_table(settings, BRONZE_TRADES)
    _set_layout(table)
    files_before, bytes_before, _ = _extent(table, first, last)
    _call(spark, _rewrite_files(first, last))
    head = table.metadata.current_snapshot_id
    # The commit leaves the old entries as deleted ones in their manifests, and everybody reads over them.
    if table.refresh().metadata.current_snapshot_id != head or len(_manifests(table)) > MANIFESTS_ENOUGH:
        _call(spark, _rewrite_manifests())
    files_after, bytes_after, rows = _extent(table.refresh(), first, last)
    result = Compaction(files_before, files_after, bytes_before, bytes_after, rows)
    log.info(
        "bronze_compacted",
        first=first.isoformat(),
        last=last.isoformat(),
        manifests=len(_manifests(table)),
        duration_s=round(time.monotonic() - started, 1),
        **asdict(result),
    )
    return result


def _rewrite_files(first: datetime, last: datetime) -> str:
    start, end = (moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00:00") for moment in (first, last))
    return f"""CALL {CATALOG}.system.rewrite_data_files(
      table => '{_table_name()}',
      strategy => 'sort',
      sort_order => '{SORT_ORDER}',
      where => "event_time >= TIMESTAMP '{start}' AND event_time < TIMESTAMP '{end}'",
      options => map('min-input-files', '2', 'use-starting-sequence-number', 'true'))"""


def _rewrite_manifests() -> str:
    return f"CALL {CATALOG}.system.rewrite_manifests(table => '{_table_name()}', use_caching => false)"


def _table_name() -> str:
    return ".".join(BRONZE_TRADES.identifier)


def _call(spark: SparkSession, procedure: str) -> None:
    from pyspark.errors.exceptions.base import PySparkException

    try:
        spark.sql(procedure).collect()
    except PySparkException as error:
        raise SparkError(
            f"spark: the compaction of {BRONZE_TRADES.full_name} failed ({str(error).splitlines()[0][:200]}). The "
            "table is as it was; see `cryptolake logs spark`, then run it again."
        ) from error


def _set_layout(table: Table) -> None:
    if any(table.properties.get(name) != value for name, value in LAYOUT.items()):
        with table.transaction() as transaction:
            transaction.set_properties(LAYOUT)


def _extent(table: Table, first: datetime, last: datetime) -> tuple[int, int, int]:
    """Files, bytes and rows of the hours."""
    files = [task.file for task in table.scan(row_filter=between("event_time", first, last)).plan_files()]
    return len(files), sum(file.file_size_in_bytes for file in files), sum(file.record_count for file in files)


def _manifests(table: Table) -> list[object]:
    snapshot = table.current_snapshot()
    return list(snapshot.manifests(table.io)) if snapshot else []
