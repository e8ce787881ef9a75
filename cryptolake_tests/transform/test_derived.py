"""Columns derived from a bar's sums, and the choice of the stream that makes the bar."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.measures import ratio, realised_volatility
from cryptolake_assets.quality.minute_bars import bars_from_aggregates

MINUTE = datetime(2024, 7, 19, tzinfo=UTC)
volumes = st.decimals(min_value="0.00000001", max_value="99999999999999999999", places=8)
quotes = st.decimals(min_value=0, max_value="999999999999999999999", places=16)


@given(quotes, volumes)
def test_ratio_rounds_half_up_like_decimal(numerator: Decimal, denominator: Decimal) -> None:
    with localcontext() as context:
        context.prec = 120
        expected = (numerator / denominator).quantize(Decimal("1e-8"), ROUND_HALF_UP)
    # Outside the wide context: the product code runs with Python's default of 28 digits.
    assert ratio(numerator, denominator) == expected


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [("1", "3", "0.33333333"), ("2", "3", "0.66666667"), ("0.000000005", "1", "0.00000001"), ("0", "5", "0")],
)
def test_ratio_examples(numerator: str, denominator: str, expected: str) -> None:
    assert ratio(Decimal(numerator), Decimal(denominator)) == Decimal(expected)


@given(st.lists(st.decimals(min_value="0.00000001", max_value="9999999999", places=8), max_size=30))
def test_realised_volatility_is_exact_to_twelve_digits(closes: list[Decimal]) -> None:
    with localcontext() as context:
        context.prec = 60
        steps = [later.ln() - earlier.ln() for earlier, later in pairwise(closes)]
        expected = sum((step * step for step in steps), Decimal(0)).sqrt()
    assert realised_volatility(closes) == pytest.approx(float(expected), rel=1e-12, abs=0)


def test_realised_volatility_of_the_smallest_move() -> None:
    closes = [Decimal("9999999999.99999998"), Decimal("9999999999.99999999")]
    assert realised_volatility(closes) == pytest.approx(1e-18, rel=1e-12, abs=0)


def aggregate(stream: str, **changes: Any) -> dict[str, Any]:
    row = {
        "exchange": "binance_futures",
        "symbol": "BTCUSDT",
        "stream": stream,
        "window_start": MINUTE,
        "trades": 2,
        "first_trade_id": 1,
        "last_trade_id": 2,
        "trades_dropped": 0,
    }
    decimals = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    return {**row, **dict.fromkeys(decimals, Decimal("1.00000000")), **changes}


def bars(*rows: dict[str, Any], complete: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = bars_from_aggregates(
        pa.Table.from_pylist(list(rows)),
        lambda _, __, stream, ___: Evidence.BARRIER if stream in complete else None,
        FUTURES.bars.arrow_schema(),
    ).to_pylist()
    return made


def test_single_trades_take_precedence_and_streams_are_not_mixed() -> None:
    (bar,) = bars(aggregate("aggTrade", trades=7), aggregate("trade", trades=5))
    assert bar["trades"] == 5


def test_complete_stream_takes_precedence() -> None:
    (bar,) = bars(aggregate("aggTrade", trades=7), aggregate("trade", trades=5), complete=("aggTrade",))
    assert (bar["trades"], bar["is_complete"], bar["evidence"]) == (7, True, "barrier")
