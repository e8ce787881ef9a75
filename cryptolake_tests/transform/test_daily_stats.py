"""A day's row from its aggregates: completeness and dropped trades."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.transform.daily_stats import daily_stats_from_aggregates

DAY = date(2024, 7, 18)
NOTHING = FUTURES.daily.arrow_schema().empty_table()


def aggregate(**changes: Any) -> pa.Table:
    names = ("open", "high", "low", "close", "total_volume", "total_quote_volume", "price_range", "taker_buy_volume")
    row = {
        "exchange": "binance_futures",
        "symbol": "BTCUSDT",
        **dict.fromkeys(names, Decimal(1)),
        "trades": 2,
        "minutes_with_trades": 1,
        "trades_dropped": 0,
        "closes": [Decimal(1)],
        "bars_complete": True,
        **changes,
    }
    return pa.Table.from_pylist([row])


def is_complete(aggregates: pa.Table, present: pa.Table = NOTHING, *, covered: bool) -> bool:
    (row,) = daily_stats_from_aggregates(aggregates, DAY, {}, lambda _: covered, present, NOTHING.schema).to_pylist()
    return bool(row["is_complete"])


def test_day_is_complete_if_covered_and_all_bars_are_complete() -> None:
    assert is_complete(aggregate(), covered=True)
    assert not is_complete(aggregate(), covered=False)
    assert not is_complete(aggregate(bars_complete=False), covered=True)
    assert not is_complete(aggregate(trades_dropped=1), covered=True)


@pytest.mark.parametrize(
    ("changes", "complete"),
    [({}, True), ({"trades": 3}, False), ({"bars_complete": False}, False), ({"trades_dropped": 1}, False)],
)
def test_unchanged_day_stays_complete_while_coverage_is_withdrawn(changes: dict[str, Any], complete: bool) -> None:
    present = daily_stats_from_aggregates(aggregate(), DAY, {}, lambda _: True, NOTHING, NOTHING.schema)
    assert is_complete(aggregate(**changes), present, covered=False) is complete
    incomplete = daily_stats_from_aggregates(aggregate(), DAY, {}, lambda _: False, NOTHING, NOTHING.schema)
    assert not is_complete(aggregate(), incomplete, covered=False)


@pytest.mark.parametrize(("of_bars", "of_day", "expected"), [(0, 2, 2), (3, 2, 3), (0, 0, 0)])
def test_day_counts_dropped_trades_of_minutes_without_bars(of_bars: int, of_day: int, expected: int) -> None:
    dropped = {
        ("binance_futures", "BTCUSDT"): of_day,
        ("binance_spot", "BTCUSDT"): 8,
        ("binance_futures", "ETHUSDT"): 9,
    }
    aggregates = aggregate(trades_dropped=of_bars)
    rows = daily_stats_from_aggregates(aggregates, DAY, dropped, lambda _: True, NOTHING, NOTHING.schema)
    (row,) = rows.to_pylist()
    assert (row["trades_dropped"], row["is_complete"]) == (expected, not expected)
