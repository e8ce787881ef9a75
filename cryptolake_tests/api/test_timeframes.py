"""Bars of longer timeframes, rolled up from one-minute bars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.api.params import Timeframe
from cryptolake_assets.api.timeframes import LENGTHS, open_time, rolled_bars
from cryptolake_assets.model.bar_state import BarState
from cryptolake_assets.model.windows import DAY, MINUTE
from cryptolake_tests.support.bronze import trade
from cryptolake_tests.support.reference import reference_bars

START = datetime(2025, 3, 4, tzinfo=UTC)


def minutes_of(trades: list[dict[str, Any]], state: BarState = BarState.FINAL) -> list[dict[str, Any]]:
    """Return the one-minute bars of the trades, with all columns of Silver and their state."""
    return [
        {
            **bar,
            "exchange": exchange,
            "symbol": symbol,
            "window_start": start,
            "is_complete": state is BarState.FINAL,
            "evidence": "ids",
            "updated_at": start,
            "stream": "trade",
            "state": state,
        }
        for (exchange, symbol, start), bar in sorted(reference_bars(trades).items())
    ]


TRADES = st.lists(
    st.builds(
        lambda second, price, qty: (second, f"{Decimal(price).scaleb(-8):f}", f"{Decimal(qty).scaleb(-8):f}"),
        st.integers(0, 86_399),
        st.integers(1, 10**17),
        st.integers(1, 10**13),
    ),
    min_size=1,
    max_size=40,
)


@given(trades=TRADES, timeframe=st.sampled_from(list(Timeframe)))
def test_rolled_bars_equal_those_of_all_trades(trades: list[tuple[int, str, str]], timeframe: Timeframe) -> None:
    made = [
        trade(START + timedelta(seconds=second), number, price=price, qty=qty)
        for number, (second, price, qty) in enumerate(sorted(trades))
    ]
    length = LENGTHS[timeframe]
    expected = reference_bars(made, length // MINUTE)
    rolled = {bar["window_start"]: bar for bar in rolled_bars(minutes_of(made), length)}
    assert {start: {name: rolled[start][name] for name in bar} for (_, _, start), bar in expected.items()} == {
        start: bar for (_, _, start), bar in expected.items()
    }
    assert len(rolled) == len(expected)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([BarState.FINAL] * 5, BarState.FINAL),
        ([BarState.FINAL] * 4, BarState.PUBLISHED),
        ([BarState.FINAL] * 4 + [BarState.PUBLISHED], BarState.PUBLISHED),
        ([BarState.FINAL] * 4 + [BarState.PROVISIONAL], BarState.PROVISIONAL),
        ([BarState.PROVISIONAL] * 4 + [BarState.BLOCKED], BarState.BLOCKED),
    ],
)
def test_bar_is_as_far_as_its_least_far_minute(states: list[BarState], expected: BarState) -> None:
    minutes = [
        {**bar, "state": state, "is_complete": state is BarState.FINAL}
        for bar, state in zip(minutes_of([trade(START + n * MINUTE, n) for n in range(5)]), states, strict=False)
    ]
    (bar,) = rolled_bars(minutes, 5 * MINUTE)
    assert (bar["state"], bar["is_complete"]) == (expected, expected is BarState.FINAL)
    assert bar["evidence"] == ("ids" if expected is BarState.FINAL else None)


def test_open_times_are_those_of_whole_lengths() -> None:
    for length in LENGTHS.values():
        times = [open_time(START + number * MINUTE, length) for number in range(1_441)]
        assert times[0] == START
        assert times[-1] == START + DAY
        assert {later - earlier for earlier, later in pairwise(times)} <= {timedelta(0), length}
