"""Comparison of an hour of bars with the official klines."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.official_bars import Agreement, Bar, compare_with_official
from cryptolake_tests.support.hour_bars import HOUR, HOUR_MS, NOTHING_COVERED, bar

TOLERANCE = Decimal("0.001")


def kline(minute: int, **changes: Any) -> Kline:
    values: dict[str, Any] = {
        "open_time_ms": HOUR_MS + minute * 60_000,
        **dict.fromkeys(("open", "high", "low", "close"), "64000.10"),
        **dict.fromkeys(("volume", "taker_buy_volume"), "1.500"),
        **dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), "96000.150"),
        "close_time_ms": HOUR_MS + minute * 60_000 + 59_999,
        "trades": 1,
    }
    return Kline(**{**values, **changes})


def keyed(*klines: Kline) -> dict[tuple[str, str, int], Kline]:
    return {("binance_futures", "BTCUSDT", item.open_time_ms): item for item in klines}


def covered(stream: str, minutes: int) -> CompletenessIndex:
    """Return coverage of the first minutes of the hour by a stream."""
    end_ms = HOUR_MS + minutes * MINUTE_MS
    row = CoverageRow("binance_futures", "BTCUSDT", stream, HOUR_MS, end_ms, 0, 10, "ws://exchange")
    return CompletenessIndex([row], {0: 10}, 0)


def compared(
    bars: list[dict[str, Any]],
    klines: dict[tuple[str, str, int], Kline],
    completeness: CompletenessIndex = NOTHING_COVERED,
    tolerance: Decimal = Decimal(0),
) -> Agreement:
    rows: list[Bar] = [*bars]
    return compare_with_official(HOUR, rows, klines, completeness, tolerance)


def test_check_fails_without_a_kline_as_reference() -> None:
    outcome = compared([bar(0)], {}).outcome
    assert (outcome.passed, outcome.description.startswith("no reference")) == (False, True)


def test_compared_and_agreeing_bars_are_counted() -> None:
    counts = [
        compared(bars, klines).outcome.counts
        for bars, klines in (
            ([bar(0), bar(1), bar(2, is_complete=False)], keyed(kline(0), kline(1, high="1"), kline(2))),
            ([bar(0)], {}),
        )
    ]
    assert counts == [{"bars_compared": 2, "bars_agreeing": 1}, {"bars_compared": 0, "bars_agreeing": 0}]


def test_incomplete_bar_is_not_compared() -> None:
    assert not compared([bar(0, is_complete=False)], keyed(kline(0, high="1"))).outcome.passed
    assert compared([bar(0, is_complete=False), bar(1)], keyed(kline(0, high="1"), kline(1))).outcome.passed


def test_equal_bars_pass_and_one_different_digit_fails() -> None:
    assert compared([bar(0), bar(1)], keyed(kline(0), kline(1))).outcome.description.startswith("2 of 2")
    agreement = compared([bar(0), bar(1)], keyed(kline(0), kline(1, volume="1.50000001")))
    assert (agreement.outcome.passed, agreement.outcome.failing_count) == (False, 1)
    assert agreement.outcome.failing_rows[0]["window_start"] == "2024-07-19 00:01"
    assert "volume 1.50000000, official 1.50000001" in agreement.outcome.failing_rows[0]["difference"]
    assert agreement.differences == [
        {
            "exchange": "binance_futures",
            "symbol": "BTCUSDT",
            "window_start": HOUR + timedelta(minutes=1),
            "field": "volume",
            "ours": Decimal("1.50000000"),
            "official": Decimal("1.50000001"),
            "tolerated": False,
        }
    ]


def test_tolerated_difference_of_an_aggregate_bar_passes_and_is_listed() -> None:
    near = keyed(kline(0, volume="1.5010"), kline(1))
    of_aggregates = [bar(minute, stream="aggTrade") for minute in range(2)]
    agreement = compared(of_aggregates, near, covered("aggTrade", 2), TOLERANCE)
    assert agreement.outcome.passed
    assert (
        agreement.outcome.description == "1 of 2 complete bars equal the official klines, 1 more within 0.001 of them"
    )
    assert [(row["field"], row["tolerated"]) for row in agreement.differences] == [("volume", True)]
    far = compared(of_aggregates[:1], keyed(kline(0, volume="1.6")), covered("aggTrade", 2), TOLERANCE)
    assert not far.outcome.passed


def test_price_difference_of_an_aggregate_bar_is_not_tolerated() -> None:
    of_aggregates = [bar(0, stream="aggTrade")]
    agreement = compared(of_aggregates, keyed(kline(0, high="64000.11")), covered("aggTrade", 2), TOLERANCE)
    assert not agreement.outcome.passed


@pytest.mark.parametrize("covered_stream", ["trade", "aggTrade"])
def test_stream_of_the_bar_decides_whether_a_difference_is_tolerated(covered_stream: str) -> None:
    klines = keyed(kline(0, volume="1.50000001"))
    passed = [
        compared([bar(0, stream=stream)], klines, covered(covered_stream, 2), TOLERANCE).outcome.passed
        for stream in ("trade", "aggTrade", None)
    ]
    assert passed == [False, True, covered_stream == "aggTrade"], "bars of earlier releases have no stream"


def test_kline_of_another_exchange_is_no_reference() -> None:
    spot = bar(0, exchange="binance_spot", high=Decimal(1))
    assert "no reference" in compared([spot], keyed(kline(0))).outcome.description
    both = keyed(kline(0)) | {("binance_spot", "BTCUSDT", HOUR_MS): kline(0, high="2")}
    agreement = compared([bar(0), spot], both)
    assert [(row["exchange"], row["ours"]) for row in agreement.differences] == [("binance_spot", Decimal(1))]


def test_covered_minute_without_bar_differs_from_a_kline_with_trades() -> None:
    klines = keyed(kline(0), kline(1, trades=7), kline(2, trades=0), kline(30, trades=9), kline(60, trades=5))
    agreement = compared([bar(0)], klines, covered("trade", 10))
    assert not agreement.outcome.passed
    assert [(row["window_start"].minute, row["field"], row["official"]) for row in agreement.differences] == [
        (1, "bar", Decimal(7))
    ]
    assert agreement.outcome.failing_rows[0]["difference"] == "no bar, official 7 trades"
