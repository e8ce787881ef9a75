"""Checks on bars and daily stats: row predicates, row counts, and the requirement of every check. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cryptolake_assets.model.measures import BAR_MEASURES, columns
from cryptolake_assets.quality import batch_checks, book_checks, stream_minute_checks
from cryptolake_assets.quality.candidate_checks import CheckOutcome

if TYPE_CHECKING:
    from cryptolake_assets.quality.minute_bars import RowCounts

MAY_BE_NULL = ("updated_at", "evidence")

# Namespace to check name to a DuckDB predicate that is true on a failing row.
ROW_CHECKS: Mapping[str, Mapping[str, str]] = {
    "silver": {
        "ohlc_order": "NOT (low <= open AND low <= close AND open <= high AND close <= high)",
        "volumes_not_negative": "volume < 0 OR quote_volume < 0 OR taker_buy_volume < 0 OR taker_buy_quote_volume < 0",
        "taker_buy_within_volume": "taker_buy_volume > volume OR taker_buy_quote_volume > quote_volume",
        "trades_at_least_one": "trades < 1",
        "no_nulls": " OR ".join(
            f"{column.name} IS NULL" for column in columns(BAR_MEASURES) if column.name not in MAY_BE_NULL
        ),
    },
    "gold": {
        "ohlc_order": "NOT (low <= open AND low <= close AND open <= high AND close <= high)",
        "volumes_not_negative": "total_volume < 0 OR total_quote_volume < 0",
        "trades_at_least_one": "trades < 1",
        "minutes_in_a_day": "minutes_with_trades NOT BETWEEN 1 AND 1440",
    },
}

OFFICIAL_KLINES = "official_klines"
BARS_COMPARED, BARS_AGREEING = "bars_compared", "bars_agreeing"  # counts of `official_klines`
PUBLISHED_COUNT = "published_count"
UP_TO_DATE = "up_to_date"
HEARTBEAT = "heartbeat"
FRAMES_ACCEPTED = "frames_accepted"
LIVE_BARS = "live_bars"
DEPENDENCIES = "dependencies"

# Check name to its requirement, as shown to users.
MEANINGS: Mapping[str, str] = {
    "schema": "Columns and types match the table.",
    "unique_key": "The table's key is unique.",
    "ohlc_order": "low <= open, close <= high.",
    "volumes_not_negative": "Volumes are >= 0.",
    "taker_buy_within_volume": "Taker-buy volumes are at most the total volumes.",
    "trades_at_least_one": "Every row has at least one trade.",
    "no_nulls": "No required column is NULL; an incomplete bar has no evidence.",
    "drop_ratio": "The share of trades that quality rules dropped is at most the limit.",
    "row_count": "Every Bronze row of the window was read and is valid, dropped, a duplicate or of another type.",
    "minutes_in_a_day": "A day has 1 to 1440 minutes with trades.",
    OFFICIAL_KLINES: "Complete bars equal the exchange's official klines in all nine fields. Warns only.",
    "minutes_missing": "Every minute without a bar is covered, so it had no trades. Warns only.",
    "id_continuity": "Single-trade ids continue without gaps or overlaps. Warns only.",
    "event_time_lag": "Each symbol's newest bar of the hour lags the exchange clock by at most the limit. Warns only.",
    PUBLISHED_COUNT: "Published bars have as many trades as an independent query counts in Bronze.",
    UP_TO_DATE: "Each traded symbol's newest bar lags the exchange clock by at most the limit; monitored continuously.",
    HEARTBEAT: "The Bronze stream runs and makes progress.",
    FRAMES_ACCEPTED: "The producer accepts frames of every symbol that sends any; monitored continuously.",
    LIVE_BARS: "The API's provisional bars equal Silver's bars of the same trades; monitored continuously.",
    "checksum": "The archive file matches its .CHECKSUM and contains only aggregate trades.",
    "every_line": "Every line of the file is a stored trade, an id without a trade, or rejected.",
    "within_the_day": "Every trade of the file is within its UTC day. Warns only.",
    "lines_rejected": "No line of the file was rejected. Warns only.",
    "ids_consecutive": "Aggregate ids continue without gaps; minutes around a gap stay incomplete. Warns only.",
    "klines_of_the_day": "The archive has a valid official kline of every minute of the day. Warns only.",
    **batch_checks.MEANINGS,
    **stream_minute_checks.MEANINGS,
    **book_checks.MEANINGS,
    DEPENDENCIES: "Catalog, tables and engine, which a Silver run needs, are available.",
}

SILVER_CHECKS = ("schema", "unique_key", *ROW_CHECKS["silver"], "drop_ratio", "row_count")
# Non-blocking checks, see `quality.warnings`.
SILVER_OBSERVATIONS = (OFFICIAL_KLINES, "minutes_missing", "id_continuity", "event_time_lag")

GOLD_CHECKS = ("schema", "unique_key", *ROW_CHECKS["gold"])


def check_counts(counts: RowCounts, expected_rows: int, drop_ratio_limit: float) -> list[CheckOutcome]:
    """Check the drop ratio against its limit, and that every row of the window is accounted for.

    `expected_rows` is Bronze's own count of the window.
    """
    distinct = counts.rows_in - counts.rows_duplicate
    dropped = counts.rows_dropped / distinct if distinct else 0.0
    accounted = counts.rows_valid + counts.rows_dropped + counts.rows_duplicate + counts.rows_other_type
    complete = counts.rows_in == expected_rows == accounted
    return [
        CheckOutcome(
            "drop_ratio",
            dropped <= drop_ratio_limit,
            f"{counts.rows_dropped} of {distinct} trades dropped ({dropped:.2%}); the limit is {drop_ratio_limit:.2%}"
            + "".join(f"; {rule}: {rows}" for rule, rows in counts.dropped_by_rule.items() if rows),
            counts.rows_dropped,
        ),
        CheckOutcome(
            "row_count",
            complete,
            f"Bronze holds {expected_rows} rows; read {counts.rows_in}, accounted for {accounted}",
            abs(expected_rows - accounted),
        ),
    ]
