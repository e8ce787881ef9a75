"""The union of coverage claims: it claims nothing more and, in the end, nothing less than the claims, in few rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.lake.coverage_union import fold
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.quality.completeness import CompletenessIndex

GRACE_MS = 10
ROW = CoverageRow("binance_futures", "BTCUSDT", "trade", 0, 100, 2, 10, "ws://127.0.0.1", Evidence.BARRIER)


@st.composite
def claims(draw: st.DrawFn) -> list[CoverageRow]:
    """Claims in the order of their writes: later ones have higher offsets."""
    found: list[CoverageRow] = []
    for number in range(draw(st.integers(1, 8))):
        from_ms = draw(st.integers(0, 300))
        to_ms = from_ms + draw(st.integers(1, 120))
        evidence = draw(st.sampled_from([Evidence.BARRIER, Evidence.IDS]))
        claim = replace(ROW, connected_from_ms=from_ms, connected_to_ms=to_ms, evidence=evidence)
        found.append(replace(claim, kafka_offset=10 * (number + 1)))
    return found


def folded(rows: Iterable[CoverageRow]) -> list[CoverageRow]:
    """Fold the claims one by one, as the sink does."""
    stored: list[CoverageRow] = []
    for row in rows:
        stored = fold(stored, [row], GRACE_MS)
    return stored


def moments(rows: Iterable[CoverageRow], offset: int) -> set[int]:
    """Return the ms that readers take as covered while Bronze holds the records below `offset`."""
    return {
        ms
        for row in rows
        if (row.kafka_offset or 0) <= offset
        for ms in range(row.connected_from_ms, row.connected_to_ms - GRACE_MS)
    }


@given(claims())
def test_union_equals_the_claims_once_bronze_has_all_records(rows: Sequence[CoverageRow]) -> None:
    assert moments(folded(rows), 1_000) == moments(rows, 1_000)


@given(claims(), st.integers(0, 90))
def test_union_claims_nothing_that_bronze_lacks(rows: Sequence[CoverageRow], offset: int) -> None:
    assert moments(folded(rows), offset) <= moments(rows, offset)


@given(claims(), st.integers(0, 90))
def test_reader_sees_the_union_as_the_claims(rows: Sequence[CoverageRow], offset: int) -> None:
    for start in range(0, 400, 7):
        index, naive = (CompletenessIndex(found, {2: offset}, GRACE_MS) for found in (folded(rows), rows))
        window = ("binance_futures", "BTCUSDT", "trade", start, start + 20)
        assert naive.is_complete(*window) or not index.is_complete(*window)


@given(claims())
def test_repeated_claims_add_nothing(rows: Sequence[CoverageRow]) -> None:
    stored = folded(rows)
    again = fold(stored, [replace(row, kafka_offset=1_000) for row in rows], GRACE_MS)
    assert len(again) <= len(stored)
    for offset in (10, 20, 40, 80):
        assert moments(again, offset) <= moments(stored, offset)
    assert moments(again, 1_000) == moments(stored, 1_000)


@given(claims())
def test_ids_stay_evidence_of_what_they_cover(rows: Sequence[CoverageRow]) -> None:
    by_ids = [row for row in rows if row.evidence is Evidence.IDS]
    stored = [row for row in folded(rows) if row.evidence is Evidence.IDS]
    assert moments(stored, 1_000) == moments(by_ids, 1_000)


def test_overlap_shorter_than_the_grace_stays_a_pause() -> None:
    """A trade in flight at the end of one connection may be missing, although the next one had begun."""
    earlier = replace(ROW, connected_from_ms=0, connected_to_ms=60_000)
    later = replace(ROW, connected_from_ms=59_995, connected_to_ms=99_999_999, kafka_offset=20)
    stored = folded([earlier, later, replace(later, connected_to_ms=999_999_999, kafka_offset=30)])
    assert not CompletenessIndex(stored, {2: 1_000}, GRACE_MS).is_complete(
        "binance_futures", "BTCUSDT", "trade", 59_000, 60_000
    )


def test_rows_of_an_earlier_topic_do_not_hold_back_those_of_the_next() -> None:
    minute_ms = 60_000
    earlier = replace(ROW, connected_to_ms=10 * minute_ms, kafka_offset=1_000_000)
    stored = [earlier]
    for number in range(1, 3_000):
        end_ms = (10 + number) * minute_ms
        claim = replace(ROW, connected_from_ms=end_ms - 2 * minute_ms, connected_to_ms=end_ms, kafka_offset=number)
        stored = fold(stored, [claim], GRACE_MS)
    index = CompletenessIndex(stored, {2: 3_000}, GRACE_MS)
    assert index.is_complete("binance_futures", "BTCUSDT", "trade", 20 * minute_ms, 2_900 * minute_ms)


def test_long_connection_has_few_rows_and_most_of_them_count_while_bronze_lags() -> None:
    interval_ms, overlap_ms = 5_000, 62_000
    stored: list[CoverageRow] = []
    for number in range(1, 2_000):
        end_ms = number * interval_ms
        claim = replace(
            ROW,
            connected_from_ms=max(0, end_ms - interval_ms - overlap_ms),
            connected_to_ms=end_ms,
            kafka_offset=100 * number,
        )
        stored = fold(stored, [claim], 2_000)
        assert len(stored) <= 24
        for lag_s in (lag_s for lag_s in (5, 15, 60, 300) if 3 * lag_s * 1_000 < end_ms):
            held = 100 * number - 20 * lag_s
            reached_ms = max((row.connected_to_ms for row in stored if (row.kafka_offset or 0) <= held), default=0)
            assert end_ms - reached_ms <= max(3 * lag_s * 1_000, 2 * interval_ms)
    assert stored[0].connected_from_ms == 0


def test_connections_that_overlap_are_one_row_and_a_pause_stays() -> None:
    connections = [
        replace(ROW, connected_from_ms=start, connected_to_ms=start + 90_000_000, kafka_offset=number)
        for number, start in enumerate(range(0, 900_000_000, 86_400_000))
    ]
    assert len(folded(connections)) <= 3
    later = replace(ROW, connected_from_ms=2_000_000_000, connected_to_ms=2_000_000_500, kafka_offset=99)
    pieces = folded([*connections, later])
    assert pieces[0].connected_from_ms == 0
    assert pieces[-1] == later


def test_partitions_stay_apart() -> None:
    other = replace(ROW, kafka_partition=3)
    assert set(folded([ROW, other])) == {ROW, other}
