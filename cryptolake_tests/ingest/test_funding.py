"""Funding rates: the recorded response, paging, and rejected responses."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.ingest.batch_source import ParsedResponse, Row
from cryptolake_assets.ingest.funding import FIRST, PAGE, SOURCE, parse_rates
from cryptolake_assets.ingest.futures_rest import epoch_ms
from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING
from cryptolake_tests.support.strategies import HOSTILE

RECORDED = Path(__file__).parent / "recorded" / "binance" / "funding_rate.json"
CLOCK = datetime(2026, 11, 26, tzinfo=UTC)
FUNDING = {"symbol": "BTCUSDT", "fundingRate": "0.00010000", "fundingTime": 1_721_347_200_000, "markPrice": "64000.1"}


def body(*rows: Any) -> bytes:
    return json.dumps(rows).encode()


def rates_of(response: bytes, symbol: str = "BTCUSDT") -> list[Row]:
    parsed = parse_rates(response, symbol, CLOCK)
    assert parsed.rejected_rows == ()
    return parsed.rows[SILVER_FUNDING.name]


def test_recorded_response_is_parsed() -> None:
    (row,) = rates_of(RECORDED.read_bytes(), "LTCUSDT")
    assert row == {
        "exchange": "binance_futures",
        "symbol": "LTCUSDT",
        "funding_time": datetime(2020, 10, 16, 0, 0, 0, 2000, tzinfo=UTC),
        "funding_rate": Decimal("0.00018534"),
        "mark_price": None,
    }
    assert str(row["funding_rate"]) == "0.000185340000"
    assert SOURCE.parse("fundingRate/LTCUSDT", RECORDED.read_bytes(), CLOCK).rows == {SILVER_FUNDING.name: [row]}


def test_empty_mark_price_is_none() -> None:
    (row,) = rates_of(body({**FUNDING, "markPrice": ""}))
    assert row["mark_price"] is None


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        ({**FUNDING, "fundingRate": 0.0001}, "expected a number in quotes"),
        ({**FUNDING, "fundingRate": "1e-4"}, "expected a number in quotes"),
        ({**FUNDING, "fundingRate": "NaN"}, "expected a number in quotes"),
        ({**FUNDING, "fundingRate": ""}, "expected a number in quotes"),
        ({**FUNDING, "fundingRate": "\u0661"}, "expected a number in quotes"),
        ({**FUNDING, "fundingRate": "1234567"}, "funding_rate 1234567 at .* is outside ±0.1"),
        ({**FUNDING, "fundingRate": "-0.11"}, "funding_rate -0.11 at .* is outside ±0.1"),
        ({**FUNDING, "fundingRate": "0.0000000000001"}, "funding_rate .* does not fit"),
        ({**FUNDING, "markPrice": "0.123456789"}, "mark_price .* does not fit"),
        ({**FUNDING, "markPrice": "0.00"}, "mark_price 0.00 at .* is not positive"),
        ({**FUNDING, "fundingTime": -1}, "expected milliseconds"),
        ({**FUNDING, "fundingTime": 1e30}, "expected milliseconds"),
        ({**FUNDING, "fundingTime": 10**18}, "expected milliseconds"),
        ({**FUNDING, "fundingTime": epoch_ms(CLOCK) + 120_000}, "after the exchange's clock"),
        ({**FUNDING, "symbol": "ETHUSDT"}, "symbol is 'ETHUSDT', expected BTCUSDT"),
        ({name: FUNDING[name] for name in ("symbol", "fundingRate")}, "has no fundingTime"),
        ({**FUNDING, "fundingRate": "0.0002", "fundingTime": 1_721_340_000_000}, "has other values for funding_time"),
        (None, "expected an object"),
    ],
)
def test_malformed_row_is_rejected_and_does_not_block_others(malformed: Any, reason: str) -> None:
    sound = [{**FUNDING, "fundingTime": moment} for moment in (1_721_368_800_000, 1_721_340_000_000)]
    parsed = parse_rates(body(*sound, malformed), "BTCUSDT", CLOCK)
    assert [epoch_ms(row["funding_time"]) for row in parsed.rows[SILVER_FUNDING.name]] == [
        1_721_340_000_000,
        1_721_368_800_000,
    ]
    (rejected_rows,) = parsed.rejected_rows
    assert re.match(f"BTCUSDT: .*{reason}", rejected_rows)


def test_duplicate_row_is_stored_once() -> None:
    assert len(rates_of(body(FUNDING, FUNDING))) == 1


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b'{"code": -1121, "msg": "Invalid symbol."}', "expected an array"),
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_response_of_another_shape_is_rejected_with_its_reason(response: bytes, reason: str) -> None:
    with pytest.raises(ResponseRejectedError, match=reason):
        parse_rates(response, "BTCUSDT", CLOCK)


@given(st.sampled_from(sorted(FUNDING)), HOSTILE)
@example("fundingRate", "-0.00000550")
@example("markPrice", "")
def test_hostile_value_is_rejected_or_fits_its_column(name: str, value: Any) -> None:
    response = body({**FUNDING, name: value})
    if b"NaN" in response or b"Infinity" in response:
        return  # invalid JSON
    parsed = parse_rates(response, "BTCUSDT", CLOCK)
    rows = parsed.rows[SILVER_FUNDING.name]
    assert len(rows) + len(parsed.rejected_rows) == 1
    assert rows or (name, value) not in (("fundingRate", "-0.00000550"), ("markPrice", ""))
    import pyarrow as pa

    pa.Table.from_pylist([{**row, "updated_at": None} for row in rows], schema=SILVER_FUNDING.arrow_schema())


@given(st.lists(st.tuples(st.integers(1, 10**7), st.decimals("-0.1", "0.1", places=8)), min_size=1, max_size=20))
def test_rates_are_returned_exactly_and_in_order_of_time(sent: list[tuple[int, Decimal]]) -> None:
    moments, time_ms = [], 0
    for step, _ in sent:
        time_ms += step
        moments.append(time_ms)
    items = [
        {**FUNDING, "fundingTime": moment, "fundingRate": f"{rate:f}"}
        for moment, (_, rate) in zip(moments, sent, strict=True)
    ]
    rows = rates_of(body(*items))
    assert [(epoch_ms(row["funding_time"]), row["funding_rate"]) for row in rows] == list(
        zip(moments, (rate for _, rate in sent), strict=True)
    )


def requests(newest: dict[str, datetime], day_start: datetime, pages: dict[str, list[list[Row]]]) -> list[HttpRequest]:
    """Return the plan's requests; each gets the symbol's next page, or is rejected without one."""
    steps = SOURCE.requests(newest, day_start, CLOCK, tuple(pages))
    sent, request = [], next(steps, None)
    while request is not None:
        sent.append(request)
        remaining = pages[str(request.params["symbol"])]
        parsed = ParsedResponse({SILVER_FUNDING.name: remaining.pop(0)}) if remaining else None
        try:
            request = steps.send(parsed)
        except StopIteration:
            break
    return sent


def full_page(start: datetime) -> list[Row]:
    return [{"funding_time": start + number * timedelta(hours=8)} for number in range(PAGE)]


def test_full_history_is_requested_page_by_page_then_rates_since_the_newest() -> None:
    first = full_page(FIRST)
    sent = requests({}, CLOCK, {"BTCUSDT": [first, []], "ETHUSDT": []})
    starts = [(request.params["symbol"], request.params["startTime"]) for request in sent]
    after = epoch_ms(first[-1]["funding_time"]) + 1
    assert starts == [("BTCUSDT", epoch_ms(FIRST)), ("BTCUSDT", after), ("ETHUSDT", epoch_ms(FIRST))]
    assert {request.endpoint for request in sent} == {"fundingRate/BTCUSDT", "fundingRate/ETHUSDT"}
    day = CLOCK - timedelta(days=2)
    newest = {"BTCUSDT": CLOCK - timedelta(hours=8), "ETHUSDT": day - timedelta(days=9)}
    later = requests(newest, day, {"BTCUSDT": [], "ETHUSDT": []})
    assert [request.params["startTime"] for request in later] == [epoch_ms(day), epoch_ms(newest["ETHUSDT"])]


@pytest.mark.parametrize(
    ("valid", "malformed", "has_more"), [(PAGE - 1, 1, True), (PAGE - 2, 1, False), (0, PAGE, False)]
)
def test_malformed_rows_count_toward_a_full_page_and_paging_advances(
    valid: int, malformed: int, has_more: bool
) -> None:
    steps = SOURCE.requests({}, CLOCK, CLOCK, ("BTCUSDT",))
    next(steps)
    parsed = ParsedResponse({SILVER_FUNDING.name: full_page(FIRST)[:valid]}, ("malformed",) * malformed)
    try:
        start_ms = steps.send(parsed).params["startTime"]
    except StopIteration:
        assert not has_more
    else:
        assert has_more
        assert start_ms == epoch_ms(full_page(FIRST)[valid - 1]["funding_time"]) + 1
