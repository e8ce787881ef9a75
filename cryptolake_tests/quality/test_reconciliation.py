"""Comparison of a bar with its official kline."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from typing import Any

from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.quality.reconciliation import COIN_M_FIELDS, FIELDS, Verdict, compare

KLINE = Kline(0, "1.5", "2.0", "1.0", "1.70", "10.000", 59_999, "15.0", 3, "4", "6.1")


def bar(**changes: Any) -> dict[str, Any]:
    values = {name: Decimal(getattr(KLINE, name)) for name in FIELDS if name != "trades"}
    return {"exchange": "binance_futures", "symbol": "BTCUSDT", "is_complete": True, "trades": 3, **values, **changes}


def test_bar_with_the_values_of_its_kline_is_equal() -> None:
    assert compare(bar(), KLINE).verdict is Verdict.EQUAL


def test_difference_of_one_digit_is_shown_with_both_values() -> None:
    result = compare(bar(high=Decimal("2.00000001")), KLINE)
    assert result.verdict is Verdict.DIFFERS
    assert str(result) == "differs: high 2.00000001, official 2.0"


def test_every_value_of_a_kline_is_compared() -> None:
    values = {field.name for field in fields(Kline)} - {"open_time_ms", "close_time_ms"}
    assert set(FIELDS) == values
    for name in FIELDS:
        result = compare(bar(**{name: 99}), KLINE)
        assert [item.field for item in result.differences] == [name]


def test_incomplete_bar_is_not_compared_and_missing_kline_is_no_reference() -> None:
    assert compare(bar(is_complete=False, high=Decimal(9)), KLINE).verdict is Verdict.INCOMPLETE
    assert compare(bar(), None).verdict is Verdict.NO_REFERENCE


def test_coin_m_bar_is_compared_without_quote_volumes() -> None:
    other = {
        "exchange": "binance_futures_coin",
        "symbol": "BTCUSD_PERP",
        "quote_volume": Decimal(7),
        "taker_buy_quote_volume": Decimal(8),
    }
    assert compare(bar(**other), KLINE).verdict is Verdict.EQUAL
    assert set(FIELDS) - set(COIN_M_FIELDS) == {"quote_volume", "taker_buy_quote_volume"}
    for name in COIN_M_FIELDS:
        assert [item.field for item in compare(bar(**other, **{name: 99}), KLINE).differences] == [name]
    assert compare(bar(**other | {"exchange": "binance_spot"}), KLINE).verdict is Verdict.DIFFERS
