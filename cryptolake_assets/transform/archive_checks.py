"""What a day of the archive must hold: checked block by block while it is read, judged before it is committed. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptolake_assets.exchange.archive import ArchiveFile
from cryptolake_assets.transform.checks import SAMPLE_ROWS, CheckOutcome

if TYPE_CHECKING:
    import pyarrow as pa

DAY_MS = 86_400_000
MOST_HOLES = 1_000
"""A file with more of them is not taken for a record of its day at all: nothing of it is covered."""

CHECKSUM = "checksum"
EVERY_LINE = "every_line"
WITHIN_THE_DAY = "within_the_day"
IDS_CONSECUTIVE = "ids_consecutive"
BLOCKING = (CHECKSUM, EVERY_LINE, WITHIN_THE_DAY)
WARNING = (IDS_CONSECUTIVE,)
KLINES_OF_DAY = "klines_of_the_day"
"""Of the klines beside the trades, see `transform.archive_klines`; it warns too."""


class Inspection:
    """Takes in the blocks of one file in their order."""

    def __init__(self, file: ArchiveFile) -> None:
        self.file = file
        self.rows = 0
        self.lines = 0
        self._start_us = file.start_ms * 1000
        self._outside = 0
        self._outside_sample: list[dict[str, str]] = []
        self._last: tuple[int, int] | None = None
        self._missing = 0
        self._backward = 0
        self._holes: list[tuple[int, int, int, int]] = []
        """(id before, id behind, time before, time behind in µs)."""
        self._hole_number = 0

    @property
    def in_day(self) -> bool:
        """Whether all rows so far are of the file's UTC day."""
        return not self._outside

    def see(self, lines: int, block: pa.Table) -> None:
        """`block` has the columns of `archive_csv.HEADER`."""
        import numpy as np

        self.lines += lines
        self.rows += block.num_rows
        if not block.num_rows:
            return
        times, ids = block["transact_time"].to_numpy(), block["agg_trade_id"].to_numpy()
        outside = np.flatnonzero((times < self._start_us) | (times >= self._start_us + DAY_MS * 1000))
        self._outside += len(outside)
        for row in outside[: SAMPLE_ROWS - len(self._outside_sample)]:
            self._outside_sample.append({"agg_trade_id": str(ids[row]), "transact_time": _text(int(times[row]))})
        if self._last is not None:
            ids, times = np.concatenate([[self._last[0]], ids]), np.concatenate([[self._last[1]], times])
        steps = np.diff(ids)
        self._backward += int(np.count_nonzero(steps <= 0))
        ahead = np.flatnonzero(steps > 1)
        self._missing += int((steps[ahead] - 1).sum())
        self._hole_number += len(ahead)
        for row in ahead[: MOST_HOLES - len(self._holes)]:
            self._holes.append((int(ids[row]), int(ids[row + 1]), int(times[row]), int(times[row + 1])))
        self._last = (int(ids[-1]), int(times[-1]))

    def outcomes(self, rows_written: int) -> list[CheckOutcome]:
        """`rows_written` are those that the data files hold, by their own count. The checksum was verified before."""
        whole = self.rows == self.lines and self.rows > 0 and (not self.in_day or rows_written == self.rows)
        broken = self._missing + self._backward
        sample = [
            {"after_id": str(before), "before_id": str(behind), "from": _text(left), "to": _text(right)}
            for before, behind, left, right in self._holes[:SAMPLE_ROWS]
        ]
        return [
            CheckOutcome(CHECKSUM, True, f"the content of {self.file.name} fits its .CHECKSUM"),
            CheckOutcome(
                EVERY_LINE, whole, f"{self.lines} lines, {self.rows} rows read, {rows_written} written", not whole
            ),
            CheckOutcome(
                WITHIN_THE_DAY,
                self.in_day,
                f"{self._outside} of {self.rows} trades are not of {self.file.day}",
                self._outside,
                self._outside_sample,
            ),
            CheckOutcome(
                IDS_CONSECUTIVE,
                not broken,
                f"{self._missing} aggregate ids missing in {self._hole_number} holes, {self._backward} out of order",
                broken,
                sample,
            ),
        ]

    @staticmethod
    def passed(outcomes: list[CheckOutcome]) -> bool:
        return all(outcome.passed for outcome in outcomes if outcome.name in BLOCKING)

    def covered(self) -> list[tuple[int, int]]:
        """Spans [from, to) in ms of the day in which no trade is missing: what lies between the holes, whose missing
        trades happened somewhere from the time before to the time behind."""
        start_ms = self._start_us // 1000
        if self._backward or self._hole_number > len(self._holes):
            return []
        spans, begin = [], start_ms
        for _, _, left_us, right_us in self._holes:
            end = left_us // 1000
            if end > begin:
                spans.append((begin, end))
            begin = max(begin, right_us // 1000 + 1)
        if begin < start_ms + DAY_MS:
            spans.append((begin, start_ms + DAY_MS))
        return spans


def _text(time_us: int) -> str:
    """A time of any size, for people."""
    try:
        return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return str(time_us)
