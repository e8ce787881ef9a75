"""What runs the aggregations: Spark, through a Connect session."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from cryptolake_assets.lake.tables import BRONZE_TRADES, SILVER_OHLCV
from cryptolake_assets.lake.windows import HOUR
from cryptolake_assets.transform.daily import daily_sql
from cryptolake_assets.transform.ohlcv import bars_sql
from cryptolake_assets.transform.rules import RuleContext, sql_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import SparkSession


class Engine(Protocol):
    """Runs the two aggregations on given snapshots."""

    name: str

    def minute_aggregates(
        self, snapshot_id: int, hour: datetime, minutes: pa.Table | None, context: RuleContext
    ) -> pa.Table:
        """`bars_sql`'s columns for one hour of Bronze; `minutes` (symbol, window_start) narrows it to those."""
        ...

    def daily_aggregates(self, snapshot_id: int, day: date) -> pa.Table:
        """`daily_sql`'s columns for one UTC day of Silver."""
        ...


class SparkEngine:
    """Runs on a Spark session, in general that of the Spark Connect server."""

    name = "spark"

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def minute_aggregates(
        self, snapshot_id: int, hour: datetime, minutes: pa.Table | None, context: RuleContext
    ) -> pa.Table:
        first, last = hour, hour + HOUR
        if minutes is not None:
            starts = minutes["window_start"].to_pylist()
            first, last = min(starts), max(starts) + timedelta(minutes=1)
        source = (
            f"(SELECT * FROM {BRONZE_TRADES.full_name} VERSION AS OF {snapshot_id} "
            f"WHERE event_time >= {sql_time(first)} AND event_time < {sql_time(last)}"
        )
        if minutes is None:
            return self._collect(bars_sql(f"{source})", context))
        with self._view(minutes) as view:
            wanted = f"SELECT /*+ BROADCAST */ symbol, window_start FROM {view}"
            narrowed = f"{source} AND (symbol, date_trunc('MINUTE', event_time)) IN ({wanted}))"
            return self._collect(bars_sql(narrowed, context))

    def daily_aggregates(self, snapshot_id: int, day: date) -> pa.Table:
        start = f"TIMESTAMP '{day.isoformat()} 00:00:00+00:00'"
        return self._collect(
            daily_sql(
                f"(SELECT * FROM {SILVER_OHLCV.full_name} VERSION AS OF {snapshot_id} "
                f"WHERE window_start >= {start} AND window_start < {start} + INTERVAL 1 DAY)"
            )
        )

    def _collect(self, sql: str) -> pa.Table:
        return self._spark.sql(sql).toArrow()

    @contextmanager
    def _view(self, minutes: pa.Table) -> Iterator[str]:
        name = f"touched_{uuid.uuid4().hex}"
        self._spark.createDataFrame(minutes).createOrReplaceTempView(name)
        try:
            yield name
        finally:
            self._spark.catalog.dropTempView(name)
