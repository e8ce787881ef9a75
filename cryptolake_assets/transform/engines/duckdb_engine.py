"""DuckDB engine: aggregate in this process, over the Parquet files of the Iceberg snapshot.

Deduplication by hashing every trade would dominate the cost. Duplicates are few, so the engine finds them first, by
sorting one 64-bit number per trade. Only duplicates, trades that break a rule, and trades that are not MARKET
executions go through a hash table. All others are aggregated as they are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as day_time
from typing import TYPE_CHECKING

from cryptolake_assets.lake.bronze_files import (
    BronzeFile,
    constants_of,
    files_between,
    local_path,
    scan_trades,
)
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import open_duckdb, scan
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.model.family_tables import FamilyTables
from cryptolake_assets.model.measures import BAR_MEASURES, DAILY_MEASURES, DUCKDB, select_list
from cryptolake_assets.model.windows import DAY, HOUR, MINUTE
from cryptolake_assets.quality.minute_bars import MARKET, OFTEN_CONSTANT, MinuteAggregates, RowCounts
from cryptolake_assets.quality.rules import (
    MISSING_TRADE_RULES,
    QUARANTINED_TRADES,
    RULES,
    RuleContext,
    broken_rule,
    judgeable,
    quarantined_table,
    sound,
    sql_string,
    sql_time,
)
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.engine import narrowed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# Maximum trades in memory; a larger hour is split by minutes, because duplicates are always in the same minute.
ROWS_AT_ONCE = 1_000_000

# Columns that the measures of a bar are computed from.
MEASURED = (
    "exchange, symbol, stream, window_start, event_time, trade_id, price, qty, side, first_trade_id, last_trade_id"
)

MINUTE_OF_STREAM = "exchange, symbol, stream, window_start"


class DuckDBEngine:
    """Engine in this process, without a server."""

    name = "duckdb"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def minute_aggregates(
        self,
        tables: FamilyTables,
        snapshot_id: int,
        hours: Sequence[datetime],
        minutes: pa.Table | None,
        context: RuleContext,
    ) -> Iterator[tuple[datetime, MinuteAggregates]]:
        bronze = load_table(self._settings, tables.trades)

        def of_hour(hour: datetime) -> MinuteAggregates:
            first, last = narrowed(hour, hour + HOUR, minutes)
            files = files_between(bronze, snapshot_id, first, last)
            return _aggregate_files(files, first, last, minutes, context)

        # Two hours are aggregated while the caller builds the bars of a third; more would take too much memory.
        with ThreadPoolExecutor(max_workers=2) as ahead:
            in_flight = deque((hour, ahead.submit(of_hour, hour)) for hour in hours[:2])
            for following in hours[2:]:
                in_flight.append((following, ahead.submit(of_hour, following)))
                hour, aggregates = in_flight.popleft()
                yield hour, aggregates.result()
            for hour, aggregates in in_flight:
                yield hour, aggregates.result()

    def daily_aggregates(self, tables: FamilyTables, snapshot_id: int, day: date) -> pa.Table:
        start = datetime.combine(day, day_time(), UTC)
        silver = load_table(self._settings, tables.bars)
        tasks = silver.scan(snapshot_id=snapshot_id, row_filter=silver_day(start)).plan_files()
        with open_duckdb() as duck:
            source = scan(duck, [local_path(task.file.file_path) for task in tasks], tables.bars, silver.schema())
            return duck.sql(
                f"SELECT exchange, symbol, {select_list(DAILY_MEASURES, DUCKDB)} FROM {source} "
                f"WHERE window_start >= {sql_time(start)} AND window_start < {sql_time(start + DAY)} "
                "GROUP BY exchange, symbol"
            ).to_arrow_table()


def _aggregate_files(
    files: list[BronzeFile], first: datetime, last: datetime, minutes: pa.Table | None, context: RuleContext
) -> MinuteAggregates:
    import pyarrow as pa

    tables, counts = [], RowCounts()
    for start, end in _split(files, first, last):
        with open_duckdb() as duck:
            _load(duck, files, start, end, minutes, context)
            part = _aggregate(duck, context)
        tables.append(part.rows)
        counts.add(part.counts)
    return MinuteAggregates(pa.concat_tables(tables), counts)


def _split(files: list[BronzeFile], first: datetime, last: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Split the interval at full minutes into parts of about `ROWS_AT_ONCE` trades, assuming an even distribution."""
    parts = max(1, -(-sum(file.rows for file in files) // ROWS_AT_ONCE))
    step = max(1, (last - first) // MINUTE // parts) * MINUTE
    while first < last:
        yield first, min(first + step, last)
        first += step


def _load(
    duck: duckdb.DuckDBPyConnection,
    files: list[BronzeFile],
    first: datetime,
    last: datetime,
    minutes: pa.Table | None,
    context: RuleContext,
) -> None:
    """Create the view `trades` of the given minutes with first <= event_time < last, read once into memory.

    `used` is true for MARKET trades that break no rule; `id` is a 64-bit hash of those columns of the trade's identity
    that differ. Trades whose hashes collide are handled as duplicates here; `_aggregate` distinguishes them by their
    full identity.
    """
    files = [file for file in files if file.earliest < last and file.latest >= first]
    constants = constants_of(files, OFTEN_CONSTANT)
    literals = "".join(f", {sql_string(value)} AS {name}" for name, value in constants.items())
    source = scan_trades(duck, files)
    if constants:
        source = f"(SELECT * REPLACE ({literals.removeprefix(', ')}) FROM {source})"
    read = "".join(f", {name}" for name in OFTEN_CONSTANT if name not in constants)
    if context.quarantined:
        duck.register(QUARANTINED_TRADES, quarantined_table(context))
        read += ", was_quarantined"
    semi_join = ""
    if minutes is not None:
        duck.register("minutes", minutes)
        semi_join = (
            "SEMI JOIN minutes ON minutes.exchange = found.exchange AND minutes.symbol = found.symbol "
            f"AND minutes.window_start = {DUCKDB.minute}"
        )
    identity = ", ".join(("symbol", "trade_id", *sorted({"exchange", "stream"} - constants.keys())))
    # Results do not depend on the order of rows, and without a fixed order DuckDB needs less memory.
    duck.execute("SET preserve_insertion_order = false")
    duck.execute(
        f"""CREATE TEMP TABLE loaded AS
        SELECT symbol, event_time, trade_id, price, qty, side, first_trade_id, last_trade_id{read},
          {DUCKDB.minute} AS window_start, hash({identity}) AS id,
          {sound(context)} AND trade_type = '{MARKET}' AS used
        FROM {judgeable(context, source)} AS found {semi_join}
        WHERE event_time >= {sql_time(first)} AND event_time < {sql_time(last)}"""
    )
    duck.execute(f"CREATE TEMP VIEW trades AS SELECT *{literals} FROM loaded")


def _aggregate(duck: duckdb.DuckDBPyConnection, context: RuleContext) -> MinuteAggregates:
    """Aggregate the view `trades`."""
    duck.register("repeated", _repeated(duck))
    duck.execute(
        f"""CREATE TEMP TABLE careful AS
        SELECT {MINUTE_OF_STREAM}, trade_id, copies, trade.*,
          NOT trade.is_broken AND trade.trade_type = '{MARKET}' AS used
        FROM (
          SELECT {MINUTE_OF_STREAM}, trade_id, count(*) AS copies,
            min({{'is_broken': rule IS NOT NULL, 'event_time': event_time, 'price': price, 'qty': qty, 'side': side,
                  'first_trade_id': first_trade_id, 'last_trade_id': last_trade_id, 'trade_type': trade_type,
                  'rule': rule}}) AS trade
          FROM (
            SELECT *, {broken_rule(context)} AS rule FROM (
              SELECT * FROM trades WHERE id IN (SELECT id FROM repeated)
              UNION ALL SELECT * FROM trades WHERE used IS NOT TRUE AND id NOT IN (SELECT id FROM repeated)
            )
          )
          GROUP BY {MINUTE_OF_STREAM}, trade_id
        )"""
    )
    missing_rules = ", ".join(f"'{rule}'" for rule in MISSING_TRADE_RULES)
    rows = duck.sql(
        f"""SELECT bars.*, coalesce(trades_dropped, 0) AS trades_dropped FROM (
          SELECT {MINUTE_OF_STREAM}, {select_list(BAR_MEASURES, DUCKDB)}, count(*) AS rows_valid
          FROM (
            SELECT {MEASURED} FROM trades WHERE used AND id NOT IN (SELECT id FROM repeated)
            UNION ALL SELECT {MEASURED} FROM careful WHERE used
          )
          GROUP BY {MINUTE_OF_STREAM}
        ) AS bars LEFT JOIN (
          SELECT {MINUTE_OF_STREAM}, count(*) AS trades_dropped FROM careful
          WHERE rule IN ({missing_rules}) AND trade_type = '{MARKET}' GROUP BY ALL
        ) AS dropped USING ({MINUTE_OF_STREAM})"""
    ).to_arrow_table()
    return MinuteAggregates(rows.drop_columns("rows_valid"), _count(duck, rows))


def _repeated(duck: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the values of `id` that occur more than once in `trades`."""
    import numpy as np
    import pyarrow as pa

    ids = np.sort(duck.sql("SELECT id FROM trades").to_arrow_table()["id"].to_numpy())
    return pa.table({"id": np.unique(ids[1:][ids[1:] == ids[:-1]])})


def _count(duck: duckdb.DuckDBPyConnection, rows: pa.Table) -> RowCounts:
    """Sum the counts of unique trades (all used) and of the table `careful`."""
    import pyarrow.compute as pc

    per_rule = ", ".join(f"count(*) FILTER (WHERE rule = '{rule}')" for rule in RULES)
    (copies, distinct, used, other_type, *dropped) = duck.sql(
        f"""SELECT coalesce(sum(copies), 0)::BIGINT, count(*), count(*) FILTER (WHERE used),
          count(*) FILTER (WHERE NOT is_broken AND NOT used), {per_rule} FROM careful"""
    ).fetchall()[0]
    valid = pc.sum(rows["rows_valid"]).as_py() or 0
    return RowCounts(
        rows_in=valid - used + copies,
        rows_valid=valid,
        rows_duplicate=copies - distinct,
        rows_other_type=other_type,
        dropped_by_rule=dict(zip(RULES, dropped, strict=True)),
    )
