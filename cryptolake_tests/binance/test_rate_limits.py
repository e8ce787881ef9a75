"""The request-weight budget: its share, the exchange's own count, and pauses for all its clients."""

from __future__ import annotations

import pytest

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.errors import ExchangeError


class Clock:
    """A clock that sleeping advances."""

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


async def send_times(budget: WeightBudget, clock: Clock, requests: int, used: str | None = None) -> list[float]:
    """Send requests of weight 20 in sequence; return the seconds of the clock at which each was sent."""
    times = []
    for _ in range(requests):
        await budget.take(20, patience_s=1e9)
        times.append(clock.now_s - 1_700_000_000)
        budget.finish(20, used)
    return times


async def test_requests_use_a_share_of_each_minute(budget: WeightBudget, clock: Clock) -> None:
    assert await send_times(budget, clock, 5) == [0, 0, 40, 40, 100]


async def test_weight_used_by_other_processes_counts(budget: WeightBudget, clock: Clock) -> None:
    assert await send_times(budget, clock, 1, used="90") == [0]
    assert await send_times(budget, clock, 1) == [40]


async def test_each_minute_allows_at_least_one_request(clock: Clock) -> None:
    assert await send_times(WeightBudget(0.01, limit=100, now=clock.now, sleep=clock.sleep), clock, 2) == [0, 40]


async def test_urgent_requests_do_not_wait_for_their_share(budget: WeightBudget, clock: Clock) -> None:
    await send_times(budget, clock, 2)
    await budget.take(1, patience_s=0.0, urgent=True)
    assert clock.now_s == 1_700_000_000


async def test_pause_delays_all_requests_and_fails_those_that_cannot_wait(budget: WeightBudget, clock: Clock) -> None:
    budget.block(7_200)
    with pytest.raises(ExchangeError, match="paused for another 7200 s"):
        await budget.take(1, patience_s=60.0, urgent=True)
    budget.block(5)
    assert await send_times(budget, clock, 1) == [7_200]
    assert budget.blocked_s == 0


async def test_weight_in_flight_adds_to_the_exchange_count(budget: WeightBudget, clock: Clock) -> None:
    await budget.take(20, 0.0)
    await budget.take(20, 0.0)
    budget.finish(20, "20")
    await budget.take(20, 60.0)
    assert clock.now_s > 1_700_000_000, "20 are used and 20 in flight, so 20 more exceed the share of 50"
