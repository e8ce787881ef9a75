"""Check a day's archive file block by block while it is read; judge the results before the commit. Pure.

Consecutive ids prove that the time between them is complete, in any order of rows. The start and end of the file prove
nothing; the neighboring day or the klines of the minute do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cryptolake_assets.binance.archive_csv import BadLine, Block
from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DAY_MS = 86_400_000
MAX_GAPS = 1_000  # a file with more gaps covers nothing
MAX_REJECTED_LINES = 10_000  # maximum rejected lines stored as dead letters; further ones are only counted

CHECKSUM = "checksum"
EVERY_LINE = "every_line"
WITHIN_THE_DAY = "within_the_day"
LINES_REJECTED = "lines_rejected"
IDS_CONSECUTIVE = "ids_consecutive"
BLOCKING = (CHECKSUM, EVERY_LINE)
WARNING = (WITHIN_THE_DAY, LINES_REJECTED, IDS_CONSECUTIVE)
KLINES_OF_DAY = "klines_of_the_day"  # warning check on the klines of the day, see `ingest.archive_klines`


@dataclass(frozen=True)
class IdRun:
    """Consecutive ids, both ends inclusive, and the times of both ends (µs since 1970, UTC)."""

    first_id: int
    last_id: int
    first_us: int
    last_us: int


class Inspection:
    """Checks the blocks of one file, in their order."""

    def __init__(self, file: ArchiveFile, contradicting: pa.Array | None = None) -> None:
        """`contradicting` are ids whose rows contradict each other, see `contradicting_ids`."""
        self.file = file
        self._contradicting = contradicting
        self.rows = 0  # trades of the day
        self.lines = 0
        self.without_trade = 0
        self.rejected_lines: list[BadLine] = []  # at most `MAX_REJECTED_LINES`
        self.rejected_line_count = 0
        self._start_us = file.start_ms * 1000
        self._outside_sample: list[BadLine] = []  # at most `SAMPLE_ROWS`
        self._outside_count = 0
        self._ids = 0
        self._runs: list[np.ndarray] = []  # columns of `IdRun`, an array per block

    def add_block(self, block: Block) -> pa.Table:
        """Check a block; return its trades of the file's UTC day."""
        self.lines += block.lines
        self._add_rejected(list(block.rejected_lines))
        rows, without_trade = self._accepted(block.rows), self._accepted(block.without_trade)
        self.rows += rows.num_rows
        self.without_trade += without_trade.num_rows
        self._add_ids(rows, without_trade)
        return rows

    @property
    def may_contradict(self) -> bool:
        """Return whether an id may occur more than once; a rejected line can hold a duplicate id."""
        return bool(self.rejected_line_count) or self._ids > sum(run.last_id - run.first_id + 1 for run in self.runs())

    def _accepted(self, rows: pa.Table) -> pa.Table:
        rows, outside = split_by_day(rows, self.file)
        lines = _lines(outside, lambda row: f"time {_text(row['transact_time'])} is outside {self.file.day}")
        self._add_rejected(lines)
        self._outside_count += len(lines)
        self._outside_sample += lines[: SAMPLE_ROWS - len(self._outside_sample)]
        if self._contradicting is not None:
            import pyarrow.compute as pc

            contradicts = pc.is_in(rows["agg_trade_id"], value_set=self._contradicting)
            self._add_rejected(
                _lines(
                    rows.filter(contradicts),
                    lambda row: f"aggregate id {row['agg_trade_id']} occurs more than once, with different values",
                )
            )
            rows = rows.filter(pc.invert(contradicts))
        return rows

    def _add_rejected(self, lines: list[BadLine]) -> None:
        self.rejected_line_count += len(lines)
        self.rejected_lines += lines[: MAX_REJECTED_LINES - len(self.rejected_lines)]

    def _add_ids(self, *tables: pa.Table) -> None:
        import numpy as np

        ids = np.concatenate([table["agg_trade_id"].to_numpy() for table in tables])
        times = np.concatenate([table["transact_time"].to_numpy() for table in tables])
        self._ids += len(ids)
        if len(ids):
            self._runs.append(_runs_of(np.stack([ids, ids, times, times], axis=1)))

    def runs(self) -> list[IdRun]:
        """Return the file's ids as runs of consecutive ids, ascending."""
        import numpy as np

        if not self._runs:
            return []
        self._runs = [_runs_of(np.concatenate(self._runs))]
        return [IdRun(*map(int, row)) for row in self._runs[0]]

    def outcomes(self, rows_written: int) -> list[CheckOutcome]:
        """Return the outcomes of all checks.

        `rows_written` is the row count of the data files. The checksum was verified before.
        """
        lines_accounted = self.rows + self.without_trade + self.rejected_line_count
        is_complete = lines_accounted == self.lines and rows_written == self.rows and self.rows + self.without_trade > 0
        runs = self.runs()
        gaps = list(pairwise(runs))
        missing = sum(after.first_id - before.last_id - 1 for before, after in gaps)
        sample = [
            {
                "after_id": str(before.last_id),
                "before_id": str(after.first_id),
                "from": _text(before.last_us),
                "to": _text(after.first_us),
            }
            for before, after in gaps[:SAMPLE_ROWS]
        ]
        description = (
            f"{self.lines} lines: {self.rows} trades, {rows_written} written, {self.rejected_line_count} lines rejected"
        )
        if self.without_trade:
            description += f", {self.without_trade} ids without a trade"
        return [
            CheckOutcome(CHECKSUM, True, f"the content of {self.file.name} matches its .CHECKSUM"),
            CheckOutcome(EVERY_LINE, is_complete, description, not is_complete),
            CheckOutcome(
                WITHIN_THE_DAY,
                not self._outside_count,
                f"{self._outside_count} of {self.lines} trades are outside {self.file.day}",
                self._outside_count,
                _sample(self._outside_sample),
            ),
            CheckOutcome(
                LINES_REJECTED,
                not self.rejected_line_count,
                f"{self.rejected_line_count} of {self.lines} lines are rejected; their minutes are incomplete",
                self.rejected_line_count,
                _sample(self.rejected_lines[:SAMPLE_ROWS]),
            ),
            CheckOutcome(
                IDS_CONSECUTIVE,
                not missing,
                f"{missing} aggregate ids missing in {len(gaps)} gaps",
                missing,
                sample,
            ),
        ]

    @staticmethod
    def passed(outcomes: list[CheckOutcome]) -> bool:
        return all(outcome.passed for outcome in outcomes if outcome.name in BLOCKING)


def split_by_day(rows: pa.Table, file: ArchiveFile) -> tuple[pa.Table, pa.Table]:
    """Split rows into those of the file's UTC day and the others."""
    import pyarrow.compute as pc

    times, start_us = rows["transact_time"], file.start_ms * 1000
    bounds, end_us = pc.min_max(times).as_py(), start_us + DAY_MS * 1000
    if not rows.num_rows or (bounds["min"] >= start_us and bounds["max"] < end_us):
        return rows, rows.slice(0, 0)
    is_within = pc.and_(pc.greater_equal(times, start_us), pc.less(times, end_us))
    return rows.filter(is_within), rows.filter(pc.invert(is_within))


def contradicting_ids(blocks: Callable[[], Iterable[Block]], file: ArchiveFile) -> pa.Array:
    """Return the aggregate ids of the file's day that occur more than once, with different values.

    No evidence shows which values are right. A rejected line or a row of another day contradicts any row of the day
    with the same id. `blocks` reads the file and is called twice; only the rows of duplicate ids are kept in memory.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    def tables(block: Block) -> list[tuple[pa.Table, pa.Table]]:
        return [split_by_day(table, file) for table in (block.rows, block.without_trade)]

    of_day: list[np.ndarray] = []
    others: set[int] = set()
    for block in blocks():
        others |= {line.agg_trade_id for line in block.rejected_lines if line.agg_trade_id is not None}
        for rows, outside in tables(block):
            of_day.append(rows["agg_trade_id"].to_numpy())
            others.update(outside["agg_trade_id"].to_pylist())
    ids, counts = np.unique(np.concatenate(of_day), return_counts=True)
    duplicate_ids = pa.array(ids[counts > 1])
    copies = pa.concat_tables(
        rows.filter(pc.is_in(rows["agg_trade_id"], value_set=duplicate_ids))
        for block in blocks()
        for rows, _ in tables(block)
    )
    variants = (
        copies.group_by(copies.column_names).aggregate([]).group_by("agg_trade_id").aggregate([([], "count_all")])
    )
    differing = variants.filter(pc.greater(variants["count_all"], 1))["agg_trade_id"].to_numpy()
    return pa.array(np.union1d(differing, np.intersect1d(ids, np.array(sorted(others), ids.dtype))))


def _lines(rows: pa.Table, reason: Callable[[dict[str, Any]], str]) -> list[BadLine]:
    """Return rejected rows as lines; their line numbers are unknown."""
    return [
        BadLine(0, ",".join(str(value) for value in row.values()), reason(row), row["agg_trade_id"])
        for row in rows.to_pylist()
    ]


def _sample(lines: Sequence[BadLine]) -> list[dict[str, str]]:
    return [{"line": str(line.number), "reason": line.reason, "text": line.text[:200]} for line in lines]


def _runs_of(rows: np.ndarray) -> np.ndarray:
    """Join rows of (first id, last id, time of the first, time of the last) with consecutive ids."""
    import numpy as np

    if not np.all(rows[1:, 0] > rows[:-1, 1]):
        # Out of order or duplicate: sort by the first id, and equal first ids by the last id.
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    reached = np.maximum.accumulate(rows[:, 1])
    begins = np.flatnonzero(np.concatenate([[True], rows[1:, 0] > reached[:-1] + 1]))
    ends = np.concatenate([begins[1:] - 1, [len(rows) - 1]])
    last_ids = reached[ends]
    # The time of a run's last id is that of the row that reaches it: the run's last row, unless ids occur twice.
    reaching = np.maximum.accumulate(np.where(rows[:, 1] == reached, np.arange(len(rows)), 0))[ends]
    return np.stack([rows[begins, 0], last_ids, rows[begins, 2], rows[reaching, 3]], axis=1)


def _text(time_us: int) -> str:
    """Format a time as UTC ISO text; as a number if it is out of range."""
    try:
        return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return str(time_us)
