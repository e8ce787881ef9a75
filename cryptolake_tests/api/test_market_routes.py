"""The routes of funding rates, open interest, mark prices and liquidations: exact digits, symbols, ranges, formats."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pyarrow import parquet

from cryptolake_assets.model.derivatives_tables import (
    SILVER_FUNDING,
    SILVER_LIQUIDATIONS,
    SILVER_MARK_PRICE,
    SILVER_OPEN_INTEREST,
)
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import FIRST_DAY, FUTURES_EXCHANGE, SYMBOLS, Api, append, serving

HOURS = (0, 8, 16)


@pytest.fixture
def api(bars: Settings) -> Iterator[Api]:
    rates = [
        {
            "funding_time": FIRST_DAY + timedelta(hours=hour, milliseconds=2),
            "exchange": FUTURES_EXCHANGE,
            "symbol": symbol,
            "funding_rate": Decimal("-0.000000000001"),
            "mark_price": None if hour == 0 else Decimal("0.00000001"),
        }
        for hour in HOURS
        for symbol in SYMBOLS
    ]
    append(bars, SILVER_FUNDING, rates)
    values = [
        {
            "observed_at": FIRST_DAY + number * timedelta(minutes=5),
            "exchange": FUTURES_EXCHANGE,
            "symbol": "BTCUSDT",
            "source": source,
            "open_interest": Decimal("123456789012345678901234567890.12345678"),
            "open_interest_value": Decimal("0.0000000000000001") if source == "history" else None,
        }
        for number in range(2)
        for source in ("history", "present")
    ]
    append(bars, SILVER_OPEN_INTEREST, values)
    with serving(bars) as made:
        yield made


def get(api: Api, path: str) -> dict[str, Any]:
    response = api.get(path)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_funding_rates_have_every_digit_and_filter_by_symbol(api: Api) -> None:
    rates = get(api, "/funding")["rates"]
    assert [(rate["funding_time"], rate["symbol"]) for rate in rates] == [
        (f"2025-01-30T{hour:02}:00:00.002000Z", symbol) for hour in HOURS for symbol in SYMBOLS
    ]
    assert {rate["funding_rate"] for rate in rates} == {"-0.000000000001"}
    one = get(api, "/funding?symbol=ethusdt&order=desc&limit=2")
    assert [rate["mark_price"] for rate in one["rates"]] == ["0.00000001"] * 2
    rest = get(api, f"/funding?symbol=ethusdt&order=desc&limit=2&cursor={one['next_cursor']}")
    assert [rate["mark_price"] for rate in rest["rates"]] == [None]
    assert len(get(api, "/funding?start=2025-01-30T08:00:00Z&end=2025-01-30T16:00:00Z")["rates"]) == 2
    assert api.get("/funding?symbol=NOTHING").status_code == 404


def test_open_interest_has_both_sources(api: Api) -> None:
    values = get(api, "/open-interest?symbol=BTCUSDT")["values"]
    assert [(value["source"], value["open_interest_value"]) for value in values] == [
        ("history", "0.0000000000000001"),
        ("present", None),
    ] * 2
    assert values[0]["open_interest"] == "123456789012345678901234567890.12345678"
    assert get(api, "/open-interest?symbol=ETHUSDT")["values"] == []
    table = parquet.read_table(io.BytesIO(api.get("/open-interest?format=parquet").content))
    assert table.num_rows == 4


def test_mark_prices_and_liquidations_are_returned_per_minute(api: Api, bars: Settings) -> None:
    assert get(api, "/mark-price/1m?symbol=BTCUSDT")["minutes"] == []
    minute = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "window_start": FIRST_DAY}
    prices = dict.fromkeys(("open", "high", "low", "close", "index_close"), Decimal("64000.00000001"))
    append(bars, SILVER_MARK_PRICE, [{**minute, **prices, "funding_rate": None, "updates": 60}])
    sides = [
        {**minute, "side": side, "orders": 2, "qty": Decimal("0.01"), "notional": Decimal("0.0000000000000001")}
        for side in ("buy", "sell")
    ]
    append(bars, SILVER_LIQUIDATIONS, sides)
    api.refresh()
    (found,) = get(api, "/mark-price/1m?symbol=btcusdt&start=2025-01-30&end=2025-01-30T00:00:30Z")["minutes"]
    assert found["window_start"] == "2025-01-30T00:00:00Z"
    assert (found["close"], found["funding_rate"], found["updates"]) == ("64000.00000001", None, 60)
    first = get(api, "/liquidations/1m?limit=1")
    rest = get(api, f"/liquidations/1m?limit=1&cursor={first['next_cursor']}")
    assert [row["side"] for row in (*first["minutes"], *rest["minutes"])] == ["buy", "sell"]
    assert first["minutes"][0]["notional"] == "0.0000000000000001"
    assert api.get("/liquidations/1m?symbol=NOTHING").status_code == 404
