"""What an engine does: DuckDB in this process (`duckdb_engine`) or Spark through a Connect session (`spark_engine`).

An engine only aggregates. Which minutes, which snapshot, what is derived, checked and committed is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Protocol

from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.quality.minute_bars import MinuteAggregates
from cryptolake_assets.quality.rules import RuleContext

if TYPE_CHECKING:
    import pyarrow as pa


def narrowed(first: datetime, last: datetime, minutes: pa.Table | None) -> tuple[datetime, datetime]:
    """The interval [first, last), cut to where the given minutes (window_start) lie, if any are given."""
    if minutes is None:
        return first, last
    starts = minutes["window_start"].to_pylist()
    return max(first, min(starts)), min(last, max(starts) + MINUTE)


class AggregationEngine(Protocol):
    """Runs the two aggregations on given snapshots."""

    name: str

    def minute_aggregates(
        self, snapshot_id: int, hours: Sequence[datetime], minutes: pa.Table | None, context: RuleContext
    ) -> Iterator[tuple[datetime, MinuteAggregates]]:
        """The trades of a Bronze snapshot, aggregated: each of the consecutive `hours` with its aggregates, in order.

        `minutes` (symbol, window_start) narrows them to those.
        """
        ...

    def daily_aggregates(self, snapshot_id: int, day: date) -> pa.Table:
        """`symbol` and the aggregates of `DAILY_MEASURES`, one row per symbol, of a UTC day of a Silver snapshot."""
        ...
