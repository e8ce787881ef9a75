"""When a minute is complete."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.lake.coverage import LOADING, CoverageRow
from cryptolake_assets.lake.gaps import TradeGap
from cryptolake_assets.transform.completeness import CompletenessIndex

GRACE_MS = 2_000
MINUTE_MS = 60_000


def covered(start_ms: int, end_ms: int, offset: int = 5, symbol: str = "BTCUSDT") -> CoverageRow:
    return CoverageRow("binance_futures", symbol, "trade", start_ms, end_ms, 1, offset, "ws://127.0.0.1")


def index(*rows: CoverageRow, bronze: int = 5) -> CompletenessIndex:
    return CompletenessIndex(rows, {1: bronze}, GRACE_MS)


def test_a_minute_inside_coverage_is_complete_once_the_watermark_is_past_it() -> None:
    complete = index(covered(0, MINUTE_MS + GRACE_MS))
    assert complete.is_complete("BTCUSDT", "trade", 0, MINUTE_MS)
    assert not index(covered(0, MINUTE_MS + GRACE_MS - 1)).is_complete("BTCUSDT", "trade", 0, MINUTE_MS)


def test_a_minute_that_began_before_the_connection_is_not() -> None:
    assert not index(covered(1, 10 * MINUTE_MS)).is_complete("BTCUSDT", "trade", 0, MINUTE_MS)


def test_coverage_counts_only_once_bronze_holds_its_records() -> None:
    rows = covered(0, 10 * MINUTE_MS, offset=9)
    assert not index(rows, bronze=8).is_complete("BTCUSDT", "trade", 0, MINUTE_MS)
    assert index(rows, bronze=9).is_complete("BTCUSDT", "trade", 0, MINUTE_MS)


def test_a_hole_between_two_connections_touches_its_minutes_only() -> None:
    both = index(covered(0, 90_000), covered(95_000, 10 * MINUTE_MS))
    assert both.is_complete("BTCUSDT", "trade", 0, MINUTE_MS)
    assert not both.is_complete("BTCUSDT", "trade", MINUTE_MS, 2 * MINUTE_MS)
    assert both.is_complete("BTCUSDT", "trade", 2 * MINUTE_MS, 3 * MINUTE_MS)


def gap(after_ms: int, before_ms: int) -> TradeGap:
    seen = datetime(2024, 7, 18, tzinfo=UTC)
    return TradeGap("binance_futures", "BTCUSDT", "trade", 5, 9, 5, after_ms * 1000, before_ms * 1000, seen)


def test_an_open_gap_touches_the_minutes_from_the_trade_before_to_the_one_behind() -> None:
    rows = [covered(0, 10 * MINUTE_MS)]
    found = CompletenessIndex(rows, {1: 5}, 0, [gap(MINUTE_MS, 2 * MINUTE_MS - 1)])
    complete = [found.is_complete("BTCUSDT", "trade", n * MINUTE_MS, (n + 1) * MINUTE_MS) for n in range(4)]
    assert complete == [True, False, True, True]
    found = CompletenessIndex(rows, {1: 5}, 0, [gap(MINUTE_MS - 1, 2 * MINUTE_MS)])
    complete = [found.is_complete("BTCUSDT", "trade", n * MINUTE_MS, (n + 1) * MINUTE_MS) for n in range(4)]
    assert complete == [False, False, False, True]


def test_a_closed_gap_counts_until_bronze_holds_its_late_trades() -> None:
    late = replace(gap(10, 20), closed_at=datetime(2024, 7, 18, tzinfo=UTC), kafka_partition=1, kafka_offset=8)
    for bronze, complete in ((7, False), (8, True)):
        found = CompletenessIndex([covered(0, 10 * MINUTE_MS)], {1: bronze}, 0, [late])
        assert found.is_complete("BTCUSDT", "trade", 0, MINUTE_MS) == complete


def test_the_archive_has_what_the_stream_lacked() -> None:
    day = CoverageRow("binance_futures", "BTCUSDT", "trade", 0, 10 * MINUTE_MS, None, None, "http://archive")
    found = CompletenessIndex([covered(0, 10 * MINUTE_MS), day], {1: 5}, 0, [gap(10, 20)])
    assert found.is_complete("BTCUSDT", "trade", 0, MINUTE_MS)


def test_symbols_and_streams_are_apart() -> None:
    complete = index(covered(0, 10 * MINUTE_MS))
    assert not complete.is_complete("ETHUSDT", "trade", 0, MINUTE_MS)
    assert not complete.is_complete("BTCUSDT", "aggTrade", 0, MINUTE_MS)
    assert complete.is_complete_on_any_stream("BTCUSDT", 0, MINUTE_MS)


def test_a_day_of_the_archive_counts_without_kafka_and_without_grace() -> None:
    day = CoverageRow("binance_futures", "BTCUSDT", "aggTrade", 0, 24 * 60 * MINUTE_MS, None, None, "http://archive")
    complete = index(day, bronze=0)
    assert complete.is_complete("BTCUSDT", "aggTrade", 0, 24 * 60 * MINUTE_MS)
    assert not complete.is_complete("BTCUSDT", "aggTrade", 0, 24 * 60 * MINUTE_MS + 1)
    loading = replace(day, kafka_partition=LOADING, kafka_offset=0)
    assert not index(loading, bronze=9).is_complete("BTCUSDT", "aggTrade", 0, MINUTE_MS)


@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=8),
    start=st.integers(0, 60),
    length=st.integers(1, 10),
)
def test_equals_the_definition_second_by_second(spans: list[tuple[int, int]], start: int, length: int) -> None:
    rows = [covered(begin, begin + size) for begin, size in spans]
    known = {moment for begin, size in spans for moment in range(begin, begin + size)}
    expected = all(moment in known for moment in range(start, start + length))
    got = CompletenessIndex(rows, {1: 5}, 0).is_complete("BTCUSDT", "trade", start, start + length)
    assert got == expected
