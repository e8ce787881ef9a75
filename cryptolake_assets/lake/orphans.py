"""Removal of orphans: files in a table's directory that no snapshot needs, such as a crashed writer leaves.

Spark's `remove_orphan_files` lists the directory and compares it with everything that the metadata names. It tells
`file:/x`, `file:///x` and `/x` for the same file, and stops when it meets another scheme or host, rather than guess.
The stream's checkpoints lie beside the tables' directories, so they are not looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.compaction import call_procedure
from cryptolake_assets.lake.tables import CATALOG, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

DELETES_AT_ONCE = 4


def remove_orphans(spark: SparkSession, spec: TableSpec, retention: timedelta) -> list[str]:
    """Deletes the orphans older than `retention` (24 hours or more: Spark insists) and returns their locations.

    A younger one stays, because a writer may be about to commit it. Raises `SparkError` when Spark fails.
    """
    older_than = (datetime.now(UTC) - retention).strftime("%Y-%m-%d %H:%M:%S+00:00")
    rows = call_procedure(
        spark,
        spec,
        f"""CALL {CATALOG}.system.remove_orphan_files(
      table => '{".".join(spec.identifier)}',
      older_than => TIMESTAMP '{older_than}',
      max_concurrent_deletes => {DELETES_AT_ONCE},
      prefix_listing => true)""",
    )
    found = [str(row["orphan_file_location"]) for row in rows]
    if found:
        log.info("orphans_removed", table=spec.full_name, files=len(found), sample=found[:5])
    return found
