"""Checks of an archive day and the coverage of its rows, in any blocks and any order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import date

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.binance.archive_csv import BadLine, Block
from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.ingest.archive_checks import DAY_MS, MAX_GAPS, IdRun, Inspection, contradicting_ids
from cryptolake_assets.ingest.archive_evidence import BORDER, rows_of_day, with_borders
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence

DAY = date(2024, 7, 18)
FILE = ArchiveFile("BTCUSDT", DAY)
NEXT_FILE = ArchiveFile("BTCUSDT", date(2024, 7, 19))
START_MS = FILE.start_ms
SCHEMA = pa.schema({"agg_trade_id": pa.int64(), "transact_time": pa.int64()})


def table(rows: list[tuple[int, int]]) -> pa.Table:
    ids, times = [row[0] for row in rows], [(START_MS + row[1]) * 1000 for row in rows]
    return pa.table({"agg_trade_id": ids, "transact_time": times}, schema=SCHEMA)


def inspected(
    rows: list[tuple[int, int]], cut: int = 1_000, without_trade: list[tuple[int, int]] | None = None
) -> Inspection:
    """Return the inspection of rows (id, ms of the day), added in blocks of `cut` rows."""
    inspection = Inspection(FILE)
    for first in range(0, len(rows), cut):
        block = rows[first : first + cut]
        inspection.add_block(Block(len(block), table(block), table([])))
    if without_trade:
        inspection.add_block(Block(len(without_trade), table([]), table(without_trade)))
    return inspection


def failed(inspection: Inspection) -> dict[str, int]:
    outcomes = inspection.outcomes(inspection.rows)
    return {item.name: item.failing_count for item in outcomes if not item.passed}


def covered(inspection: Inspection) -> list[tuple[int, int]]:
    """Return the covered spans in ms of the day, without empty ones."""
    rows = rows_of_day(FILE, inspection.runs(), "x")
    spans = [(row.connected_from_ms - START_MS, row.connected_to_ms - START_MS) for row in rows]
    return [(begin, end) for begin, end in spans if end > begin]


def test_day_covers_the_time_from_after_its_first_trade_to_its_last() -> None:
    day = inspected([(number, number * 10) for number in range(1, 101)], cut=7)
    assert failed(day) == {}
    assert covered(day) == [(11, 1_000)], "the start and end of a file prove nothing"


def test_gap_is_not_covered() -> None:
    day = inspected([(1, 1_000), (2, 2_000), (5, 9_000), (6, 9_500), (8, 9_600)])
    assert failed(day) == {"ids_consecutive": 3}
    assert covered(day) == [(1_001, 2_000), (9_001, 9_500)]


def test_order_of_rows_does_not_matter() -> None:
    rows = [(number, number * 10) for number in range(1, 200) if number not in (50, 51, 120)]
    shuffled = random.Random(5).sample(rows, len(rows))  # noqa: S311
    assert inspected(shuffled, cut=13).runs() == inspected(rows).runs()
    assert failed(inspected(shuffled, cut=13)) == {"ids_consecutive": 3}
    assert failed(inspected([(1, 1), (1, 1), (2, 2)])) == {}, "a duplicate row is no gap"


def test_ids_without_a_trade_are_not_gaps() -> None:
    day = inspected([(1, 10), (3, 30), (5, 50)], without_trade=[(2, 20), (4, 40), (6, 60)])
    assert failed(day) == {}
    assert day.rows == 3
    assert covered(day) == [(11, 60)]


def test_file_with_too_many_gaps_is_stored_with_empty_coverage() -> None:
    day = inspected([(number * 2, number) for number in range(MAX_GAPS + 2)])
    assert rows_of_day(FILE, day.runs(), "x") == [
        CoverageRow("binance_futures", "BTCUSDT", "aggTrade", START_MS, START_MS, None, None, "x", Evidence.IDS)
    ]


def test_trades_of_another_day_are_rejected() -> None:
    assert failed(inspected([(1, 0), (2, DAY_MS - 1)])) == {}
    day = inspected([(1, -1), (2, 5), (3, 6), (4, DAY_MS)])
    assert failed(day) == {"within_the_day": 2, "lines_rejected": 2}
    assert [line.agg_trade_id for line in day.rejected_lines] == [1, 4]
    assert covered(day) == [(6, 6)] or covered(day) == []
    assert failed(inspected([(1, 10**13)])) == {"every_line": 1, "within_the_day": 1, "lines_rejected": 1}


def test_rejected_line_is_reported_and_its_time_is_not_covered() -> None:
    day = Inspection(FILE)
    rows = table([(1, 10), (3, 30), (4, 40)])
    day.add_block(Block(4, rows, table([]), (BadLine(2, "2,oops", "2 columns, expected 7", 2),)))
    assert failed(day) == {"lines_rejected": 1, "ids_consecutive": 1}
    assert covered(day) == [(31, 40)]
    (outcome,) = [item for item in day.outcomes(3) if item.name == "lines_rejected"]
    assert outcome.failing_rows == [{"line": "2", "reason": "2 columns, expected 7", "text": "2,oops"}]


def test_ids_with_different_values_are_contradicting_across_blocks() -> None:
    blocks = [
        Block(4, table([(1, 10), (2, 20), (3, 30), (2, 20)]), table([])),
        Block(3, table([(3, 31), (4, 40)]), table([(5, 50)])),
        # Equal rows, and an id that also occurs without a trade.
        Block(3, table([(4, 40), (5, 50)]), table([(4, 41)])),
    ]
    assert contradicting_ids(lambda: blocks, FILE).to_pylist() == [3, 4]
    day = Inspection(FILE, contradicting_ids(lambda: blocks, FILE))
    first = Inspection(FILE)
    for block in blocks:
        day.add_block(block)
        first.add_block(block)
    assert first.may_contradict
    assert [run.first_id for run in day.runs()] == [1, 5]
    assert covered(day) == [(11, 20)]
    assert [line.agg_trade_id for line in day.rejected_lines] == [3, 3, 4, 4, 4]
    assert not inspected([(3, 3), (1, 1), (2, 2)], cut=2).may_contradict


def test_rejected_line_and_row_of_another_day_contradict_a_row_with_their_id() -> None:
    blocks = [
        Block(5, table([(1, 10), (2, 20), (3, 30), (9, DAY_MS)]), table([]), (BadLine(5, "2,oops", "why", 2),)),
        Block(3, table([(1, -1)]), table([(4, 40)]), (BadLine(7, "4,oops", "why", 4), BadLine(8, "oops", "why"))),
    ]
    assert contradicting_ids(lambda: blocks, FILE).to_pylist() == [1, 2, 4]
    only_bad = Block(1, table([]), table([]), (BadLine(1, "7,oops", "why", 7),))
    assert contradicting_ids(lambda: [only_bad], FILE).to_pylist() == []
    for block in blocks:
        inspection = Inspection(FILE)
        inspection.add_block(block)
        assert inspection.may_contradict


def test_empty_file_and_lost_rows_fail_the_check() -> None:
    assert failed(inspected([])) == {"every_line": 1}
    day = inspected([(1, 1), (2, 2)])
    assert not day.passed(day.outcomes(1))
    assert day.passed(day.outcomes(2))


@given(steps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=30), cut=st.integers(1, 8))
def test_every_millisecond_that_cannot_have_a_missing_id_is_covered(steps: list[tuple[int, int]], cut: int) -> None:
    rows, number, ms = [(0, 0)], 0, 0
    uncertain: set[int] = {0}
    for step, wait in steps:
        if step > 1:
            uncertain |= set(range(ms, ms + wait + 1))
        number, ms = number + step, ms + wait
        rows.append((number, ms))
    found = {moment for begin, end in covered(inspected(rows, cut)) for moment in range(begin, end)}
    assert found == set(range(ms)) - uncertain


def days(first: IdRun, second: IdRun) -> list[CoverageRow]:
    return [*rows_of_day(FILE, [first], "a"), *rows_of_day(NEXT_FILE, [second], "b")]


def run(file: ArchiveFile, first_id: int, last_id: int, first_ms: int, last_ms: int) -> IdRun:
    return IdRun(first_id, last_id, (file.start_ms + first_ms) * 1000, (file.start_ms + last_ms) * 1000)


def test_days_with_consecutive_ids_cover_midnight() -> None:
    rows = days(run(FILE, 1, 9, 5_000, DAY_MS - 700), run(NEXT_FILE, 10, 20, 900, 9_000))
    joined = with_borders(rows)
    (border,) = [row for row in joined if row.source == BORDER]
    assert border.connected_from_ms <= FILE.start_ms + DAY_MS - 700
    assert border.connected_to_ms == NEXT_FILE.start_ms + 901
    assert (border.evidence, border.first_id, border.last_id) == (Evidence.IDS, 9, 10)
    assert set(with_borders(joined)) == set(joined), "building the borders again changes nothing"


def test_days_without_consecutive_ids_do_not_cover_midnight() -> None:
    for first_id in (9, 11):
        assert with_borders(days(run(FILE, 1, 9, 5, 10), run(NEXT_FILE, first_id, 20, 5, 10)))[2:] == []
    later = ArchiveFile("BTCUSDT", date(2024, 7, 20))
    apart = [*rows_of_day(FILE, [run(FILE, 1, 9, 5, 10)], "a"), *rows_of_day(later, [run(later, 10, 20, 5, 10)], "b")]
    assert with_borders(apart) == apart


def covered_moments(rows: list[CoverageRow], moments: Iterable[int]) -> set[int]:
    """Return the moments (ms since the first day's start) that the rows cover."""
    spans = [(row.connected_from_ms - FILE.start_ms, row.connected_to_ms - FILE.start_ms) for row in rows]
    return {moment for moment in moments if any(begin <= moment < end for begin, end in spans)}


def test_border_does_not_cover_a_gap_next_to_a_run_of_one_ms() -> None:
    ends = [run(FILE, 1, 11, 5, DAY_MS - 50), run(FILE, 15, 15, DAY_MS - 50, DAY_MS - 50)]
    begins = [run(NEXT_FILE, 16, 16, 40, 40), run(NEXT_FILE, 25, 30, 40, 60)]
    rows = with_borders([*rows_of_day(FILE, ends, "a"), *rows_of_day(NEXT_FILE, begins, "b")])
    assert [row.source for row in rows].count(BORDER) == 1
    around = range(DAY_MS - 60, DAY_MS + 60)
    assert set(around) - covered_moments(rows, around) == {DAY_MS - 50, DAY_MS + 40}, (
        "ids 12 to 14 and 17 to 24 may be there"
    )


def test_gap_between_unordered_trades_is_not_covered_by_neighboring_runs() -> None:
    rows = rows_of_day(FILE, [run(FILE, 1, 30, 5, 22), run(FILE, 32, 60, 20, 80)], "a")
    assert covered_moments(rows, range(100)) == {*range(6, 20), *range(23, 80)}
    assert {row.first_id for row in rows} == {None}, "a clipped run joins no day"


def test_border_is_removed_with_the_day_that_proved_it() -> None:
    joined = with_borders(days(run(FILE, 1, 9, 5, 10), run(NEXT_FILE, 10, 20, 5, 10)))
    assert len(joined) == 3
    reissued = [row for row in joined if row.source != "b"] + rows_of_day(
        NEXT_FILE, [run(NEXT_FILE, 12, 20, 5, 10)], "c"
    )
    assert [row.source for row in with_borders(reissued)] == ["a", "c"]


def test_day_with_a_single_trade_joins_both_neighboring_days() -> None:
    third = ArchiveFile("BTCUSDT", date(2024, 7, 20))
    rows = [
        *rows_of_day(FILE, [run(FILE, 1, 9, 5, 10)], "a"),
        *rows_of_day(NEXT_FILE, [run(NEXT_FILE, 10, 10, 500, 500)], "b"),
        *rows_of_day(third, [run(third, 11, 12, 5, 10)], "c"),
    ]
    spans = sorted((row.connected_from_ms, row.connected_to_ms) for row in with_borders(rows))
    reached = spans[0][1]
    for begin, end in spans:
        assert begin <= reached
        reached = max(reached, end)
    assert reached == third.start_ms + 10
