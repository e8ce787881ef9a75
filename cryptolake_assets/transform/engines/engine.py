"""The engine interface: DuckDB in this process (`duckdb_engine`) or Spark Connect (`spark_engine`).

An engine only aggregates. The choice of minutes and snapshot, derived columns, checks and commits are common to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Protocol

from cryptolake_assets.model.family_tables import FamilyTables
from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.quality.minute_bars import MinuteAggregates
from cryptolake_assets.quality.rules import RuleContext

if TYPE_CHECKING:
    import pyarrow as pa


def narrowed(first: datetime, last: datetime, minutes: pa.Table | None) -> tuple[datetime, datetime]:
    """Return the interval [first, last), narrowed to the extent of the given minutes."""
    if minutes is None:
        return first, last
    starts = minutes["window_start"].to_pylist()
    return max(first, min(starts)), min(last, max(starts) + MINUTE)


class AggregationEngine(Protocol):
    """Runs the two aggregations on given snapshots."""

    name: str

    def minute_aggregates(
        self,
        tables: FamilyTables,
        snapshot_id: int,
        hours: Sequence[datetime],
        minutes: pa.Table | None,
        context: RuleContext,
    ) -> Iterator[tuple[datetime, MinuteAggregates]]:
        """Aggregate the trades of a Bronze snapshot; yield each of the consecutive `hours`, in order.

        `minutes` (exchange, symbol, window_start) restricts the trades to those minutes.
        """
        ...

    def daily_aggregates(self, tables: FamilyTables, snapshot_id: int, day: date) -> pa.Table:
        """Return a UTC day of a Silver snapshot: `exchange`, `symbol` and the aggregates of `DAILY_MEASURES`."""
        ...
