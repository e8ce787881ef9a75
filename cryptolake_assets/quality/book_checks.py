"""Checks on the Silver table of order books. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptolake_assets.model.book_seconds import BANDS_BPS, DifferentTop
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome

if TYPE_CHECKING:
    import pyarrow as pa

ACCOUNTED = "updates_accounted"
TOPS_EQUAL = "tops_equal_tickers"

_GROWING = " OR ".join(
    f"{side}_{name}_{near}bps > {side}_{name}_{far}bps"
    for side in ("bid", "ask")
    for name in ("qty", "notional")
    for near, far in pairwise(BANDS_BPS)
)

# Predicates that are true on a failing row of a candidate.
RULES: Mapping[str, str] = {
    "book_not_crossed": "bid_price >= ask_price",
    "book_quantities_positive": "bid_qty <= 0 OR ask_qty <= 0 OR bid_price <= 0",
    "book_empty_unless_synced": "NOT is_synced AND (bid_price IS NOT NULL OR bid_qty_5bps IS NOT NULL)",
    "book_bands_grow": _GROWING,
    "book_no_nulls": " OR ".join(
        f"{name} IS NULL" for name in ("exchange", "symbol", "window_start", "updates", "is_synced")
    ),
}

MEANINGS: Mapping[str, str] = {
    "book_not_crossed": "The best bid is below the best ask.",
    "book_quantities_positive": "Quantities and prices of the top are above 0.",
    "book_empty_unless_synced": "A second that is not synchronized has no values.",
    "book_bands_grow": "A wider band holds at least what a narrower one holds.",
    "book_no_nulls": "Key, updates and is_synced are set.",
    ACCOUNTED: "The seconds count every distinct update once, but for those of the last, unfinished second.",
    TOPS_EQUAL: "Each rebuilt top equals the exchange's book ticker of the same update id. Warns only.",
}

BLOCKING = ("schema", "unique_key", *RULES, ACCOUNTED)
WARNING = (TOPS_EQUAL,)


def updates_accounted(rows: pa.Table, taken: int, unfinished: int) -> CheckOutcome:
    """Check that the rows count the taken updates, except those of seconds that are not over."""
    counted = sum(rows.column("updates").to_pylist())
    description = f"{taken} distinct updates, {counted} counted in rows, {unfinished} in unfinished seconds"
    return CheckOutcome(ACCOUNTED, counted + unfinished == taken, description, abs(counted + unfinished - taken))


def tops_equal(compared: int, different: Sequence[tuple[str, DifferentTop]]) -> CheckOutcome:
    """Report the tops that differ from the exchange's own; `different` has the symbol of each."""
    return CheckOutcome(
        TOPS_EQUAL,
        not different,
        f"{compared - len(different)} of {compared} tops equal the exchange's",
        len(different),
        [
            {
                "symbol": symbol,
                "update_id": str(one.update_id),
                "top": str(one.top),
                "of_exchange": str(one.of_exchange),
            }
            for symbol, one in different[:SAMPLE_ROWS]
        ],
        {"tops_compared": compared, "tops_different": len(different)},
    )
