"""Remove orphans: files in a table's directory that no snapshot needs, such as those of a crashed writer.

Spark's `remove_orphan_files` lists the directory and compares it with all files named in the metadata. It treats
`file:/x`, `file:///x` and `/x` as the same file, and fails on another scheme or host rather than guess. The stream's
checkpoints are outside the tables' directories, so it does not see them. It skips hidden files, so this module removes
the checksum files that Hadoop keeps next to each local file, once that file is gone.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.maintenance.compaction import call_procedure
from cryptolake_assets.model.table_spec import CATALOG, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

DELETES_AT_ONCE = 4


def remove_orphans(spark: SparkSession, spec: TableSpec, retention: timedelta) -> list[str]:
    """Delete the orphans older than `retention` (Spark's minimum is 24 hours) and return their locations.

    Younger files stay, because a writer may be about to commit them. Raises `SparkError` if Spark fails.
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


def remove_lone_checksums(directory: Path, retention: timedelta) -> int:
    """Delete old checksum files below a local directory whose file is gone; return their number.

    Old means older than `retention`.
    """
    youngest = time.time() - retention.total_seconds()
    lone = [
        path
        for path in directory.rglob(".*.crc")
        if path.stat().st_mtime < youngest and not path.with_name(path.name[1 : -len(".crc")]).exists()
    ]
    for path in lone:
        path.unlink(missing_ok=True)
    return len(lone)
