"""Completeness of a minute: coverage, watermark, Bronze offsets, gaps and evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import LOADING, CoverageRow, Evidence
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.quality.completeness import CompletenessIndex

GRACE_MS = 2_000


def covered(
    start_ms: int, end_ms: int, offset: int = 5, symbol: str = "BTCUSDT", exchange: str = "binance_futures"
) -> CoverageRow:
    return CoverageRow(exchange, symbol, "trade", start_ms, end_ms, 1, offset, "ws://127.0.0.1")


def index(*rows: CoverageRow, bronze: int = 5) -> CompletenessIndex:
    return CompletenessIndex(rows, {1: bronze}, GRACE_MS)


def test_covered_minute_is_complete_once_the_watermark_is_past_its_end() -> None:
    complete = index(covered(0, MINUTE_MS + GRACE_MS))
    assert complete.is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)
    assert not index(covered(0, MINUTE_MS + GRACE_MS - 1)).is_complete(
        "binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS
    )


def test_time_is_proven_once_all_symbols_but_late_ones_are() -> None:
    archived = replace(covered(0, 10 * MINUTE_MS), kafka_partition=None, kafka_offset=None)
    assert index().proven_until_ms() == index(archived).proven_until_ms() == 0
    end_ms = 2 * MINUTE_MS + GRACE_MS
    newest, behind = covered(0, end_ms), covered(0, end_ms - 1_000, symbol="ETHUSDT")
    late = covered(0, end_ms - MINUTE_MS, symbol="XRPUSDT")
    not_in_bronze = covered(0, end_ms + 1_000, offset=6)
    rows = newest, behind, late, not_in_bronze, archived
    assert index(*rows).proven_until_ms() == 2 * MINUTE_MS - 1_000


def test_window_has_the_weakest_evidence_of_its_parts() -> None:
    def by(evidence: Evidence | None, minute: int, *, of_archive: bool = False) -> CoverageRow:
        row = replace(covered(minute * MINUTE_MS, (minute + 1) * MINUTE_MS + GRACE_MS), evidence=evidence)
        if not of_archive:
            return row
        return replace(row, kafka_partition=None, kafka_offset=None, connected_to_ms=(minute + 1) * MINUTE_MS)

    found = index(
        by(Evidence.IDS, 0, of_archive=True),
        by(Evidence.BARRIER, 1),
        by(Evidence.KLINES, 2, of_archive=True),
        by(None, 4),
        by(None, 5, of_archive=True),
        by(Evidence.IDS, 6),
        by(Evidence.BARRIER, 6),
    )

    def evidence(first: int, last: int) -> Evidence | None:
        return found.evidence("binance_futures", "BTCUSDT", "trade", first * MINUTE_MS, (last + 1) * MINUTE_MS)

    assert [evidence(minute, minute) for minute in range(7)] == [
        Evidence.IDS,
        Evidence.BARRIER,
        Evidence.KLINES,
        None,
        Evidence.BARRIER,
        Evidence.IDS,
        Evidence.IDS,
    ]
    assert (evidence(0, 1), evidence(0, 2), evidence(2, 4)) == (Evidence.BARRIER, Evidence.KLINES, None)
    by_klines = [found.is_by_klines("binance_futures", "BTCUSDT", n * MINUTE_MS, (n + 1) * MINUTE_MS) for n in range(4)]
    assert by_klines == [False, False, True, False]


def test_window_proven_by_ids_of_another_stream_is_not_proven_by_klines() -> None:
    by_klines = replace(covered(0, MINUTE_MS + GRACE_MS), evidence=Evidence.KLINES)
    assert index(by_klines).is_by_klines("binance_futures", "BTCUSDT", 0, MINUTE_MS)
    other = replace(by_klines, evidence=Evidence.IDS, stream="aggTrade")
    assert not index(by_klines, other).is_by_klines("binance_futures", "BTCUSDT", 0, MINUTE_MS)
    assert not index(by_klines, replace(other, symbol="ETHUSDT")).is_by_klines(
        "binance_futures", "ETHUSDT", 0, MINUTE_MS
    )


def test_minute_that_began_before_the_connection_is_incomplete() -> None:
    assert not index(covered(1, 10 * MINUTE_MS)).is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)


def test_coverage_counts_once_bronze_has_its_records() -> None:
    rows = covered(0, 10 * MINUTE_MS, offset=9)
    assert not index(rows, bronze=8).is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)
    assert index(rows, bronze=9).is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)


def test_time_between_two_connections_makes_only_its_minutes_incomplete() -> None:
    both = index(covered(0, 90_000), covered(95_000, 10 * MINUTE_MS))
    assert both.is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)
    assert not both.is_complete("binance_futures", "BTCUSDT", "trade", MINUTE_MS, 2 * MINUTE_MS)
    assert both.is_complete("binance_futures", "BTCUSDT", "trade", 2 * MINUTE_MS, 3 * MINUTE_MS)


def gap(after_ms: int, before_ms: int) -> TradeGap:
    seen = datetime(2024, 7, 18, tzinfo=UTC)
    return TradeGap("binance_futures", "BTCUSDT", "trade", 5, 9, 5, after_ms * 1000, before_ms * 1000, seen)


def test_open_gap_makes_minutes_from_previous_to_next_trade_incomplete() -> None:
    rows = [covered(0, 10 * MINUTE_MS)]
    found = CompletenessIndex(rows, {1: 5}, 0, [gap(MINUTE_MS, 2 * MINUTE_MS - 1)])
    complete = [
        found.is_complete("binance_futures", "BTCUSDT", "trade", n * MINUTE_MS, (n + 1) * MINUTE_MS) for n in range(4)
    ]
    assert complete == [True, False, True, True]
    found = CompletenessIndex(rows, {1: 5}, 0, [gap(MINUTE_MS - 1, 2 * MINUTE_MS)])
    complete = [
        found.is_complete("binance_futures", "BTCUSDT", "trade", n * MINUTE_MS, (n + 1) * MINUTE_MS) for n in range(4)
    ]
    assert complete == [False, False, False, True]


def test_closed_gap_counts_until_bronze_has_its_late_trades() -> None:
    late = replace(gap(10, 20), closed_at=datetime(2024, 7, 18, tzinfo=UTC), kafka_partition=1, kafka_offset=8)
    for bronze, complete in ((7, False), (8, True)):
        found = CompletenessIndex([covered(0, 10 * MINUTE_MS)], {1: bronze}, 0, [late])
        assert found.is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS) == complete


def test_archive_coverage_includes_a_gap_of_the_stream() -> None:
    day = CoverageRow("binance_futures", "BTCUSDT", "trade", 0, 10 * MINUTE_MS, None, None, "http://archive")
    found = CompletenessIndex([covered(0, 10 * MINUTE_MS), day], {1: 5}, 0, [gap(10, 20)])
    assert found.is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)


def test_coverage_is_separate_per_exchange_symbol_and_stream() -> None:
    complete = index(covered(0, 10 * MINUTE_MS))
    assert not complete.is_complete("binance_spot", "BTCUSDT", "trade", 0, MINUTE_MS)
    assert not complete.is_complete("binance_futures", "ETHUSDT", "trade", 0, MINUTE_MS)
    assert not complete.is_complete("binance_futures", "BTCUSDT", "aggTrade", 0, MINUTE_MS)
    assert complete.is_complete_on_any_stream("binance_futures", "BTCUSDT", 0, MINUTE_MS)
    assert not complete.is_complete_on_any_stream("binance_spot", "BTCUSDT", 0, MINUTE_MS)
    assert not complete.is_by_klines("binance_spot", "BTCUSDT", 0, MINUTE_MS)


def test_gap_of_another_exchange_leaves_the_symbol_complete() -> None:
    rows = [covered(0, MINUTE_MS), covered(0, MINUTE_MS, exchange="binance_spot")]
    found = CompletenessIndex(rows, {1: 5}, 0, [gap(10, 20)])
    assert not found.is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)
    assert found.evidence("binance_spot", "BTCUSDT", "trade", 0, MINUTE_MS) is Evidence.BARRIER


def test_archive_day_counts_without_kafka_offset_and_grace() -> None:
    day = CoverageRow("binance_futures", "BTCUSDT", "aggTrade", 0, 24 * 60 * MINUTE_MS, None, None, "http://archive")
    complete = index(day, bronze=0)
    assert complete.is_complete("binance_futures", "BTCUSDT", "aggTrade", 0, 24 * 60 * MINUTE_MS)
    assert not complete.is_complete("binance_futures", "BTCUSDT", "aggTrade", 0, 24 * 60 * MINUTE_MS + 1)
    loading = replace(day, kafka_partition=LOADING, kafka_offset=0)
    assert not index(loading, bronze=9).is_complete("binance_futures", "BTCUSDT", "aggTrade", 0, MINUTE_MS)


@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=8),
    start=st.integers(0, 60),
    length=st.integers(1, 10),
)
def test_coverage_equals_the_definition_per_millisecond(spans: list[tuple[int, int]], start: int, length: int) -> None:
    rows = [covered(begin, begin + size) for begin, size in spans]
    known = {moment for begin, size in spans for moment in range(begin, begin + size)}
    expected = all(moment in known for moment in range(start, start + length))
    got = CompletenessIndex(rows, {1: 5}, 0).is_complete("binance_futures", "BTCUSDT", "trade", start, start + length)
    assert got == expected


def test_adjacent_connections_cover_a_minute_across_both() -> None:
    both = CompletenessIndex([covered(0, 90_000), covered(90_000, 200_000)], {1: 5}, 0)
    assert both.is_complete("binance_futures", "BTCUSDT", "trade", MINUTE_MS, 2 * MINUTE_MS)


def test_open_gap_excludes_full_milliseconds() -> None:
    inside = replace(gap(0, 0), after_us=10_900, before_us=20_900)
    found = CompletenessIndex([covered(0, 100)], {1: 5}, 0, [inside])
    assert found.is_complete("binance_futures", "BTCUSDT", "trade", 0, 10)
    assert not found.is_complete("binance_futures", "BTCUSDT", "trade", 0, 11)
    assert not found.is_complete("binance_futures", "BTCUSDT", "trade", 20, 30)
    assert found.is_complete("binance_futures", "BTCUSDT", "trade", 21, 30)


def test_partition_without_records_in_bronze_covers_nothing() -> None:
    for offset, complete in ((0, True), (1, False)):
        row = replace(covered(0, MINUTE_MS, offset=offset), kafka_partition=2)
        assert (
            CompletenessIndex([row], {1: 5}, 0).is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)
            == complete
        )


def test_closed_gap_without_kafka_offset_is_covered() -> None:
    closed = replace(gap(10, 20), closed_at=datetime(2024, 7, 18, tzinfo=UTC))
    for late in (closed, replace(closed, kafka_partition=1), replace(closed, kafka_offset=8)):
        found = CompletenessIndex([covered(0, MINUTE_MS)], {1: 5}, 0, [late])
        assert found.is_complete("binance_futures", "BTCUSDT", "trade", 0, MINUTE_MS)


def test_changed_time_spans_all_newly_covered_time() -> None:
    earlier = CompletenessIndex([covered(100, 200)], {1: 5}, 0)
    later = CompletenessIndex([covered(50, 210), covered(70, 90, symbol="ETHUSDT")], {1: 5}, 0)
    assert later.changed(earlier) == (50, 210)
    assert earlier.changed(later) is None
    assert later.changed(later) is None
    other = CompletenessIndex([covered(100, 200), covered(150, 300, symbol="ETHUSDT")], {1: 5}, 0)
    assert other.changed(earlier) == (150, 300), "newly covered time of another symbol counts"


def test_repaired_and_found_gaps_are_changes() -> None:
    rows = [covered(0, MINUTE_MS)]
    before = CompletenessIndex(rows, {1: 5}, 0, [gap(10, 19), gap(40, 49)])
    assert CompletenessIndex(rows, {1: 5}, 0, [gap(10, 19)]).changed(before) == (40, 50)
    assert CompletenessIndex(rows, {1: 5}, 0).changed(before) == (10, 50)
    assert before.changed(CompletenessIndex(rows, {1: 5}, 0, [gap(10, 19)])) == (40, 50)


def test_gap_in_a_window_may_lack_trades_unless_something_else_proves_it() -> None:
    def may_lack(found: CompletenessIndex, start_ms: int, end_ms: int) -> bool:
        return found.may_lack_trades("binance_futures", "BTCUSDT", "trade", start_ms, end_ms)

    archive = replace(covered(0, 100), kafka_partition=None, kafka_offset=None)
    found = CompletenessIndex([covered(0, 200)], {1: 5}, 0, [gap(10, 19), gap(40, 49)])
    assert [may_lack(found, *window) for window in ((0, 10), (0, 11), (20, 40), (49, 60), (50, 60))] == [
        *(False, True, False, True, False)
    ]
    assert not found.may_lack_trades("binance_futures", "ETHUSDT", "trade", 0, 100)
    assert not may_lack(CompletenessIndex([archive], {1: 5}, 0, [gap(10, 19)]), 0, 100)
    assert found.missing() == [(10, 20), (40, 50)]
    assert found.missing(20, 41) == [(40, 50)]
    assert found.missing(0, 40) == [(10, 20)]


Windows = list[tuple[int, int]]
windows = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), max_size=4)
gaps_us = st.lists(st.tuples(st.integers(0, 50_999), st.integers(0, 9_999)), max_size=4)


def built(streamed: Windows, archived: Windows, missing: Windows) -> CompletenessIndex:
    archive = replace(covered(0, 0), kafka_partition=None, kafka_offset=None)
    rows = [covered(start, start + length) for start, length in streamed]
    rows += [replace(archive, connected_from_ms=start, connected_to_ms=start + length) for start, length in archived]
    gaps = [replace(gap(0, 0), after_us=after, before_us=after + length) for after, length in missing]
    return CompletenessIndex(rows, {1: 5}, 0, gaps)


def covered_ms(streamed: Windows, archived: Windows, missing: Windows) -> set[int]:
    """Return the covered milliseconds one by one."""
    of_stream, of_archive = (
        {ms for start, length in spans for ms in range(start, start + length)} for spans in (streamed, archived)
    )
    return of_stream - missing_ms(missing) | of_archive


def missing_ms(missing: Windows) -> set[int]:
    return {ms for after, length in missing for ms in range(after // 1000, (after + length) // 1000 + 1)}


@given(windows, windows, gaps_us, st.integers(0, 60), st.integers(1, 10))
def test_window_is_complete_if_every_millisecond_is_covered(
    streamed: Windows, archived: Windows, missing: Windows, start: int, length: int
) -> None:
    expected = set(range(start, start + length)) <= covered_ms(streamed, archived, missing)
    index = built(streamed, archived, missing)
    assert index.is_complete("binance_futures", "BTCUSDT", "trade", start, start + length) == expected
    assert index.is_complete_on_any_stream("binance_futures", "BTCUSDT", start, start + length) == expected


ledgers = st.tuples(windows, windows, gaps_us)


@given(ledgers, ledgers)
def test_changed_time_is_the_extent_of_newly_covered_and_newly_missing_milliseconds(
    now: tuple[Windows, Windows, Windows], earlier: tuple[Windows, Windows, Windows]
) -> None:
    fresh = (covered_ms(*now) - covered_ms(*earlier)) | (missing_ms(now[2]) - missing_ms(earlier[2]))
    changed = built(*now).changed(built(*earlier))
    assert changed == ((min(fresh), max(fresh) + 1) if fresh else None)
