"""A provisional bar and the bar that Silver publishes of the same trades are equal, or the difference has a cause."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cryptolake_assets.live.settlement import COMPARED, Settled, SettledOutcome, outcome

BAR: dict[str, Any] = dict.fromkeys(COMPARED, Decimal("1.50000000"))
OTHER = {**BAR, "close": Decimal("1.50000001")}


def settled(bar: dict[str, Any] | None = BAR, **facts: bool) -> Settled:
    known = {"has_copies": False, "has_out_of_range": False, "is_behind": False, **facts}
    return Settled((0, ("binance_futures", "BTCUSDT")), bar, **known)


def test_equal_values_are_equal_whatever_may_explain_a_difference() -> None:
    published = {**BAR, "is_complete": True, "evidence": "ids"}
    assert outcome(settled(has_copies=True, is_behind=True), published) is SettledOutcome.EQUAL
    assert outcome(settled(None), None) is SettledOutcome.EQUAL


@pytest.mark.parametrize("published", [OTHER, None])
@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, SettledOutcome.UNEXPLAINED),
        ({"has_out_of_range": True}, SettledOutcome.QUARANTINED),
        ({"has_out_of_range": True, "has_copies": True}, SettledOutcome.COPIES),
        ({"is_behind": True, "has_copies": True}, SettledOutcome.LATE),
    ],
)
def test_difference_has_the_strongest_cause(
    published: dict[str, Any] | None, facts: dict[str, Any], expected: SettledOutcome
) -> None:
    assert outcome(settled(**facts), published) is expected


def test_bar_that_only_silver_has_differs() -> None:
    assert outcome(settled(None), BAR) is SettledOutcome.UNEXPLAINED


def test_all_measures_are_compared() -> None:
    assert {"open", "high", "low", "close", "volume", "quote_volume", "vwap", "trades"} <= set(COMPARED)
