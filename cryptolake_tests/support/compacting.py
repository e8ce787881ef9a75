"""Compaction of Bronze as maintenance runs it, with file counts before and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import between
from cryptolake_assets.lake.maintenance import compaction
from cryptolake_assets.lake.maintenance.manifests import merge_manifests
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Compaction:
    """Files and bytes of the hours before and after; `rows` after."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows: int


def compact(settings: Settings, spark: SparkSession, first: datetime, last: datetime) -> Compaction:
    """Compact the hours in [first, last), and merge the manifests if there are many."""
    table = load_table(settings, FUTURES.trades)
    files_before, bytes_before, _ = _extent(table, first, last)
    hours = [first + number * HOUR for number in range((last - first) // HOUR)]
    compaction.compact_hours(settings, spark, FUTURES.trades, hours)
    merge_manifests(table.refresh())
    files_after, bytes_after, rows = _extent(table.refresh(), first, last)
    return Compaction(files_before, files_after, bytes_before, bytes_after, rows)


def _extent(table: Table, first: datetime, last: datetime) -> tuple[int, int, int]:
    """Return files, bytes and rows of the hours."""
    files = [task.file for task in table.scan(row_filter=between("event_time", first, last)).plan_files()]
    return len(files), sum(file.file_size_in_bytes for file in files), sum(file.record_count for file in files)
