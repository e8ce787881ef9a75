"""Compaction: join the small files of a Bronze hour into one sorted file; rows do not change.

The other append-only tables are compacted without sorting.

Spark's `rewrite_data_files` commits once, as operation `replace`. The new files get the table's sequence number at the
start of the rewrite, so a follower that has read everything finds no new files. Duplicates stay, because Bronze stores
all received trades. The small files stay until the snapshots that hold them expire. This module expires no snapshot,
because the stream's checkpoint needs its last one (`lake.maintenance.expiry` keeps it).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from cryptolake_assets.errors import SparkError
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import set_properties
from cryptolake_assets.model.table_spec import CATALOG, TableSpec
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

SORT_ORDER = "exchange, symbol, event_time, trade_id"

CALL_ATTEMPTS = 8
ROW_GROUP_ROWS = 100_000

# Table properties; Spark takes a file's layout only from these.
LAYOUT = {
    # Iceberg checks a row group's size after this many rows, and a size of one byte is always exceeded. With such row
    # groups several threads can read a busy hour, and a reader of one symbol's minute skips the rest of the file.
    "write.parquet.row-group-check-min-record-count": str(ROW_GROUP_ROWS),
    "write.parquet.row-group-check-max-record-count": str(ROW_GROUP_ROWS),
    "write.parquet.row-group-size-bytes": "1",
    # Version 2 stores times and ids as differences: a quarter smaller in sorted files, and faster to read.
    "write.parquet.page-version": "v2",
    # A commit of Spark joins many manifests to this size: some days of hours, so that a plan of an hour reads little.
    "commit.manifest.target-size-bytes": str(64 * 1024),
}


def compact_hours(settings: Settings, spark: SparkSession, spec: TableSpec, hours: Sequence[datetime]) -> None:
    """Rewrite the files of these UTC hours of a table of trades, each sorted by `SORT_ORDER`, in one commit.

    Idempotent: an hour with a single file is not rewritten. It may run alongside the stream and other append-only
    writers; use it for closed hours, because an open hour would soon be due again. Manifests are not rewritten. Raises
    `SparkError` if Spark fails; the table is then unchanged.
    """
    _set_layout(load_table(settings, spec))
    call_procedure(spark, spec, _rewrite_files(spec, [(hour, hour + HOUR) for hour in hours]))


def compact_table(spark: SparkSession, spec: TableSpec, min_files: int) -> None:
    """Join the small files of every partition that holds at least `min_files`; rows keep their order.

    It may run alongside append-only writers. Raises `SparkError` if Spark fails; the table is then unchanged.
    """
    call_procedure(
        spark,
        spec,
        f"""CALL {CATALOG}.system.rewrite_data_files(
      table => '{_name(spec)}',
      options => map('min-input-files', '{min_files}', 'use-starting-sequence-number', 'true'))""",
    )


def _rewrite_files(spec: TableSpec, intervals: Sequence[tuple[datetime, datetime]]) -> str:
    where = " OR ".join(
        f"(event_time >= TIMESTAMP '{_literal(first)}' AND event_time < TIMESTAMP '{_literal(last)}')"
        for first, last in intervals
    )
    return f"""CALL {CATALOG}.system.rewrite_data_files(
      table => '{_name(spec)}',
      strategy => 'sort',
      sort_order => '{SORT_ORDER}',
      where => "{where}",
      options => map('min-input-files', '2', 'use-starting-sequence-number', 'true'))"""


def _literal(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00:00")


def _name(spec: TableSpec) -> str:
    return ".".join(spec.identifier)


def call_procedure(spark: SparkSession, spec: TableSpec, procedure: str) -> list[Any]:
    """Call an Iceberg procedure and return its rows.

    A call that loses a race with another writer changes nothing and is retried on the current table. Raises
    `SparkError`.
    """
    from pyspark.errors.exceptions.base import PySparkException

    try:
        for attempt in Retrying(
            retry=retry_if_exception(_lost_race),
            stop=stop_after_attempt(CALL_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            reraise=True,
        ):
            with attempt:
                rows = list(spark.sql(procedure).collect())
    except PySparkException as error:
        raise SparkError(
            f"spark: maintenance of {spec.full_name} failed ({str(error).splitlines()[0][:200]}). The "
            "table is unchanged. See `cryptolake logs spark`, then retry."
        ) from error
    return rows


def _lost_race(error: BaseException) -> bool:
    """Return whether another writer's commit is the cause, or its expiry, which deletes files of the plan.

    Spark Connect names the server's exception in its message.
    """
    return any(f"iceberg.exceptions.{name}" in str(error) for name in ("Validation", "CommitFailed", "NotFound"))


def _set_layout(table: Table) -> None:
    if any(table.properties.get(name) != value for name, value in LAYOUT.items()):
        set_properties(table, LAYOUT)
