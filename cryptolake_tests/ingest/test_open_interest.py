"""Open interest: recorded and documented responses, history windows, and rejected responses."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.ingest.batch_source import ParsedResponse, Plan, Row
from cryptolake_assets.ingest.futures_rest import bounded, epoch_ms
from cryptolake_assets.ingest.open_interest import MAX_HISTORY, PAGE, SOURCE, parse_history, parse_present
from cryptolake_assets.model.derivatives_tables import SILVER_OPEN_INTEREST
from cryptolake_assets.model.source_facts import OPEN_INTEREST_PERIOD
from cryptolake_tests.support.strategies import HOSTILE

RECORDED = Path(__file__).parent / "recorded" / "binance"
CLOCK = datetime(2026, 11, 26, 9, 31, tzinfo=UTC)
DAY = datetime(2026, 11, 26, tzinfo=UTC)
STATISTIC = {
    "symbol": "BTCUSDT",
    "sumOpenInterest": "104882.705",
    "sumOpenInterestValue": "6653666199.09",
    "timestamp": 1_721_347_200_000,
}
PRESENT = {"symbol": "BTCUSDT", "openInterest": "83782.317", "time": 1_702_244_985_273}


def rows_of(parsed: ParsedResponse) -> list[Row]:
    assert parsed.rejected_rows == ()
    return parsed.rows[SILVER_OPEN_INTEREST.name]


def body(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_recorded_present_value_is_parsed() -> None:
    (row,) = rows_of(parse_present((RECORDED / "open_interest_present.json").read_bytes(), "BTCUSDT", CLOCK))
    assert row == {
        "exchange": "binance_futures",
        "symbol": "BTCUSDT",
        "observed_at": datetime(2023, 12, 10, 21, 49, 45, 273_000, tzinfo=UTC),
        "source": "present",
        "open_interest": Decimal("83782.317"),
        "open_interest_value": None,
    }


def test_documented_history_and_one_with_numeric_times_are_parsed() -> None:
    documented = (RECORDED / "open_interest_history.json").read_bytes()
    rows = rows_of(parse_history(documented, "BTCUSDT", CLOCK))
    assert [row["observed_at"] for row in rows] == [
        datetime(2020, 3, 2, 5, 45, tzinfo=UTC),
        datetime(2020, 3, 2, 5, 50, tzinfo=UTC),
    ]
    assert rows[0]["open_interest_value"] == Decimal("150570784.07809979")
    (row,) = rows_of(parse_history(body([STATISTIC]), "BTCUSDT", CLOCK))
    assert (row["source"], row["open_interest"]) == ("history", Decimal("104882.705"))
    parsed = SOURCE.parse("openInterestHist/BTCUSDT", documented, CLOCK)
    assert parsed.rows == {SILVER_OPEN_INTEREST.name: rows}


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        ({**STATISTIC, "sumOpenInterest": 1}, "expected a number in quotes"),
        ({**STATISTIC, "sumOpenInterestValue": None}, "expected a number in quotes"),
        ({**STATISTIC, "sumOpenInterest": "0.123456789"}, "open_interest .* does not fit"),
        ({**STATISTIC, "sumOpenInterest": "-1"}, "open_interest -1 at .* is negative"),
        ({**STATISTIC, "timestamp": 1_721_347_200_001}, "is not the start of a five-minute period"),
        ({**STATISTIC, "timestamp": epoch_ms(CLOCK + timedelta(minutes=9))}, "after the exchange's clock"),
        ({**STATISTIC, "symbol": "ETHUSDT"}, "symbol is 'ETHUSDT', expected BTCUSDT"),
        ({**STATISTIC, "timestamp": 1_721_340_000_000, "sumOpenInterest": "2"}, "has other values for observed_at"),
        (None, "expected an object"),
    ],
)
def test_malformed_row_is_rejected_and_does_not_block_others(malformed: Any, reason: str) -> None:
    sound = [{**STATISTIC, "timestamp": moment} for moment in (1_721_340_600_000, 1_721_340_000_000)]
    parsed = parse_history(body([*sound, malformed]), "BTCUSDT", CLOCK)
    assert [epoch_ms(row["observed_at"]) for row in parsed.rows[SILVER_OPEN_INTEREST.name]] == [
        1_721_340_000_000,
        1_721_340_600_000,
    ]
    (rejected_rows,) = parsed.rejected_rows
    assert re.match(f"BTCUSDT: .*{reason}", rejected_rows)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (body({"code": -1130, "msg": "parameter 'startTime' is invalid."}), "expected an array"),
        (b"[1, 2", "not JSON"),
    ],
)
def test_response_of_another_shape_is_rejected_with_its_reason(response: bytes, reason: str) -> None:
    with pytest.raises(ResponseRejectedError, match=reason):
        parse_history(response, "BTCUSDT", CLOCK)


def test_present_value_with_a_future_time_is_rejected() -> None:
    late = body({**PRESENT, "time": epoch_ms(CLOCK + timedelta(hours=1))})
    with pytest.raises(ResponseRejectedError, match="after the exchange's clock"):
        SOURCE.parse("openInterest/BTCUSDT", late, CLOCK)


@given(st.sampled_from(sorted(STATISTIC)), HOSTILE)
@example("sumOpenInterest", "0.00000001")
def test_hostile_value_is_rejected_or_fits_its_column(name: str, value: Any) -> None:
    response = body([{**STATISTIC, name: value}])
    if b"NaN" in response or b"Infinity" in response:
        return  # invalid JSON
    parsed = parse_history(response, "BTCUSDT", CLOCK)
    rows = parsed.rows[SILVER_OPEN_INTEREST.name]
    assert len(rows) + len(parsed.rejected_rows) == 1
    assert rows or (name, value) != ("sumOpenInterest", "0.00000001")
    import pyarrow as pa

    pa.Table.from_pylist([{**row, "updated_at": None} for row in rows], schema=SILVER_OPEN_INTEREST.arrow_schema())


@given(st.sampled_from(sorted(PRESENT)), HOSTILE)
@example("openInterest", "0.00000001")
def test_hostile_present_value_is_rejected_or_stored_unchanged(name: str, value: Any) -> None:
    try:
        (row,) = rows_of(parse_present(body({**PRESENT, name: value}), "BTCUSDT", CLOCK))
    except ResponseRejectedError:
        assert (name, value) != ("openInterest", "0.00000001")
        return
    assert row["open_interest"] == Decimal(str(value if name == "openInterest" else PRESENT["openInterest"]))


def windows(newest: dict[str, datetime], day_start: datetime) -> list[tuple[datetime, datetime]]:
    return [
        tuple(datetime.fromtimestamp(int(request.params[name]) / 1000, UTC) for name in ("startTime", "endTime"))  # type: ignore[misc]
        for request in SOURCE.requests(newest, day_start, CLOCK, ("BTCUSDT",))
        if "period" in request.params
    ]


@given(st.none() | st.timedeltas(timedelta(0), timedelta(days=40)), st.integers(0, 35))
def test_windows_have_at_most_a_page_and_no_gaps(age: timedelta | None, days: int) -> None:
    newest = {} if age is None else {"BTCUSDT": CLOCK - age}
    day_start = DAY - timedelta(days=days)
    found = windows(newest, day_start)
    assert found[0][0] >= CLOCK - MAX_HISTORY
    assert found[0][0] <= max(newest.get("BTCUSDT", CLOCK), CLOCK - MAX_HISTORY + OPEN_INTEREST_PERIOD)
    assert found[0][0] <= max(day_start, CLOCK - MAX_HISTORY + OPEN_INTEREST_PERIOD)
    assert CLOCK - OPEN_INTEREST_PERIOD < found[-1][1] <= CLOCK, "no period has ended since"
    for start, end in found:
        assert (end - start) // OPEN_INTEREST_PERIOD < PAGE
    for (_, end), (start, _) in pairwise(found):
        assert start == end + OPEN_INTEREST_PERIOD


def test_present_value_is_requested_for_the_present_day_only() -> None:
    paths = [request.path for request in SOURCE.requests({}, DAY, CLOCK, ("BTCUSDT", "ETHUSDT"))]
    assert paths.count("/fapi/v1/openInterest") == 2
    assert len(paths) == 2 * (1 + 18)
    earlier = SOURCE.requests({}, DAY - timedelta(days=1), CLOCK, ("BTCUSDT",))
    assert "/fapi/v1/openInterest" not in [request.path for request in earlier]


def test_bounded_plan_ends_at_the_limit_and_passes_on_the_responses() -> None:
    def requests() -> Plan:
        for number in range(5):
            parsed = yield HttpRequest(f"/{number}", endpoint="endpoint")
            received.append(parsed)

    received: list[ParsedResponse | None] = []
    responses = [ParsedResponse({}), None, ParsedResponse({})]
    steps = bounded(requests(), 3)
    paths = [next(steps).path, *(steps.send(response).path for response in responses[:2])]
    with pytest.raises(StopIteration):
        steps.send(responses[2])
    assert paths == ["/0", "/1", "/2"]
    assert received == responses
    assert [request.path for request in bounded(requests(), 9)] == [f"/{number}" for number in range(5)]
    assert list(bounded(requests(), 0)) == []
