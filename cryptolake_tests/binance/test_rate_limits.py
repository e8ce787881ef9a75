"""The budget of request weight: its share, the exchange's own count, and its pauses, for all who share it."""

from __future__ import annotations

import pytest

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.errors import ExchangeError


class Clock:
    """Goes on by what is slept."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0  # 20 s into a minute

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> WeightBudget:
    return WeightBudget(0.5, limit=100, now=clock.now, sleep=clock.sleep)


async def asked(budget: WeightBudget, clock: Clock, requests: int, used: str | None = None) -> list[float]:
    """Seconds of the clock at which requests of weight 20 could be sent, one after the other."""
    sent = []
    for _ in range(requests):
        await budget.take(20, patience_s=1e9)
        sent.append(clock.now_s - 1_700_000_000)
        budget.answered(20, used)
    return sent


async def test_a_share_of_each_minute_is_used(budget: WeightBudget, clock: Clock) -> None:
    assert await asked(budget, clock, 5) == [0, 0, 40, 40, 100]


async def test_what_others_used_by_the_exchanges_count_is_respected(budget: WeightBudget, clock: Clock) -> None:
    assert await asked(budget, clock, 1, used="90") == [0]
    assert await asked(budget, clock, 1) == [40]


async def test_a_minute_allows_one_request_however_little_it_allows(clock: Clock) -> None:
    assert await asked(WeightBudget(0.01, limit=100, now=clock.now, sleep=clock.sleep), clock, 2) == [0, 40]


async def test_urgent_requests_do_not_wait_for_their_share(budget: WeightBudget, clock: Clock) -> None:
    await asked(budget, clock, 2)
    await budget.take(1, patience_s=0.0, urgent=True)
    assert clock.now_s == 1_700_000_000


async def test_a_pause_holds_back_everybody_and_fails_who_cannot_wait(budget: WeightBudget, clock: Clock) -> None:
    budget.block(7_200)
    with pytest.raises(ExchangeError, match="no request for another 7200 s"):
        await budget.take(1, patience_s=60.0, urgent=True)
    budget.block(5)
    assert await asked(budget, clock, 1) == [7_200]
    assert budget.blocked_s == 0


async def test_weight_under_way_counts_beside_the_exchanges_count(budget: WeightBudget, clock: Clock) -> None:
    await budget.take(20, 0.0)
    await budget.take(20, 0.0)
    budget.answered(20, "20")
    await budget.take(20, 60.0)
    assert clock.now_s > 1_700_000_000, "20 were used, 20 are under way: no room for 20 more"
