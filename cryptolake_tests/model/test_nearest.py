"""Suggestions for mistyped names."""

from __future__ import annotations

import pytest

from cryptolake_assets.model.nearest import did_you_mean, nearest

ASSETS = ("bronze/futures_trades", "silver/futures_ohlcv_1m", "gold/futures_daily_stats", "marts/ohlcv_1h")
TABLES = tuple(f"cryptolake.{name.replace('/', '.')}" for name in ASSETS)


@pytest.mark.parametrize(
    "typed",
    [
        *("silver/futures_ohlcv_1", "silver.futures_ohlcv_1m", "futures_ohlcv_1m", "SILVER/FUTURES_OHLCV_1M"),
        *("slver/futures_ohlcv_1m", "cryptolake.silver.futures_ohlcv_1m", "silver/futures_ohlcv_1m/"),
    ],
)
def test_nearest_name_is_suggested(typed: str) -> None:
    assert nearest(typed, ASSETS) == ["silver/futures_ohlcv_1m"]
    assert nearest(typed, TABLES) == ["cryptolake.silver.futures_ohlcv_1m"]


def test_names_containing_the_typed_text_are_suggested() -> None:
    assert set(nearest("ohlcv", ASSETS)) == {"silver/futures_ohlcv_1m", "marts/ohlcv_1h"}


@pytest.mark.parametrize("typed", ["", "/", "zookeeper", "币安人生USDT"])
def test_no_name_is_suggested_without_a_similar_one(typed: str) -> None:
    assert nearest(typed, ASSETS) == []
    assert did_you_mean(typed, ASSETS) == ""


def test_names_in_any_script_are_compared() -> None:
    assert did_you_mean("币安人生USD", ["币安人生USDT", "BTCUSDT"]) == "Did you mean 币安人生USDT?"


def test_at_most_three_names_are_suggested() -> None:
    known = [f"ohlcv_{minutes}m" for minutes in (1, 2, 3, 4)]
    assert did_you_mean("ohlcv", known) == "Did you mean ohlcv_1m, ohlcv_2m or ohlcv_3m?"
    assert did_you_mean("ohlcv", known[:2]) == "Did you mean ohlcv_1m or ohlcv_2m?"
