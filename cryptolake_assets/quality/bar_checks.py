"""Blocking checks: what a candidate must hold before a reader may see it. Pure; they run on the table in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality import batch_checks
from cryptolake_assets.quality import stream_minute_checks as market_rules

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from cryptolake_assets.quality.minute_bars import RowCounts

SAMPLE_ROWS = 10
"""Failing rows that are shown with a check."""


@dataclass(frozen=True)
class CheckOutcome:
    """One check's result; `failing_rows` are at most SAMPLE_ROWS, as text for people.

    `counts` say what was looked at, in numbers that can be added up over partitions.
    """

    name: str
    passed: bool
    description: str
    failing_count: int = 0
    failing_rows: list[dict[str, str]] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)


MAY_BE_NULL = ("updated_at", "evidence")

ROW_CHECKS: Mapping[str, Mapping[str, str]] = {
    "silver": {
        "ohlc_order": "NOT (low <= open AND low <= close AND open <= high AND close <= high)",
        "volumes_not_negative": "volume < 0 OR quote_volume < 0 OR taker_buy_volume < 0 OR taker_buy_quote_volume < 0",
        "taker_buy_within_volume": "taker_buy_volume > volume OR taker_buy_quote_volume > quote_volume",
        "trades_at_least_one": "trades < 1",
        "no_nulls": " OR ".join(f"{name} IS NULL" for name in SILVER_OHLCV.column_names if name not in MAY_BE_NULL),
    },
    "gold": {
        "ohlc_order": "NOT (low <= open AND low <= close AND open <= high AND close <= high)",
        "volumes_not_negative": "total_volume < 0 OR total_quote_volume < 0",
        "trades_at_least_one": "trades < 1",
        "minutes_in_a_day": "minutes_with_trades NOT BETWEEN 1 AND 1440",
    },
}
"""Namespace to check name to a DuckDB predicate that is true on a row that fails."""

OFFICIAL_KLINES = "official_klines"
BARS_COMPARED, BARS_AGREEING = "bars_compared", "bars_agreeing"
"""Counts of `official_klines`."""
PUBLISHED_COUNT = "published_count"
UP_TO_DATE = "up_to_date"
HEARTBEAT = "heartbeat"
FRAMES_ACCEPTED = "frames_accepted"
DEPENDENCIES = "dependencies"

MEANINGS: Mapping[str, str] = {
    "schema": "Columns and types are those of the table.",
    "unique_key": "One row a key.",
    "ohlc_order": "low <= open, close <= high.",
    "volumes_not_negative": "Volumes are >= 0.",
    "taker_buy_within_volume": "Takers bought no more than was traded.",
    "trades_at_least_one": "A bar stands for at least one trade.",
    "no_nulls": "Every column has a value, but for the evidence of a bar that is not complete.",
    "drop_ratio": "The quality rules dropped no larger share of the trades than the limit allows.",
    "row_count": "Every row that Bronze holds for the window was read, and is accounted for.",
    "minutes_in_a_day": "A day has 1 to 1440 bars.",
    OFFICIAL_KLINES: "Complete bars equal the exchange's own in all nine fields. Warns only.",
    "minutes_missing": "No minute without a bar that coverage cannot account for. Warns only.",
    "id_continuity": "The exchange's single-trade ids go on without holes or overlaps. Warns only.",
    "event_time_lag": "Each symbol's newest bar of the hour was close to the exchange's clock. Warns only.",
    PUBLISHED_COUNT: "The published bars stand for the trades that Bronze holds, counted anew.",
    UP_TO_DATE: "Each traded symbol's newest bar is close to the exchange's clock, looked at all the time.",
    HEARTBEAT: "The Bronze stream lives and gets on.",
    FRAMES_ACCEPTED: "The producer accepts frames of every symbol that sends any, looked at all the time.",
    "checksum": "The file of the archive is what its .CHECKSUM says and holds aggregate trades only.",
    "every_line": "Every line of the file is a trade that was written, an id without a trade, or set aside.",
    "within_the_day": "Every trade of the file is of its UTC day. Warns only.",
    "rows_set_aside": "Every line of the file is a trade that the table can hold. Warns only.",
    "ids_consecutive": "Aggregate ids go on without holes; around a hole minutes stay incomplete. Warns only.",
    "klines_of_the_day": "The archive has a sound official kline of every minute of the day. Warns only.",
    **batch_checks.MEANINGS,
    **market_rules.MEANINGS,
    DEPENDENCIES: "What a refresh of Silver needs is there: catalog, tables, engine.",
}
"""Check name to what it demands, for people."""

SILVER_CHECKS = ("schema", "unique_key", *ROW_CHECKS["silver"], "drop_ratio", "row_count")
SILVER_OBSERVATIONS = (OFFICIAL_KLINES, "minutes_missing", "id_continuity", "event_time_lag")
"""Non-blocking checks, see `transform.observations`."""

GOLD_CHECKS = ("schema", "unique_key", *ROW_CHECKS["gold"])


def check_candidate(spec: TableSpec, candidate: pa.Table, rules: Mapping[str, str] | None = None) -> list[CheckOutcome]:
    """Schema, unique key, and the row checks: `rules`, or those of the table's namespace."""
    schema = spec.arrow_schema()
    same_schema = candidate.schema.equals(schema)
    outcomes = [CheckOutcome("schema", same_schema, "columns and types are those of the table")]
    key = ", ".join(spec.key)
    repeated = f"SELECT {key}, count(*) AS copies FROM candidate GROUP BY ALL HAVING count(*) > 1"
    rules = ROW_CHECKS[spec.namespace] if rules is None else rules
    with open_duckdb() as duck:
        duck.register("candidate", candidate)
        failing = ", ".join(f"count(*) FILTER (WHERE {predicate})" for predicate in rules.values())
        counts = duck.sql(f"SELECT (SELECT count(*) FROM ({repeated})), {failing} FROM candidate").fetchall()[0]
        queries = [repeated, *(f"SELECT * FROM candidate WHERE {predicate}" for predicate in rules.values())]
        descriptions = [f"({key}) is unique", *(f"no row where {predicate}" for predicate in rules.values())]
        for name, count, query, description in zip(("unique_key", *rules), counts, queries, descriptions, strict=True):
            sample = _sample(duck, query) if count else []
            outcomes.append(CheckOutcome(name, count == 0, description, count, sample))
    return outcomes


def check_counts(
    counts: RowCounts, expected_rows: int, drop_ratio_limit: float, sample: Callable[[], list[dict[str, str]]]
) -> list[CheckOutcome]:
    """Drop ratio under its limit; every row that Bronze holds for the window is accounted for.

    `expected_rows` is Bronze's own count of the window; `sample` gives some of the dropped trades, and is asked only
    when there are too many.
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
            sample()[:SAMPLE_ROWS] if dropped > drop_ratio_limit else [],
        ),
        CheckOutcome(
            "row_count",
            complete,
            f"Bronze holds {expected_rows} rows; read {counts.rows_in}, accounted for {accounted}",
            abs(expected_rows - accounted),
        ),
    ]


def joined(outcomes: Sequence[CheckOutcome]) -> list[CheckOutcome]:
    """One outcome a name, of several parts: it passes when all of them do."""
    by_name: dict[str, list[CheckOutcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.name, []).append(outcome)
    return [
        CheckOutcome(
            name,
            all(part.passed for part in parts),
            "; ".join(part.description for part in parts),
            sum(part.failing_count for part in parts),
            [row for part in parts for row in part.failing_rows][:SAMPLE_ROWS],
            _summed(part.counts for part in parts),
        )
        for name, parts in by_name.items()
    ]


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)  # keeps zeros, which `+` drops
    return dict(total)


def _sample(duck: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = (
        duck.sql(f"SELECT COLUMNS(*)::varchar FROM ({query}) LIMIT {SAMPLE_ROWS}").to_arrow_table().to_pylist()
    )
    return rows
