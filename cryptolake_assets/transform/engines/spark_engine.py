"""Spark engine: aggregate on a Spark session, normally that of the Spark Connect server.

Two queries return the same rows. The fast one (`spark_fast`) works on 64-bit numbers and raises if a value does not
fit; then the careful one runs, on decimals and structs. Each computes bars and row counts in one pass: unused trades
keep their row, with NULL measures.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.bronze_files import constants_of, files_between, quantities_fit
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.columns import PRICE
from cryptolake_assets.model.family_tables import FamilyTables
from cryptolake_assets.model.measures import BAR_MEASURES, DAILY_MEASURES, SPARK, select_list
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.minute_bars import MARKET, OFTEN_CONSTANT, MinuteAggregates, RowCounts
from cryptolake_assets.quality.rules import (
    QUARANTINED_TRADES,
    RULES,
    RuleContext,
    judgeable,
    missing_rule_numbers,
    quarantined_table,
    rule_number,
    sql_string,
    sql_time,
)
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.engine import narrowed
from cryptolake_assets.transform.engines.spark_fast import DOES_NOT_FIT, fast_sql

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

# Counts of a minute's rows.
ACCOUNT = ",\n  ".join(
    [
        "sum(copies) AS rows_in",
        "count_if(used) AS rows_valid",
        "sum(copies - 1) AS rows_duplicate",
        "count_if(rule_number = 0 AND NOT used) AS rows_other_type",
        *(f"count_if(rule_number = {number}) AS dropped_{rule}" for number, rule in enumerate(RULES, start=1)),
        f"count_if(rule_number IN ({missing_rule_numbers()}) AND is_order_book) AS trades_dropped",
    ]
)

# Bronze columns that bars are made from.
READ = (
    *("exchange", "stream", "symbol", "event_time", "trade_id", "price", "qty", "side"),
    *("first_trade_id", "last_trade_id", "trade_type"),
)

# Columns that must be equal in all duplicates of a trade.
CONTENT = "event_time, price, qty, side, first_trade_id, last_trade_id, trade_type"


class SparkEngine:
    """Engine on the given Spark session; this process reads the table's manifests."""

    name = "spark"

    def __init__(self, settings: Settings, spark: SparkSession) -> None:
        self._settings = settings
        self._spark = spark

    def minute_aggregates(
        self,
        tables: FamilyTables,
        snapshot_id: int,
        hours: Sequence[datetime],
        minutes: pa.Table | None,
        context: RuleContext,
    ) -> Iterator[tuple[datetime, MinuteAggregates]]:
        """Aggregate all hours in one query."""
        import pyarrow.compute as pc

        # Keeps the 16 fractional digits of products of long decimals; a product that does not fit raises.
        self._spark.conf.set("spark.sql.decimalOperations.allowPrecisionLoss", "false")
        with self._trades(tables.trades, snapshot_id, hours, minutes) as trades, self._quarantined(context):
            rows = self._fast(trades, context)
            if rows is None:
                rows = self._spark.sql(careful_sql(trades, context)).toArrow()
        starts = rows["window_start"]
        for hour in hours:
            of_hour = rows.filter(pc.and_(pc.greater_equal(starts, hour), pc.less(starts, hour + HOUR)))
            yield hour, MinuteAggregates(_measured(of_hour), _count(of_hour))

    def daily_aggregates(self, tables: FamilyTables, snapshot_id: int, day: date) -> pa.Table:
        start = f"TIMESTAMP '{day.isoformat()} 00:00:00+00:00'"
        return self._spark.sql(
            f"SELECT exchange, symbol, {select_list(DAILY_MEASURES, SPARK)} "
            f"FROM {tables.bars.full_name} VERSION AS OF {snapshot_id} "
            f"WHERE window_start >= {start} AND window_start < {start} + INTERVAL 1 DAY GROUP BY exchange, symbol"
        ).toArrow()

    def _fast(self, trades: str, context: RuleContext) -> pa.Table | None:
        """Return the fast query's rows, or None if a value does not fit."""
        from pyspark.errors.exceptions.base import PySparkException

        try:
            return self._spark.sql(fast_sql(trades, context)).toArrow()
        except PySparkException as error:
            cause = next((name for name in DOES_NOT_FIT if name in str(error)), None)
            if cause is None:
                raise
            log.info("spark_fallback_used", cause=cause)
            return None

    @contextmanager
    def _quarantined(self, context: RuleContext) -> Iterator[None]:
        """Provide the quarantined trades as a view, if there are any."""
        if not context.quarantined:
            yield
            return
        self._spark.createDataFrame(quarantined_table(context)).createOrReplaceTempView(QUARANTINED_TRADES)
        try:
            yield
        finally:
            self._spark.catalog.dropTempView(QUARANTINED_TRADES)

    @contextmanager
    def _trades(
        self, bronze: TableSpec, snapshot_id: int, hours: Sequence[datetime], minutes: pa.Table | None
    ) -> Iterator[str]:
        """Yield a FROM clause over the trades of the hours, or of the given minutes in them."""
        first, last = narrowed(hours[0], hours[-1] + HOUR, minutes)
        files = files_between(load_table(self._settings, bronze), snapshot_id, first, last)
        constants = constants_of(files, OFTEN_CONSTANT)
        values = {name: f"{sql_string(value)} AS {name}" for name, value in constants.items()}
        if quantities_fit(files, PRICE):
            # Spark holds decimals of up to 18 digits in 64 bits, longer ones as objects.
            values["qty"] = f"CAST(qty AS {PRICE}) AS qty"
        read = ", ".join(values.get(name, name) for name in READ)
        source = (
            f"SELECT {read} FROM {bronze.full_name} VERSION AS OF {snapshot_id} "
            f"WHERE event_time >= {sql_time(first)} AND event_time < {sql_time(last)}"
        )
        if minutes is None:
            yield f"({source})"
            return
        name = f"touched_{uuid.uuid4().hex}"
        self._spark.createDataFrame(minutes).createOrReplaceTempView(name)
        try:
            touched = f"SELECT /*+ BROADCAST */ exchange, symbol, window_start FROM {name}"
            yield f"({source} AND (exchange, symbol, {SPARK.minute}) IN ({touched}))"
        finally:
            self._spark.catalog.dropTempView(name)


def careful_sql(trades: str, context: RuleContext) -> str:
    """Return the query on decimals and structs over the FROM clause `trades`; a valid duplicate wins."""
    return f"""
WITH judged AS (
  SELECT *, {SPARK.minute} AS window_start, {rule_number(context)} AS rule_number FROM {judgeable(context, trades)}
), distinct_trades AS (
  SELECT exchange, symbol, stream, window_start, trade_id, count(*) AS copies,
    min(struct(rule_number > 0 AS is_broken, {CONTENT}, rule_number)) AS trade
  FROM judged GROUP BY exchange, symbol, stream, window_start, trade_id
), counted AS (
  SELECT exchange, symbol, stream, window_start, trade_id, copies, trade.*,
    NOT trade.is_broken AND trade.trade_type = '{MARKET}' AS used, trade.trade_type = '{MARKET}' AS is_order_book
  FROM distinct_trades
), measured AS (
  SELECT exchange, symbol, stream, window_start, copies, used, rule_number, is_order_book,
    IF(used, price, NULL) AS price, IF(used, qty, NULL) AS qty, IF(used, side, NULL) AS side,
    IF(used, first_trade_id, NULL) AS first_trade_id, IF(used, last_trade_id, NULL) AS last_trade_id,
    IF(used, struct(event_time, trade_id), NULL) AS position
  FROM counted
)
SELECT exchange, symbol, stream, window_start, {select_list(BAR_MEASURES, SPARK)},
  {ACCOUNT}
FROM measured GROUP BY exchange, symbol, stream, window_start
"""


def _measured(rows: pa.Table) -> pa.Table:
    """Return the minutes that have a trade for a bar, without the row counts."""
    import pyarrow.compute as pc

    account = [name for name in rows.column_names if name.startswith(("rows_", "dropped_"))]
    return rows.filter(pc.greater(rows["rows_valid"], 0)).drop_columns(account)


def _count(rows: pa.Table) -> RowCounts:
    """Sum the row counts of all minutes."""
    import pyarrow.compute as pc

    def total(column: str) -> int:
        return int(pc.sum(rows[column]).as_py() or 0)

    return RowCounts(
        rows_in=total("rows_in"),
        rows_valid=total("rows_valid"),
        rows_duplicate=total("rows_duplicate"),
        rows_other_type=total("rows_other_type"),
        dropped_by_rule={rule: total(f"dropped_{rule}") for rule in RULES},
    )
