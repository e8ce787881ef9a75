"""Keeps every trade that broke a rule: reads what Bronze gained since its own cursor, appends the broken ones.

The cursor is a property of the quarantine table and moves in the same commit as the rows, so that a repeated or
crashed run neither loses nor doubles one.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from cryptolake_assets.lake.bronze_files import BronzeFile, added_files, head_sequence, scan_trades
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import open_duckdb, scalar
from cryptolake_assets.lake.tables import CONTRACT, SILVER_QUARANTINE
from cryptolake_assets.lake.windows import between
from cryptolake_assets.quality.rules import RuleContext, broken_rule, sound
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

CURSOR_PROPERTY = "cryptolake.bronze-sequence"
IDENTITY = "exchange, symbol, stream, trade_id, rule"


def advance_quarantine(settings: Settings, bronze: Table, context: RuleContext, run_id: str) -> int:
    """Quarantines the broken trades among the files of `bronze` above the cursor; returns how many rows it wrote."""
    quarantine = load_table(settings, SILVER_QUARANTINE)
    cursor = int(quarantine.properties.get(CURSOR_PROPERTY, "0"))
    head = head_sequence(bronze)
    if head <= cursor:
        return 0
    files = added_files(bronze, cursor)
    rows = _broken(files, context, run_id, bronze.metadata.current_snapshot_id or 0, quarantine) if files else None
    with quarantine.transaction() as transaction:
        transaction.set_properties({CURSOR_PROPERTY: str(head)})
        if rows is not None and rows.num_rows:
            transaction.append(rows)
    return rows.num_rows if rows is not None else 0


def _broken(
    files: list[BronzeFile], context: RuleContext, run_id: str, snapshot_id: int, quarantine: Table
) -> pa.Table:
    contract = ", ".join(column.name for column in CONTRACT)
    with open_duckdb() as duck:
        duck.execute(
            f"""CREATE TEMP TABLE broken AS SELECT {contract}, {broken_rule(context)} AS rule
            FROM {scan_trades(duck, files)} WHERE NOT ({sound(context)})"""
        )
        if not scalar(duck, "SELECT count(*) FROM broken"):
            return SILVER_QUARANTINE.arrow_schema().empty_table()
        duck.register("held", quarantine.scan(selected_fields=tuple(IDENTITY.split(", "))).to_arrow())
        found = duck.sql(
            f"""SELECT DISTINCT ON ({IDENTITY}) {contract}, rule, $run_id AS run_id, $snapshot AS source_snapshot
            FROM broken ANTI JOIN held USING ({IDENTITY}) ORDER BY {IDENTITY}, ingest_ts""",
            params={"run_id": run_id, "snapshot": snapshot_id},
        ).to_arrow_table()
    return found.select(list(SILVER_QUARANTINE.column_names)).cast(SILVER_QUARANTINE.arrow_schema())


def held_out_of_range(settings: Settings) -> tuple[tuple[str, str, int], ...]:
    """Trades (symbol, stream, trade_id) that were out of range when they came."""
    rows = (
        load_table(settings, SILVER_QUARANTINE)
        .scan(row_filter="rule = 'event_time_out_of_range'", selected_fields=("symbol", "stream", "trade_id"))
        .to_arrow()
    )
    return tuple((row["symbol"], row["stream"], row["trade_id"]) for row in rows.to_pylist())


def quarantined_between(settings: Settings, first: datetime, last: datetime, limit: int) -> list[dict[str, str]]:
    """Some trades of first <= event_time < last that broke a rule, as text for people."""
    rows = (
        load_table(settings, SILVER_QUARANTINE)
        .scan(
            row_filter=between("event_time", first, last),
            selected_fields=("rule", "symbol", "event_time", "trade_id", "price", "qty"),
            limit=limit,
        )
        .to_arrow()
    )
    return [{name: str(value) for name, value in row.items()} for row in rows.to_pylist()]
