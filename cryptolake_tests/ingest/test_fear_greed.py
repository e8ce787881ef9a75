"""The index with its recorded history, and rejected responses."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.captures.recorded_names import FEAR_GREED_FILE
from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.ingest.batch_source import Row
from cryptolake_assets.ingest.fear_greed import parse_days, plan
from cryptolake_assets.model.source_facts import FIRST_DAY, KNOWN_MISSING, missing_days
from cryptolake_assets.model.source_tables import SILVER_FEAR_GREED
from cryptolake_assets.quality.batch_checks import days_missing, newest_row
from cryptolake_assets.settings import DEMO_CAPTURE_DIR

RECORDED: list[dict[str, str]] = json.loads((DEMO_CAPTURE_DIR / FEAR_GREED_FILE).read_text())
LAST = date(2026, 6, 6)


def response(data: Any, error: Any = None) -> bytes:
    return json.dumps({"name": "Fear and Greed Index", "data": data, "metadata": {"error": error}}).encode()


def days_of(body: bytes) -> list[Row]:
    parsed = parse_days(body, LAST)
    assert parsed.rejected_rows == ()
    return parsed.rows[SILVER_FEAR_GREED.name]


def day(number: int, value: int = 50) -> dict[str, str]:
    moment = datetime.combine(FIRST_DAY, datetime.min.time(), UTC) + timedelta(days=number)
    return {"value": str(value), "value_classification": "Neutral", "timestamp": str(int(moment.timestamp()))}


def test_full_recorded_history_is_parsed() -> None:
    rows = days_of(response(RECORDED))
    assert len(rows) == 3_044
    assert rows[0] == {"index_date": FIRST_DAY, "value": 30, "classification": "Fear"}
    assert rows[-1] == {"index_date": LAST, "value": 12, "classification": "Extreme Fear"}
    by_day = {row["index_date"]: row["value"] for row in rows}
    for item in RECORDED:
        assert by_day[datetime.fromtimestamp(int(item["timestamp"]), UTC).date()] == int(item["value"])


def test_known_missing_days_pass_and_another_missing_day_warns() -> None:
    stored = [row["index_date"] for row in days_of(response(RECORDED))]
    assert set(missing_days(stored, LAST)) == KNOWN_MISSING
    assert days_missing(stored).passed
    assert "2018-04-14" in days_missing(stored).description
    outcome = days_missing([day for day in stored if day != date(2021, 5, 3)])
    assert not outcome.passed
    assert outcome.failing_rows == [{"index_date": "2021-05-03"}]
    assert not days_missing([]).passed


def test_newest_row_warns_from_two_days_behind_the_sources_clock_on() -> None:
    assert newest_row([LAST], LAST + timedelta(days=1)).passed
    assert not newest_row([LAST], LAST + timedelta(days=2)).passed


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        (day(1, 101), "outside 0 to 100"),
        ({**day(1), "value": "-1"}, "digits in quotes"),
        ({**day(1), "value": 50}, "digits in quotes"),
        ({**day(1), "value": "\u0665\u0660"}, "digits in quotes"),
        (day(2, 60), "has other values for index_date 2018-02-03"),
        (day(-1), "is outside 2018-02-01"),
        (day(100_000), "is outside 2018-02-01"),
        ({**day(1), "timestamp": "1517529601"}, "is not the start of a UTC day"),
        ({**day(1), "timestamp": "9" * 18}, "is not the start of a UTC day"),
        ({"value": "1", "timestamp": "1517529600"}, "has no value_classification"),
        (None, "expected an object"),
    ],
)
def test_malformed_day_is_rejected_and_does_not_block_others(malformed: Any, reason: str) -> None:
    parsed = parse_days(response([day(3), day(2), malformed, day(0)]), LAST)
    assert [(row["index_date"] - FIRST_DAY).days for row in parsed.rows[SILVER_FEAR_GREED.name]] == [0, 2, 3]
    (rejected_rows,) = parsed.rejected_rows
    assert reason in rejected_rows


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (response([day(1, 101), day(2, 101)]), "outside 0 to 100"),
        (response({"0": day(1)}), "expected an array"),
        (response([], error="Rate limit"), "Rate limit"),
        (b'{"result": [], "version": 2}', "has no metadata"),
        (b"<!DOCTYPE html><title>Just a moment...</title>", "not JSON"),
        (b"[]", "expected an object"),
    ],
)
def test_response_of_another_shape_is_rejected_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(ResponseRejectedError, match=reason):
        parse_days(body, LAST)


@given(st.dictionaries(st.integers(0, 3_000), st.integers(0, 100)), st.randoms())
def test_days_are_returned_unchanged_and_in_order(sent: dict[int, int], chance: Any) -> None:
    items = [day(number, value) for number, value in sent.items()]
    chance.shuffle(items)
    rows = days_of(response(items))
    assert [(row["index_date"], row["value"]) for row in rows] == [
        (FIRST_DAY + timedelta(days=number), value) for number, value in sorted(sent.items())
    ]


@pytest.mark.parametrize(
    ("newest", "requested", "limit"),
    [(None, LAST, 0), (LAST - timedelta(days=1), LAST, 5), (LAST, LAST, 4), (LAST, LAST - timedelta(days=30), 34)],
)
def test_first_run_requests_the_full_history_and_later_runs_the_days_since(
    newest: date | None, requested: date, limit: int
) -> None:
    (request,) = plan(newest, requested, LAST)
    assert (request.path, request.params) == ("/fng/", {"limit": limit})
