"""Count published Silver against Bronze with an independent query: the last check of an hour."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake.bronze_files import files_between, scan_trades
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import read_window
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import between
from cryptolake_assets.model.measures import DUCKDB
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.bar_checks import PUBLISHED_COUNT
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.minute_bars import MARKET
from cryptolake_assets.quality.rules import RuleContext, judgeable, sound, sql_time
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.load_inputs import load_run_inputs
from cryptolake_assets.transform.quarantine import register_quarantined
from cryptolake_assets.transform.silver_run import partition_of

if TYPE_CHECKING:
    from pyiceberg.table import Table


def check_published(settings: Settings, hour: datetime, rules: RuleContext | None = None) -> CheckOutcome:
    """Check each bar's count of single trades against Bronze's distinct, valid MARKET trades of its minute and stream.

    No bar may be missing or extra. Reads Bronze at the snapshot of the hour's last publication, so that later trades do
    not count as differences. `rules` defaults to the current ones.
    """
    rules = rules or load_run_inputs(settings, hour, hour + HOUR).rules
    bronze = load_table(settings, settings.tables.trades)
    snapshot = _snapshot_read(settings, bronze, hour)
    files = files_between(bronze, snapshot, hour, hour + HOUR) if snapshot is not None else []
    with open_duckdb() as duck:
        register_quarantined(duck, rules)
        duck.register(
            "bars", read_window(load_table(settings, settings.tables.bars), between("window_start", hour, hour + HOUR))
        )
        counted = duck.sql(
            f"""WITH found AS (
              SELECT exchange, symbol, stream, {DUCKDB.minute} AS window_start, trade_id,
                min({{'first': first_trade_id, 'last': last_trade_id}}) AS ids
              FROM {judgeable(rules, scan_trades(duck, files))}
              WHERE event_time >= {sql_time(hour)} AND event_time < {sql_time(hour + HOUR)}
                AND trade_type = '{MARKET}' AND {sound(rules)}
              GROUP BY exchange, symbol, stream, window_start, trade_id
            ), by_stream AS (
              SELECT exchange, symbol, stream, window_start, CAST(sum(ids.last - ids.first + 1) AS BIGINT) AS trades
              FROM found GROUP BY exchange, symbol, stream, window_start
            ), by_minute AS (
              SELECT exchange, symbol, window_start, list({{'stream': stream, 'trades': trades}}) AS counts
              FROM by_stream GROUP BY exchange, symbol, window_start
            )
            SELECT exchange, symbol, window_start, stream, bars.trades AS in_silver, counts
            FROM bars FULL JOIN by_minute USING (exchange, symbol, window_start)"""
        ).to_arrow_table()
    rows = [{**row, "in_bronze": _of_stream(row["counts"] or (), row["stream"])} for row in counted.to_pylist()]
    differing = [row for row in rows if row["in_silver"] not in row["in_bronze"]]
    total = sum(row["in_silver"] or 0 for row in rows)
    return CheckOutcome(
        PUBLISHED_COUNT,
        not differing,
        f"{len(rows) - len(differing)} of {len(rows)} minutes agree with Bronze, {total} trades",
        len(differing),
        [
            {
                "exchange": row["exchange"],
                "symbol": row["symbol"],
                "window_start": f"{row['window_start']:%Y-%m-%d %H:%M}",
                "trades in Silver": str(row["in_silver"]),
                "trades in Bronze": " or ".join(map(str, row["in_bronze"] or ["none"])),
            }
            for row in differing[:SAMPLE_ROWS]
        ],
    )


def _of_stream(counts: Sequence[dict[str, Any]], stream: str | None) -> list[int]:
    """Return the count of the bar's stream; those of all streams if the bar names none."""
    return [count["trades"] for count in counts if stream in (None, count["stream"])]


def _snapshot_read(settings: Settings, bronze: Table, hour: datetime) -> int | None:
    """Return the Bronze snapshot of the hour's last publication; the current one if that is unknown or expired."""
    asset = "/".join(settings.tables.bars.identifier)
    runs = load_table(settings, OPS_RUN_METRICS).scan(
        row_filter=f"asset = '{asset}' and partition = '{partition_of(hour)}' and passed = true",
        selected_fields=("source_snapshot", "finished_at"),
    )
    rows = runs.to_arrow().sort_by([("finished_at", "descending")]).to_pylist()
    if rows and bronze.snapshot_by_id(rows[0]["source_snapshot"]) is not None:
        return int(rows[0]["source_snapshot"])
    return bronze.metadata.current_snapshot_id
