"""What a day of the archive is held to, whatever the blocks are that it comes in."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.exchange.archive import ArchiveFile
from cryptolake_assets.transform.archive_checks import DAY_MS, MOST_HOLES, Inspection

DAY = date(2024, 7, 18)
START_MS = ArchiveFile("BTCUSDT", DAY).start_ms


def inspected(rows: list[tuple[int, int]], cut: int = 1_000) -> Inspection:
    """Of (id, ms of the day), in blocks of `cut` rows."""
    inspection = Inspection(ArchiveFile("BTCUSDT", DAY))
    for first in range(0, len(rows), cut):
        block = rows[first : first + cut]
        ids, times = pa.array([row[0] for row in block]), pa.array([(START_MS + row[1]) * 1000 for row in block])
        inspection.see(len(block), pa.table({"agg_trade_id": ids, "transact_time": times}))
    return inspection


def failed(inspection: Inspection) -> dict[str, int]:
    outcomes = inspection.outcomes(inspection.rows)
    return {item.name: item.failing_count for item in outcomes if not item.passed}


def test_a_day_without_a_hole_is_covered_from_midnight_to_midnight() -> None:
    day = inspected([(number, number * 10) for number in range(100)], cut=7)
    assert failed(day) == {}
    assert day.covered() == [(START_MS, START_MS + DAY_MS)]


def test_around_a_hole_nothing_is_covered() -> None:
    day = inspected([(1, 1_000), (2, 2_000), (5, 9_000), (6, 9_000), (8, 9_000)])
    assert failed(day) == {"ids_consecutive": 3}
    assert day.covered() == [(START_MS, START_MS + 2_000), (START_MS + 9_001, START_MS + DAY_MS)]


def test_an_hour_s_worth_of_holes_or_ids_out_of_order_cover_nothing() -> None:
    assert inspected([(number * 2, number) for number in range(MOST_HOLES + 2)]).covered() == []
    backward = inspected([(1, 1), (3, 2), (2, 3), (4, 4)])
    assert backward.covered() == []
    assert "ids_consecutive" in failed(backward)
    assert "ids_consecutive" in failed(inspected([(1, 1), (1, 1)]))


def test_the_first_and_the_last_moment_of_the_day() -> None:
    assert failed(inspected([(1, 0), (2, DAY_MS - 1)])) == {}
    assert failed(inspected([(1, -1), (2, 5), (3, DAY_MS)])) == {"within_the_day": 2}
    far = inspected([(1, 10**13)])
    assert failed(far) == {"within_the_day": 1}
    assert far.outcomes(0)[2].failing_rows


def test_an_empty_file_and_lost_rows_fail() -> None:
    assert failed(inspected([])) == {"every_line": 1}
    day = inspected([(1, 1), (2, 2)])
    assert not day.passed(day.outcomes(1))
    assert day.passed(day.outcomes(2))


@given(steps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=30), cut=st.integers(1, 8))
def test_covered_is_every_millisecond_in_which_no_missing_id_can_lie(steps: list[tuple[int, int]], cut: int) -> None:
    rows, number, ms = [(0, 0)], 0, 0
    uncertain: set[int] = set()
    for step, wait in steps:
        if step > 1:
            uncertain |= set(range(ms, ms + wait + 1))
        number, ms = number + step, ms + wait
        rows.append((number, ms))
    found = {
        moment
        for begin, end in inspected(rows, cut).covered()
        for moment in range(begin - START_MS, min(end - START_MS, 500))
    }
    assert found == set(range(500)) - uncertain
