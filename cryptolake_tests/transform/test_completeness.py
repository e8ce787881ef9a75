"""When a minute is complete."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.lake.coverage import LOADING, CoverageRow
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
