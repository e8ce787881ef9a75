"""Parsers of request parameters."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.api.params import EARLIEST, LATEST, LATEST_MS, decode_cursor, encode_cursor, parse_time
from cryptolake_assets.api.problems import Problem

NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)
ZONED = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-31T12:00:00Z",
        "2025-01-31T12:00:00z",
        "2025-01-31 12:00:00",
        "2025-01-31T14:00:00+02:00",
        "2025-01-31T14:00:00 02:00",
        "2025-01-31T12:00",
        str(int(NOON.timestamp() * 1000)),
    ],
)
def test_time_is_parsed_in_every_form(text: str) -> None:
    assert parse_time(text) == NOON


def test_date_is_parsed_as_midnight() -> None:
    assert parse_time("2025-01-31") == NOON.replace(hour=0)


@pytest.mark.parametrize("text", ["", "noon", "2025-02-30", "1e3", "-5", "NaN", "2025-01-31T12:00:00+99:00"])
def test_invalid_time_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time|offset"):
        parse_time(text)


@pytest.mark.parametrize("text", [str(LATEST_MS + 1), "1738324800000000", "1738324800000000000"])
def test_epoch_in_another_unit_is_rejected_instead_of_clamped(text: str) -> None:
    assert parse_time(str(LATEST_MS)) == LATEST
    with pytest.raises(ValueError, match="in ms"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0001-01-01T00:00:00+14:00", EARLIEST),
        ("9999-12-31T23:59:59-12:00", LATEST),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_times_out_of_range_are_clamped(text: str, expected: datetime) -> None:
    assert parse_time(text) == expected


@given(ZONED)
def test_time_survives_formatting_and_parsing(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == moment


@given(
    st.integers(1, 2**63 - 1),
    ZONED,
    st.dates(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=20),
    st.decimals(-(10**9), 10**9, places=8),
)
def test_cursor_keeps_snapshot_and_position(
    snapshot_id: int, moment: datetime, day: date, number: int, text: str, price: Decimal
) -> None:
    position = (moment, day, number, text, price)
    types = ("timestamptz", "date", "long", "string", "decimal(18, 8)")
    assert decode_cursor(encode_cursor("route", snapshot_id, position), "route", types) == (snapshot_id, position)
    with pytest.raises(Problem) as rejection:
        decode_cursor(encode_cursor("route", snapshot_id, position), "another", types)
    assert (rejection.value.status, rejection.value.title) == (400, "Cursor of another request")


@given(st.text(alphabet="ABCabc0189_-", min_size=1, max_size=60))
def test_arbitrary_text_is_not_a_cursor(text: str) -> None:
    with pytest.raises(Problem) as rejection:
        decode_cursor(text, "route", ("timestamptz", "string"))
    assert rejection.value.status == 404
