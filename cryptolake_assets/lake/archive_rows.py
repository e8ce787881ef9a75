"""Replace one day of a symbol's archive rows in `bronze.futures_trades`; leave all other rows unchanged.

Archive rows have no Kafka coordinates. They are in separate files until compaction merges them with the stream's rows;
a merged file is rewritten without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.commit import swap_files
from cryptolake_assets.lake.filters import all_of, at_least, below, equal, is_null
from cryptolake_assets.lake.hour_files import HourFiles
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.model.windows import DAY

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)

ARCHIVE_MARKER = "kafka_offset"  # null in archive rows, and in no others


@dataclass(frozen=True)
class ReplacedDay:
    """Result of the commit: the new snapshot, the removed rows of an earlier issue, and the rewritten files."""

    snapshot_id: int
    rows_removed: int
    files_rewritten: int


def replace_day(
    table: Table, exchange: str, symbol: str, day: date, files: Sequence[DataFile], properties: Mapping[str, str]
) -> ReplacedDay:
    """Replace the archive rows of (exchange, symbol) on the UTC day by `files`, in one commit.

    The stream and compaction may commit meanwhile; the replacement is then planned again. Raises PyIceberg's
    `CommitFailedException` or `ValidationException` after the last attempt; the table is then unchanged.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    for attempt in commit_attempts(CommitFailedException, ValidationException):
        with attempt:
            # Writing the files may have taken longer than the retention of the snapshot that `table` had before.
            table = table.refresh()
            plan = _Plan(table, exchange, symbol, day)
            try:
                if plan.removed:
                    swap_files(table, plan.removed, [*files, *plan.added], properties)
                else:
                    _append(table, files, properties)
            except (CommitFailedException, ValidationException):
                # After any other error the commit may have succeeded: leave its files to orphan removal.
                plan.abort()
                raise
    return ReplacedDay(table.metadata.current_snapshot_id or 0, plan.rows_removed, len(plan.added))


def count_day(table: Table, exchange: str, symbol: str, day: date) -> int:
    """Count the archive rows of (exchange, symbol) on the UTC day."""
    rows = table.scan(
        row_filter=_archive_rows_of_day(exchange, symbol, day), selected_fields=("symbol",)
    ).to_arrow_batch_reader()
    return sum(batch.num_rows for batch in rows)


def _append(table: Table, files: Sequence[DataFile], properties: Mapping[str, str]) -> None:
    with (
        table.transaction() as transaction,
        transaction.update_snapshot(snapshot_properties=dict(properties)).fast_append() as snapshot,
    ):
        for file in files:
            snapshot.append_data_file(file)


class _Plan:
    """The files with rows of the day's earlier issue (`removed`), and new files with their other rows (`added`)."""

    def __init__(self, table: Table, exchange: str, symbol: str, day: date) -> None:
        self._table = table
        self.removed: list[DataFile] = []
        self.added: list[DataFile] = []
        self.rows_removed = 0
        self._rewritten: list[HourFiles] = []
        day_filter = _archive_rows_of_day(exchange, symbol, day)
        for task in table.scan(row_filter=day_filter).plan_files():
            if _holds_only_archive_rows(table, task.file, symbol):
                self.removed.append(task.file)
                self.rows_removed += task.file.record_count
            else:
                self._rewrite(task.file, exchange, symbol)

    def abort(self) -> None:
        for files in self._rewritten:
            files.abort()

    def _rewrite(self, file: DataFile, exchange: str, symbol: str) -> None:
        """Rewrite the file without the symbol's archive rows, batch by batch; leave a file without any unchanged."""
        import pyarrow.parquet as pq

        rest = HourFiles(self._table)
        self._rewritten.append(rest)
        with self._table.io.new_input(file.file_path).open() as source:
            for batch in pq.ParquetFile(source).iter_batches():
                rest.write(_without(batch, exchange, symbol))
        if rest.rows == file.record_count:
            rest.abort()
            return
        self.removed.append(file)
        self.added += rest.close()
        self.rows_removed += file.record_count - rest.rows


def _archive_rows_of_day(exchange: str, symbol: str, day: date) -> BooleanExpression:
    start = datetime.combine(day, time(), UTC)
    return all_of(
        at_least("event_time", start),
        below("event_time", start + DAY),
        equal("symbol", symbol),
        equal("exchange", exchange),
        is_null(ARCHIVE_MARKER),
    )


def _holds_only_archive_rows(table: Table, file: DataFile, symbol: str) -> bool:
    """Return whether the file's statistics prove that it holds only the symbol's archive rows.

    An hour lies within its day, and a symbol belongs to one exchange.
    """
    schema = table.schema()
    symbol_id, marker_id = schema.find_field("symbol").field_id, schema.find_field(ARCHIVE_MARKER).field_id
    lower, upper = (file.lower_bounds or {}).get(symbol_id), (file.upper_bounds or {}).get(symbol_id)
    nulls = (file.null_value_counts or {}).get(marker_id)
    return lower == upper == symbol.encode() and nulls == file.record_count


def _without(batch: pa.RecordBatch, exchange: str, symbol: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.Table.from_batches([batch])
    is_archive_row = pc.and_(
        pc.and_(pc.equal(rows["symbol"], symbol), pc.equal(rows["exchange"], exchange)),
        pc.is_null(rows[ARCHIVE_MARKER]),
    )
    return rows.filter(pc.invert(is_archive_row))
