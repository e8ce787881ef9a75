"""Quarantine the trades that break a rule: read Bronze files above the quarantine's cursor, append broken trades.

The cursor is a property of the quarantine table and moves in the same commit as the rows, so that a repeated or crashed
run neither loses nor duplicates a trade.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cryptolake_assets.lake.bronze_files import BronzeFile, added_files, current_sequence, files_between, scan_trades
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import set_properties
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import all_of, at_least, below, between, equal, silver_day
from cryptolake_assets.model.measures import DUCKDB
from cryptolake_assets.model.trade_tables import TRADE_COLUMNS
from cryptolake_assets.model.windows import DAY, HOUR, day_of, hour_of
from cryptolake_assets.quality.minute_bars import MARKET
from cryptolake_assets.quality.rules import (
    MISSING_TRADE_RULES,
    QUARANTINED_TRADES,
    Instrument,
    RuleContext,
    broken_rule,
    judgeable,
    quarantined_table,
    sound,
    sql_string,
    sql_time,
)
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from pyiceberg.table import Table

CURSOR_PROPERTY = "cryptolake.bronze-sequence"
MAX_SINGLE_DAYS = 31  # maximum days whose quarantined trades are looked up day by day
IDENTITY = "exchange, symbol, stream, trade_id, rule"


def advance_quarantine(settings: Settings, bronze: Table, context: RuleContext, run_id: str) -> int:
    """Quarantine the broken trades in the files of `bronze` above the cursor; return the number of rows."""
    quarantine = load_table(settings, settings.tables.quarantine)
    cursor = int(quarantine.properties.get(CURSOR_PROPERTY, "0"))
    head = current_sequence(bronze)
    if head <= cursor:
        return 0
    files = added_files(bronze, cursor)
    schema, snapshot_id = settings.tables.quarantine.arrow_schema(), bronze.metadata.current_snapshot_id or 0
    rows = _broken(files, context, run_id, snapshot_id, quarantine, schema) if files else None
    properties = {CURSOR_PROPERTY: str(head)}
    if rows is None or not rows.num_rows:
        set_properties(quarantine, properties)
        return 0
    with quarantine.transaction() as transaction:
        transaction.set_properties(properties)
        transaction.append(rows)
    return int(rows.num_rows)


def _broken(
    files: list[BronzeFile],
    context: RuleContext,
    run_id: str,
    snapshot_id: int,
    quarantine: Table,
    schema: pa.Schema,
) -> pa.Table:
    contract = ", ".join(column.name for column in TRADE_COLUMNS)
    with open_duckdb() as duck:
        register_quarantined(duck, context)
        duck.execute(
            f"""CREATE TEMP TABLE broken AS SELECT {contract}, {broken_rule(context)} AS rule
            FROM {judgeable(context, scan_trades(duck, files))} WHERE NOT ({sound(context)})"""
        )
        times = duck.sql("SELECT DISTINCT date_trunc('day', event_time) FROM broken ORDER BY 1").fetchall()
        if not times:
            return schema.empty_table()
        duck.register("held", _identities(quarantine, [day_of(time) for (time,) in times]))
        found = duck.sql(
            f"""SELECT DISTINCT ON ({IDENTITY}) {contract}, rule, $run_id AS run_id, $snapshot AS source_snapshot
            FROM broken ANTI JOIN held USING ({IDENTITY}) ORDER BY {IDENTITY}, ingest_ts""",
            params={"run_id": run_id, "snapshot": snapshot_id},
        ).to_arrow_table()
    return found.select(schema.names).cast(schema)


def _identities(quarantine: Table, days: Sequence[datetime]) -> pa.Table:
    """Return the identities of quarantined trades of these UTC days, or of their range if they are many."""
    spans = [(min(days), max(days))] if len(days) > MAX_SINGLE_DAYS else [(day, day) for day in days]
    row_filter = " or ".join(
        f"(event_time >= '{first.isoformat()}' and event_time <= '{_last_moment(last).isoformat()}')"
        for first, last in spans
    )
    return quarantine.scan(row_filter=row_filter, selected_fields=tuple(IDENTITY.split(", "))).to_arrow()


def _last_moment(day: datetime) -> datetime:
    """Return the last microsecond of the day; the start of the next day may exceed the maximum date."""
    return day.replace(hour=23, minute=59, second=59, microsecond=999_999)


def register_quarantined(duck: duckdb.DuckDBPyConnection, context: RuleContext) -> None:
    """Register the quarantined trades on the connection, if there are any."""
    if context.quarantined:
        duck.register(QUARANTINED_TRADES, quarantined_table(context))


def quarantined_out_of_range(
    settings: Settings, start: datetime | None, end: datetime | None
) -> tuple[tuple[str, str, str, int], ...]:
    """Return the trades (exchange, symbol, stream, trade_id) of start <= event_time < end quarantined as out of range.

    None means no bound.
    """
    conditions = [equal("rule", "event_time_out_of_range")]
    conditions += [] if start is None else [at_least("event_time", start)]
    conditions += [] if end is None else [below("event_time", end)]
    table = load_table(settings, settings.tables.quarantine)
    fields = ("exchange", "symbol", "stream", "trade_id")
    rows = table.scan(row_filter=all_of(*conditions), selected_fields=fields).to_arrow()
    return tuple((row["exchange"], row["symbol"], row["stream"], row["trade_id"]) for row in rows.to_pylist())


def quarantined_between(settings: Settings, first: datetime, last: datetime, limit: int) -> list[dict[str, str]]:
    """Return up to `limit` trades of first <= event_time < last that broke a rule, formatted as text."""
    rows = (
        load_table(settings, settings.tables.quarantine)
        .scan(
            row_filter=between("event_time", first, last),
            selected_fields=("rule", "exchange", "symbol", "event_time", "trade_id", "price", "qty"),
            limit=limit,
        )
        .to_arrow()
    )
    return [{name: str(value) for name, value in row.items()} for row in rows.to_pylist()]


def dropped_trades(
    settings: Settings, day: datetime, context: RuleContext, silver_snapshot: int
) -> dict[Instrument, int]:
    """Count the UTC day's order-book trades that rules excluded from bars, by (exchange, symbol), without zeros.

    The quarantine lists the trades, and Bronze decides which are still dropped: a reissued archive file may have valid
    copies, or none. Minutes with a complete bar are excluded. If several streams dropped trades of the same minute, the
    largest number counts.
    """
    missing = " or ".join(f"rule = '{rule}'" for rule in MISSING_TRADE_RULES)
    stored = load_table(settings, settings.tables.quarantine).scan(
        row_filter=f"{between('event_time', day, day + DAY)} and ({missing})",
        selected_fields=("exchange", "symbol", "stream", "trade_id", "event_time"),
    )
    suspects = stored.to_arrow()
    bronze = load_table(settings, settings.tables.trades)
    snapshot_id = bronze.metadata.current_snapshot_id
    if not suspects.num_rows or snapshot_id is None:
        return {}
    complete = load_table(settings, settings.tables.bars).scan(
        snapshot_id=silver_snapshot,
        row_filter=f"{silver_day(day)} and is_complete = true",
        selected_fields=("exchange", "symbol", "window_start"),
    )
    hours = {hour_of(moment) for moment in suspects["event_time"].to_pylist()}
    files = files_between(bronze, snapshot_id, min(hours), max(hours) + HOUR)
    identity = "exchange, symbol, stream, trade_id"
    with open_duckdb() as duck:
        register_quarantined(duck, context)
        duck.register("suspects", suspects)
        duck.register("complete", complete.to_arrow())
        found = duck.sql(
            f"""SELECT exchange, symbol, sum(dropped)::BIGINT FROM (
              SELECT exchange, symbol, window_start, max(dropped) AS dropped FROM (
                SELECT exchange, symbol, stream, window_start, count(*) AS dropped FROM (
                  SELECT {identity}, {DUCKDB.minute} AS window_start,
                    min({{'is_broken': rule IS NOT NULL, 'event_time': event_time, 'trade_type': trade_type,
                          'rule': rule}}) AS trade
                  FROM (
                    SELECT *, {broken_rule(context)} AS rule
                    FROM {judgeable(context, scan_trades(duck, files))} SEMI JOIN suspects USING ({identity})
                    WHERE event_time >= {sql_time(day)} AND event_time < {sql_time(day + DAY)}
                  ) GROUP BY ALL
                ) WHERE trade.rule IN ({", ".join(map(sql_string, MISSING_TRADE_RULES))})
                  AND trade.trade_type = '{MARKET}'
                GROUP BY ALL
              ) ANTI JOIN complete USING (exchange, symbol, window_start) GROUP BY ALL
            ) GROUP BY ALL"""
        ).fetchall()
    return {(exchange, symbol): dropped for exchange, symbol, dropped in found}
