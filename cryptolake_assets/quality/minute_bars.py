"""Build one-minute bars from an engine's aggregates, and account for the rows read. Pure.

Duplicates of a trade fall in the same minute and are deduplicated there; a valid copy wins over an invalid one. Single
trades and aggregate trades have ids of different sequences and are never mixed: one stream feeds a bar, its `stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.measures import BAR_MEASURES, Row, with_derived
from cryptolake_assets.quality.rules import RULES

if TYPE_CHECKING:
    import pyarrow as pa

MARKET = "MARKET"  # trade type of an order-book execution; other types stay in Bronze but make no bar

# Order of streams that are equally complete: bars of single trades equal the exchange's klines exactly.
STREAM_PREFERENCE = ("trade", "aggTrade")

# Text columns with mostly one value; if the manifests prove it, engines do not read them.
OFTEN_CONSTANT = ("exchange", "stream", "trade_type")


@dataclass
class RowCounts:
    """Account of the rows read; rows_in = rows_valid + rows_dropped + rows_duplicate + rows_other_type."""

    rows_in: int = 0
    rows_valid: int = 0
    rows_duplicate: int = 0
    rows_other_type: int = 0
    dropped_by_rule: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped_by_rule.values())

    def add(self, other: RowCounts) -> None:
        """Add the counts of other rows to these."""
        self.rows_in += other.rows_in
        self.rows_valid += other.rows_valid
        self.rows_duplicate += other.rows_duplicate
        self.rows_other_type += other.rows_other_type
        for rule, rows in other.dropped_by_rule.items():
            self.dropped_by_rule[rule] += rows


@dataclass(frozen=True)
class MinuteAggregates:
    """An engine's aggregates of trades, and the account of the rows read.

    `rows` holds `exchange`, `symbol`, `stream`, `window_start`, the aggregates of `BAR_MEASURES` and `trades_dropped`,
    one row per (exchange, symbol, stream, minute) with a valid MARKET trade.
    """

    rows: pa.Table
    counts: RowCounts


# (exchange, symbol, stream, open time in ms) → evidence that the minute is complete; None without any.
EvidenceOf = Callable[[str, str, str, int], Evidence | None]


def bars_from_aggregates(aggregates: pa.Table, evidence_of: EvidenceOf, schema: pa.Schema) -> pa.Table:
    """Convert `MinuteAggregates.rows` to bars of the schema of their Silver table, with `updated_at` empty.

    If both streams have the minute, prefer the complete one, then the order of `STREAM_PREFERENCE`.
    """
    import pyarrow as pa

    rows = bar_rows(aggregates.to_pylist(), evidence_of)
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)


def bar_rows(aggregates: Iterable[Row], evidence_of: EvidenceOf) -> list[dict[str, Any]]:
    """Return the bars of `bars_from_aggregates` as rows."""
    chosen: dict[tuple[str, str, datetime], tuple[tuple[bool, int], dict[str, Any]]] = {}
    for aggregate in aggregates:
        exchange, symbol, stream = aggregate["exchange"], aggregate["symbol"], aggregate["stream"]
        start_ms = epoch_ms(aggregate["window_start"])
        evidence = None if aggregate["trades_dropped"] else evidence_of(exchange, symbol, stream, start_ms)
        row = {
            **with_derived(BAR_MEASURES, aggregate),
            "is_complete": evidence is not None,
            "evidence": evidence,
            "updated_at": None,
        }
        preference = STREAM_PREFERENCE.index(stream) if stream in STREAM_PREFERENCE else len(STREAM_PREFERENCE)
        rank = (evidence is None, preference)
        key = (exchange, symbol, row["window_start"])
        if key not in chosen or rank < chosen[key][0]:
            chosen[key] = (rank, row)
    return [row for _, row in chosen.values()]


def epoch_ms(value: datetime) -> int:
    """Return the epoch milliseconds of an aware time."""
    return round(value.timestamp() * 1000)
