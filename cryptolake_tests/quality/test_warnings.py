"""Non-blocking checks: missing minutes, id continuity, lag."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa

from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.warnings import (
    bars_after,
    event_time_lag,
    id_continuity,
    minutes_missing,
)
from cryptolake_tests.support.hour_bars import HOUR, HOUR_MS, NOTHING_COVERED, bar


def test_minute_between_two_bars_is_missing_unless_covered() -> None:
    bars = [bar(0), bar(3), bar(0, symbol="ETHUSDT")]
    outcome = minutes_missing(bars, NOTHING_COVERED)
    assert [row["window_start"] for row in outcome.failing_rows] == ["2024-07-19 00:01", "2024-07-19 00:02"]
    covered = CoverageRow("binance_futures", "BTCUSDT", "trade", HOUR_MS, HOUR_MS + 120_000, 0, 5, "s")
    outcome = minutes_missing(bars, CompletenessIndex([covered], {0: 5}, 0))
    assert [row["window_start"] for row in outcome.failing_rows] == ["2024-07-19 00:02"]
    assert minutes_missing([bar(0), bar(1)], NOTHING_COVERED).passed


def test_continuous_ids_pass() -> None:
    assert id_continuity([bar(0, 10, 14), bar(1, 15, 15), bar(0, 900, 901, "ETHUSDT")]).passed


def test_gaps_and_overlaps_of_ids_are_sampled() -> None:
    inside = id_continuity([bar(0, 10, 14, trades=3)])
    assert (inside.passed, inside.failing_rows[0]["problem"]) == (False, "2 ids missing within the bar")
    between = id_continuity([bar(0, 10, 14), bar(1, 18, 19)])
    assert (between.failing_rows[0]["window_start"], between.failing_rows[0]["problem"]) == (
        "2024-07-19 00:01",
        "3 ids missing before the bar",
    )
    assert (
        id_continuity([bar(0, 10, 14), bar(1, 14, 19)]).failing_rows[0]["problem"] == "1 ids overlap the previous bar"
    )


def lag(clock: timedelta, symbols: tuple[str, ...] = ("BTCUSDT",)) -> tuple[bool, str]:
    tracked = [("binance_futures", symbol) for symbol in symbols]
    outcome = event_time_lag([bar(4)], HOUR, tracked, HOUR_MS + round(clock.total_seconds() * 1000), limit_s=120)
    return outcome.passed, outcome.description


def test_lag_is_exchange_clock_minus_end_of_the_newest_bar() -> None:
    assert lag(timedelta(minutes=5)) == (True, "largest lag 0 s of 1 symbols; limit 120 s")
    assert lag(timedelta(minutes=7))[0]
    assert not lag(timedelta(minutes=7, seconds=1))[0]
    assert not lag(timedelta(minutes=5), ("BTCUSDT", "ETHUSDT"))[0]


def test_lag_of_a_past_hour_ends_with_the_hour() -> None:
    assert lag(timedelta(days=30)) == (False, "largest lag 3300 s of 1 symbols; limit 120 s")


def test_unknown_exchange_clock_fails() -> None:
    assert not event_time_lag([bar(4)], HOUR, [("binance_futures", "BTCUSDT")], None, limit_s=120).passed


def test_bars_after_publication_replace_published_bars() -> None:
    spot = bar(1, 2, 3, exchange="binance_spot")
    present = pa.Table.from_pylist([bar(0, 1, 1), spot, bar(1, 2, 2)])
    candidate = pa.Table.from_pylist([bar(1, 2, 9), bar(2, 10, 10)])
    keys = pa.Table.from_pylist([bar(1), bar(2)]).select(["exchange", "symbol", "window_start"])
    assert [row["last_trade_id"] for row in bars_after(present, candidate, keys)] == [1, 9, 10, 3]


def test_bars_of_one_symbol_on_two_exchanges_are_no_neighbors() -> None:
    bars = [bar(0, 10, 14), bar(4, 900, 901, exchange="binance_spot")]
    assert minutes_missing(bars, NOTHING_COVERED).passed
    assert id_continuity(bars).passed
    outcome = event_time_lag([bar(4)], HOUR, [("binance_spot", "BTCUSDT")], HOUR_MS + 300_000, limit_s=120)
    assert outcome.failing_rows == [{"exchange": "binance_spot", "symbol": "BTCUSDT", "lag_s": "300"}]
