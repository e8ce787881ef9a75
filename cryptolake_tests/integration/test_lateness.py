"""Whatever the order in which trades come, late, repeated or tied: after every micro-batch Silver and Gold are what a
plain Python aggregation of the trades so far says, and only rows that changed have moved. On both engines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.engines.spark_engine import SparkEngine
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.reference import Trade, reference_bars, reference_daily
from cryptolake_tests.support.silver_runs import refresh, refresh_day

_examples = count()

LATE_BY = (timedelta(0), timedelta(minutes=5), timedelta(hours=1), timedelta(days=2))
PRICES = st.decimals("0.00000001", "9999999999.99999999", places=8)
QUANTITIES = st.decimals("0.00000001", "99999.99999999", places=8)


@dataclass(frozen=True)
class Arrival:
    """Trades in the micro-batches in which they come; `base` is the hour that the newest ones belong to."""

    base: datetime
    batches: list[list[Trade]]


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    """A handful of trades of four minutes that lie up to two days apart, in any order, some of them repeatedly."""
    # A range of days of its own for every example: the tables are shared.
    base = datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=4 * next(_examples))
    made = []
    for trade_id in range(draw(st.integers(4, 24))):
        # Few milliseconds, so that many trades share one.
        offset = timedelta(milliseconds=draw(st.sampled_from([0, 1, 59_999, 60_000])))
        made.append(
            trade(
                base - draw(st.sampled_from(LATE_BY)) + offset,
                trade_id,
                symbol=draw(st.sampled_from(["BTCUSDT", "ETHUSDT"])),
                price=f"{draw(PRICES):f}",
                qty=f"{draw(QUANTITIES):f}",
                side=draw(st.sampled_from(["buy", "sell"])),
                trade_type=draw(st.sampled_from(["MARKET", "MARKET", "MARKET", "ADL"])),
            )
        )
    repeats = draw(st.lists(st.sampled_from(made), max_size=6))
    order = draw(st.permutations(made + repeats))
    size = draw(st.integers(3, 12))
    return Arrival(base, [order[start : start + size] for start in range(0, len(order), size)])


def gold(lake: Settings, first: date, last: date) -> dict[tuple[str, date], dict[str, Any]]:
    rows = run_sql(
        lake,
        f"SELECT * FROM cryptolake.gold.futures_daily_stats WHERE trade_date BETWEEN '{first}' AND '{last}'",
    ).to_pylist()
    return {(row["symbol"], row["trade_date"]): row for row in rows}


def follow(lake: Settings, engine: AggregationEngine, batch: list[Trade]) -> None:
    """What the follower and the automation do with a micro-batch: the touched hours, then their days."""
    sequence = append(lake, batch)
    hours = sorted({item["event_time"].replace(minute=0, second=0, microsecond=0) for item in batch})
    for hour in hours:
        candidate, publication = refresh(lake, engine, hour, sequence)
        assert publication is not None, [outcome for outcome in candidate.outcomes if not outcome.passed]
    for day in sorted({hour.date() for hour in hours}):
        refresh_day(lake, engine, day)


def assert_only_changes_moved(before: dict[Any, dict[str, Any]], after: dict[Any, dict[str, Any]]) -> None:
    for key, row in after.items():
        values, moved = {**row, "updated_at": None}, True
        if key in before:
            moved = values != {**before[key], "updated_at": None}
            assert (row["updated_at"] > before[key]["updated_at"]) == moved, key


def check(lake: Settings, engine: AggregationEngine, arrival: Arrival) -> None:
    first, last = arrival.base - LATE_BY[-1] - timedelta(hours=1), arrival.base + timedelta(hours=1)
    seen: list[Trade] = []
    silver_before: dict[Any, dict[str, Any]] = {}
    gold_before: dict[Any, dict[str, Any]] = {}
    for batch in arrival.batches:
        follow(lake, engine, batch)
        seen += batch
        expected = reference_bars(seen)
        silver_after = bars(lake, first, hours=(last - first) // timedelta(hours=1) + 1)
        assert silver_after.keys() == expected.keys()
        for key, bar in expected.items():
            assert {name: silver_after[key][name] for name in bar} == bar, key
        gold_after = gold(lake, first.date(), last.date())
        stats = reference_daily(expected)
        assert gold_after.keys() == stats.keys()
        for day, row in stats.items():
            volatility = float(row.pop("realised_volatility"))
            assert {name: gold_after[day][name] for name in row} == row, day
            assert gold_after[day]["realised_volatility"] == pytest.approx(volatility, rel=1e-12, abs=0)
        assert_only_changes_moved(silver_before, silver_after)
        assert_only_changes_moved(gold_before, gold_after)
        silver_before, gold_before = silver_after, gold_after


def like(examples: int) -> settings:
    nightly = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
    return settings(
        max_examples=4 * examples if nightly else examples,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),  # an example takes seconds: shrinking would take minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@like(examples=6)
@given(arrival=arrivals())
def test_duckdb_gives_the_reference_after_every_batch(lake: Settings, arrival: Arrival) -> None:
    check(lake, DuckDBEngine(lake), arrival)


@pytest.fixture(scope="module")
def spark(platform: Settings) -> Iterator[AggregationEngine]:
    session = connect(platform)
    yield SparkEngine(platform, session)
    session.stop()


@like(examples=2)
@given(arrival=arrivals())
def test_spark_gives_the_reference_after_every_batch(
    platform: Settings, spark: AggregationEngine, arrival: Arrival
) -> None:
    check(platform, spark, arrival)


def test_a_price_that_moves_by_one_in_ten_billion_has_an_exact_volatility(lake: Settings) -> None:
    base = datetime(2025, 1, 1, 10, tzinfo=UTC)
    prices = ("9999999999.99999998", "9999999999.99999999", "9999999999.99999998")
    trades = [trade(base + timedelta(minutes=number), number, price=price) for number, price in enumerate(prices)]
    follow(lake, DuckDBEngine(lake), trades)
    expected = reference_daily(reference_bars(trades))["BTCUSDT", base.date()]["realised_volatility"]
    got = gold(lake, base.date(), base.date())["BTCUSDT", base.date()]["realised_volatility"]
    assert Decimal(got) == pytest.approx(expected, rel=Decimal("1e-12"))
