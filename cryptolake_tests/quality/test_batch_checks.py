"""Gaps in funding rates and open interest, and symbols that lag."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.quality.batch_checks import funding_gaps, periods_missing, symbols_behind

START = datetime(2024, 7, 18, tzinfo=UTC)


def at(*hours: float) -> list[datetime]:
    return [START + timedelta(hours=hour) for hour in hours]


def test_changed_funding_interval_passes_and_single_longer_interval_is_a_gap() -> None:
    assert funding_gaps({"A": at(0, 8, 16, 20, 24, 25, 26, 30, 34)}).passed
    found = funding_gaps({"A": at(0, 4, 8, 16, 20, 24), "B": at(0, 8, 16)})
    assert not found.passed
    assert found.failing_rows == [
        {"symbol": "A", "after": "2024-07-18 08:00:00", "before": "2024-07-18 16:00:00"},
    ]


def test_more_than_eight_hours_is_a_gap_at_any_position() -> None:
    assert funding_gaps({"A": at(0, 16)}).failing_count == 1
    assert funding_gaps({"A": at(0, 8 + 1 / 3600, 16)}).passed
    assert funding_gaps({}).passed


@given(st.sets(st.integers(1, 48), max_size=20))
def test_every_funding_missing_from_eight_hour_intervals_is_found(missing: set[int]) -> None:
    stored = [number for number in range(50) if number not in missing]
    found = funding_gaps({"A": at(*(8 * number for number in stored))})
    gaps = sum(later - earlier > 1 for earlier, later in pairwise(stored))
    assert (found.failing_count, found.passed) == (gaps, not gaps)


def test_missing_periods_are_counted() -> None:
    times = [START + timedelta(minutes=5 * number) for number in (0, 1, 2, 5, 6)]
    found = periods_missing({"A": times, "B": times[:3]})
    assert "2 periods missing in 1 gaps" in found.description
    assert not found.passed
    assert periods_missing({"B": times[:3]}).passed


def test_symbol_without_rows_or_with_lag_is_listed() -> None:
    clock = START + timedelta(hours=10)
    limit = timedelta(hours=9)
    assert symbols_behind({"A": at(1)}, ["A"], clock, limit).passed
    found = symbols_behind({"A": at(0), "B": at(2)}, ["A", "B", "C"], clock, limit)
    assert [row["symbol"] for row in found.failing_rows] == ["A", "C"]
