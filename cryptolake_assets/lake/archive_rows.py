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

MARK = "kafka_offset"  # null in archive rows, and in no others


@dataclass(frozen=True)
class ReplacedDay:
    """Result of the commit: the table's new snapshot, and the number of removed rows of an earlier issue."""

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
            if attempt.retry_state.attempt_number > 1:
                table = table.refresh()
            plan = _Plan(table, exchange, symbol, day)
            try:
                if plan.gone:
                    swap_files(table, plan.gone, [*files, *plan.kept], properties)
                else:
                    _append(table, files, properties)
            except (CommitFailedException, ValidationException):
                # After any other error the commit may have succeeded: leave its files to orphan removal.
                plan.abort()
                raise
    return ReplacedDay(table.metadata.current_snapshot_id or 0, plan.rows_removed, len(plan.kept))


def count_day(table: Table, exchange: str, symbol: str, day: date) -> int:
    """Count the archive rows of (exchange, symbol) on the UTC day."""
    rows = table.scan(row_filter=_of_day(exchange, symbol, day), selected_fields=("symbol",)).to_arrow_batch_reader()
    return sum(batch.num_rows for batch in rows)


def _append(table: Table, files: Sequence[DataFile], properties: Mapping[str, str]) -> None:
    with (
        table.transaction() as transaction,
        transaction.update_snapshot(snapshot_properties=dict(properties)).fast_append() as snapshot,
    ):
        for file in files:
            snapshot.append_data_file(file)


class _Plan:
    """The files that hold rows of the day's earlier issue (`gone`), and their other rows as new files (`kept`)."""

    def __init__(self, table: Table, exchange: str, symbol: str, day: date) -> None:
        self._table = table
        self.gone: list[DataFile] = []
        self.kept: list[DataFile] = []
        self.rows_removed = 0
        self._rewritten: list[HourFiles] = []
        of_day = _of_day(exchange, symbol, day)
        for task in table.scan(row_filter=of_day).plan_files():
            if _holds_nothing_else(table, task.file, symbol):
                self.gone.append(task.file)
                self.rows_removed += task.file.record_count
            else:
                self._rewrite(task.file, exchange, symbol)

    def abort(self) -> None:
        for files in self._rewritten:
            files.abort()

    def _rewrite(self, file: DataFile, exchange: str, symbol: str) -> None:
        """Rewrite the file without the symbol's archive rows, batch by batch; keep a file that has none."""
        import pyarrow.parquet as pq

        kept = HourFiles(self._table)
        self._rewritten.append(kept)
        with self._table.io.new_input(file.file_path).open() as source:
            for batch in pq.ParquetFile(source).iter_batches():
                kept.write(_without(batch, exchange, symbol))
        if kept.rows == file.record_count:
            kept.abort()
            return
        self.gone.append(file)
        self.kept += kept.close()
        self.rows_removed += file.record_count - kept.rows


def _of_day(exchange: str, symbol: str, day: date) -> BooleanExpression:
    start = datetime.combine(day, time(), UTC)
    return all_of(
        at_least("event_time", start),
        below("event_time", start + DAY),
        equal("symbol", symbol),
        equal("exchange", exchange),
        is_null(MARK),
    )


def _holds_nothing_else(table: Table, file: DataFile, symbol: str) -> bool:
    """Return whether the file's statistics prove that it holds only the symbol's archive rows.

    An hour lies within its day, and a symbol belongs to one exchange.
    """
    schema = table.schema()
    text, mark = schema.find_field("symbol").field_id, schema.find_field(MARK).field_id
    lower, upper = (file.lower_bounds or {}).get(text), (file.upper_bounds or {}).get(text)
    nulls = (file.null_value_counts or {}).get(mark)
    return lower == upper == symbol.encode() and nulls == file.record_count


def _without(batch: pa.RecordBatch, exchange: str, symbol: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.Table.from_batches([batch])
    of_archive = pc.and_(
        pc.and_(pc.equal(rows["symbol"], symbol), pc.equal(rows["exchange"], exchange)), pc.is_null(rows[MARK])
    )
    return rows.filter(pc.invert(of_archive))
