"""The Spark engine: the aggregations on a Spark session, in general that of the Spark Connect server.

Two queries give the same rows. The fast one works on 64-bit numbers, which Spark aggregates in place by hashing; what
does not fit (a trade id beyond 37 bits, a sum beyond 64, two copies of a trade that differ) makes it raise, and the
careful one, on decimals and structs, is run instead. Trades that are not used keep their row, with nothing in it to
measure, so that one query makes the bars and the account of what became of the rows. One shuffle serves both the
removal of repeats and the bars, because a trade's repeats share its minute.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.tables import BRONZE_TRADES, SILVER_OHLCV
from cryptolake_assets.lake.windows import HOUR, MINUTE
from cryptolake_assets.measures import BAR_MEASURES, DAILY_MEASURES, SPARK, select_list
from cryptolake_assets.settings import EXCHANGE_NAME
from cryptolake_assets.transform.ohlcv import MARKET, MinuteAggregates, RowCounts
from cryptolake_assets.transform.rules import RULES, RuleContext, predicates, sql_time

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

log = structlog.get_logger(__name__)

NOT_FAST = "CRYPTOLAKE_NOT_FAST"
DOES_NOT_FIT = (NOT_FAST, "ARITHMETIC_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE", "CAST_OVERFLOW")
"""What the fast query's error says when the careful one is needed; the first is raised by the query itself."""

PARTITIONS_AN_HOUR = 4

LARGEST_FAST_ID = 2**37 - 1
"""A trade id that fits beside the microsecond of its minute (26 bits) into 63 bits."""

ACCOUNT = ",\n  ".join(
    [
        "sum(copies) AS rows_in",
        "count_if(used) AS rows_valid",
        "sum(copies - 1) AS rows_duplicate",
        "count_if(rule_number = 0 AND NOT used) AS rows_other_type",
        *(f"count_if(rule_number = {number}) AS dropped_{rule}" for number, rule in enumerate(RULES, start=1)),
    ]
)
"""What became of the rows of a minute."""

CONTENT = "event_time, price, qty, side, first_trade_id, last_trade_id, trade_type"
"""What the copies of a trade have to agree on."""


class SparkEngine:
    """Runs on the given session."""

    name = "spark"

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def minute_aggregates(
        self, snapshot_id: int, hours: Sequence[datetime], minutes: pa.Table | None, context: RuleContext
    ) -> Iterator[tuple[datetime, MinuteAggregates]]:
        """One query for all of the hours."""
        import pyarrow.compute as pc

        with self._trades(snapshot_id, hours, minutes) as trades:
            # A few hundred thousand trades a partition of an ordinary day: larger hash tables spill to disk.
            rows = self._fast(trades, context, partitions=PARTITIONS_AN_HOUR * len(hours))
            if rows is None:
                rows = self._spark.sql(careful_sql(trades, context)).toArrow()
        starts = rows["window_start"]
        for hour in hours:
            of_hour = rows.filter(pc.and_(pc.greater_equal(starts, hour), pc.less(starts, hour + HOUR)))
            yield hour, MinuteAggregates(_measured(of_hour), _count(of_hour))

    def daily_aggregates(self, snapshot_id: int, day: date) -> pa.Table:
        start = f"TIMESTAMP '{day.isoformat()} 00:00:00+00:00'"
        return self._spark.sql(
            f"SELECT symbol, {select_list(DAILY_MEASURES, SPARK)} "
            f"FROM {SILVER_OHLCV.full_name} VERSION AS OF {snapshot_id} "
            f"WHERE window_start >= {start} AND window_start < {start} + INTERVAL 1 DAY GROUP BY symbol"
        ).toArrow()

    def _fast(self, trades: str, context: RuleContext, partitions: int) -> pa.Table | None:
        """The fast query's rows, or None when something does not fit."""
        from pyspark.errors.exceptions.base import PySparkException

        try:
            return self._spark.sql(fast_sql(trades, context, partitions)).toArrow()
        except PySparkException as error:
            cause = next((name for name in DOES_NOT_FIT if name in str(error)), None)
            if cause is None:
                raise
            log.info("spark_goes_the_careful_way", cause=cause)
            return None

    @contextmanager
    def _trades(self, snapshot_id: int, hours: Sequence[datetime], minutes: pa.Table | None) -> Iterator[str]:
        """A FROM clause over the trades of the hours, or of these minutes of them."""
        first, last = hours[0], hours[-1] + HOUR
        if minutes is not None:
            starts = minutes["window_start"].to_pylist()
            first, last = max(first, min(starts)), min(last, max(starts) + MINUTE)
        source = (
            f"SELECT * FROM {BRONZE_TRADES.full_name} VERSION AS OF {snapshot_id} "
            f"WHERE event_time >= {sql_time(first)} AND event_time < {sql_time(last)}"
        )
        if minutes is None:
            yield f"({source})"
            return
        name = f"touched_{uuid.uuid4().hex}"
        self._spark.createDataFrame(minutes).createOrReplaceTempView(name)
        try:
            wanted = f"SELECT /*+ BROADCAST */ symbol, window_start FROM {name}"
            yield f"({source} AND (symbol, {SPARK.minute}) IN ({wanted}))"
        finally:
            self._spark.catalog.dropTempView(name)


def _rule_number(context: RuleContext) -> str:
    """Number of the first rule that a trade breaks, from 1; 0 if none."""
    rules = enumerate(predicates(context).values(), start=1)
    return f"CASE {' '.join(f'WHEN {predicate} THEN {number}' for number, predicate in rules)} ELSE 0 END"


def fast_sql(trades: str, context: RuleContext, partitions: int) -> str:
    """The query on 64-bit numbers over the FROM clause `trades`, shuffled into so many partitions.

    Price and quantity are units of 10^-8 (`p`, `q`), the time is microseconds of its minute (`place` later, with the
    id), and `flags` is 4 x rule_number + 2 if MARKET + 1 if the taker bought.
    """
    values = ("microsecond", "p", "q", "first_trade_id", "last_trade_id", "flags")
    return f"""
WITH numbers AS (
  SELECT /*+ REPARTITION({partitions}, symbol, minute) */ symbol, stream, trade_id,
    unix_micros(event_time) div 60000000 AS minute, unix_micros(event_time) % 60000000 AS microsecond,
    CAST(price * 100000000 AS bigint) AS p, CAST(qty * 100000000 AS bigint) AS q, first_trade_id, last_trade_id,
    CASE WHEN exchange <> '{EXCHANGE_NAME}' OR trade_id NOT BETWEEN 0 AND {LARGEST_FAST_ID}
      THEN raise_error('{NOT_FAST}')
      ELSE 4 * {_rule_number(context)} + IF(trade_type = '{MARKET}', 2, 0) + IF(side = 'buy', 1, 0) END AS flags
  FROM {trades}
), distinct_trades AS (
  SELECT symbol, stream, minute, trade_id, count(*) AS copies, {", ".join(f"min({name}) AS {name}" for name in values)},
    min(xxhash64({", ".join(values)})) AS lowest_content, max(xxhash64({", ".join(values)})) AS highest_content
  FROM numbers GROUP BY symbol, stream, minute, trade_id
), guarded AS (
  SELECT symbol, stream, minute, copies, flags div 4 AS rule_number, flags % 2 = 1 AS is_buy, flags IN (2, 3) AS used,
    first_trade_id, last_trade_id, p, q,
    CASE WHEN lowest_content <> highest_content THEN raise_error('{NOT_FAST}')
      ELSE shiftleft(microsecond, 37) | trade_id END AS place
  FROM distinct_trades
), used_only AS (
  SELECT symbol, stream, minute, copies, rule_number, used, is_buy, IF(used, place, NULL) AS position,
    IF(used, first_trade_id, NULL) AS first_trade_id, IF(used, last_trade_id, NULL) AS last_trade_id,
    IF(used, p, NULL) AS p, IF(used, q, NULL) AS q
  FROM guarded
), measured AS (
  SELECT *, p div 1000000000000 AS p2, p div 1000000 % 1000000 AS p1, p % 1000000 AS p0,
    q div 1000000000000 AS q2, q div 1000000 % 1000000 AS q1, q % 1000000 AS q0
  FROM used_only
)
SELECT symbol, stream, timestamp_micros(minute * 60000000) AS window_start,
  {select_list(BAR_MEASURES, SPARK, in_units=True)},
  {ACCOUNT}
FROM measured GROUP BY symbol, stream, minute
"""


def careful_sql(trades: str, context: RuleContext) -> str:
    """The query on decimals and structs over the FROM clause `trades`: a sound copy goes before a broken one."""
    return f"""
WITH judged AS (
  SELECT *, {SPARK.minute} AS window_start, {_rule_number(context)} AS rule_number FROM {trades}
), distinct_trades AS (
  SELECT symbol, stream, window_start, trade_id, count(*) AS copies,
    min(struct(rule_number > 0 AS is_broken, {CONTENT}, rule_number)) AS trade
  FROM judged GROUP BY exchange, symbol, stream, window_start, trade_id
), counted AS (
  SELECT symbol, stream, window_start, trade_id, copies, trade.*,
    NOT trade.is_broken AND trade.trade_type = '{MARKET}' AS used
  FROM distinct_trades
), measured AS (
  SELECT symbol, stream, window_start, copies, used, rule_number, IF(used, price, NULL) AS price,
    IF(used, qty, NULL) AS qty, IF(used, side, NULL) AS side, IF(used, first_trade_id, NULL) AS first_trade_id,
    IF(used, last_trade_id, NULL) AS last_trade_id, IF(used, struct(event_time, trade_id), NULL) AS position
  FROM counted
)
SELECT symbol, stream, window_start, {select_list(BAR_MEASURES, SPARK)},
  {ACCOUNT}
FROM measured GROUP BY symbol, stream, window_start
"""


def _measured(rows: pa.Table) -> pa.Table:
    """The minutes that have a trade to make a bar of, without the account."""
    import pyarrow.compute as pc

    account = [name for name in rows.column_names if name.startswith(("rows_", "dropped_"))]
    return rows.filter(pc.greater(rows["rows_valid"], 0)).drop_columns(account)


def _count(rows: pa.Table) -> RowCounts:
    """Adds up the account of all minutes."""
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
