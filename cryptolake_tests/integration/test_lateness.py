"""Late, duplicate and tied trades in any order, on both engines.

After every micro-batch Silver and Gold equal a plain Python aggregation of the trades so far, and only changed rows
have a new `updated_at`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cryptolake_assets.lake.coverage import change_archive_rows
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.markets import Family, exchanges_of
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
EXCHANGES, SYMBOLS = exchanges_of(Family.FUTURES), ("BTCUSDT", "ETHUSDT")
QUANTITIES = st.decimals("0.00000001", "99999.99999999", places=8)


@dataclass(frozen=True)
class Arrival:
    """Trades by micro-batch, in order of arrival; `base` is the hour of the newest ones."""

    base: datetime
    batches: list[list[Trade]]


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    """Draw 4 to 24 trades in minutes up to two days apart, in any order, with duplicates.

    Two exchanges have the same symbols and ids.
    """
    # Each example uses its own range of days: the tables are shared.
    base = datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=4 * next(_examples))
    made = []
    for number in range(draw(st.integers(4, 24))):
        # Few distinct milliseconds, so that many trades tie.
        offset = timedelta(milliseconds=draw(st.sampled_from([0, 1, 59_999, 60_000])))
        made.append(
            trade(
                base - draw(st.sampled_from(LATE_BY)) + offset,
                number // 2,
                exchange=EXCHANGES[number % 2],
                symbol=draw(st.sampled_from(SYMBOLS)),
                price=f"{draw(PRICES):f}",
                qty=f"{draw(QUANTITIES):f}",
                side=draw(st.sampled_from(["buy", "sell"])),
                trade_type=draw(st.sampled_from(["MARKET", "MARKET", "MARKET", "ADL"])),
            )
        )
    duplicates = draw(st.lists(st.sampled_from(made), max_size=6))
    order = draw(st.permutations(made + duplicates))
    size = draw(st.integers(3, 12))
    return Arrival(base, [order[start : start + size] for start in range(0, len(order), size)])


def gold(lake: Settings, first: date, last: date) -> dict[tuple[str, str, date], dict[str, Any]]:
    rows = run_sql(
        lake,
        f"SELECT * FROM cryptolake.gold.futures_daily_stats WHERE trade_date BETWEEN '{first}' AND '{last}'",
    ).to_pylist()
    return {(row["exchange"], row["symbol"], row["trade_date"]): row for row in rows}


def follow(lake: Settings, engine: AggregationEngine, batch: list[Trade]) -> None:
    """Refresh the changed hours and their days, as the follower and the automation do after a micro-batch."""
    sequence = append(lake, batch)
    hours = sorted({item["event_time"].replace(minute=0, second=0, microsecond=0) for item in batch})
    for hour in hours:
        candidate, publication = refresh(lake, engine, hour, sequence)
        assert publication is not None, [outcome for outcome in candidate.outcomes if not outcome.passed]
    for day in sorted({hour.date() for hour in hours}):
        refresh_day(lake, engine, day)


def assert_only_changed_rows_are_updated(before: dict[Any, dict[str, Any]], after: dict[Any, dict[str, Any]]) -> None:
    for key, row in after.items():
        values, changed = {**row, "updated_at": None}, True
        if key in before:
            changed = values != {**before[key], "updated_at": None}
            assert (row["updated_at"] > before[key]["updated_at"]) == changed, key


def make_known(lake: Settings) -> None:
    """Make the symbols known on every exchange, by archive days without time."""
    for exchange in EXCHANGES:
        for symbol in SYMBOLS:
            day = CoverageRow(exchange, symbol, "aggTrade", 0, 0, None, None, "archive")
            change_archive_rows(lake, exchange, symbol, partial(lambda day, _: [day], day))


def check(lake: Settings, engine: AggregationEngine, arrival: Arrival) -> None:
    make_known(lake)
    first, last = arrival.base - LATE_BY[-1] - timedelta(hours=1), arrival.base + timedelta(hours=1)
    received: list[Trade] = []
    silver_before: dict[Any, dict[str, Any]] = {}
    gold_before: dict[Any, dict[str, Any]] = {}
    for batch in arrival.batches:
        follow(lake, engine, batch)
        received += batch
        expected = reference_bars(received)
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
        assert_only_changed_rows_are_updated(silver_before, silver_after)
        assert_only_changed_rows_are_updated(gold_before, gold_after)
        silver_before, gold_before = silver_after, gold_after


def example_settings(examples: int) -> settings:
    nightly = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
    return settings(
        max_examples=8 * examples if nightly else examples,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),  # an example takes seconds: shrinking would take minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@example_settings(examples=3)
@given(arrival=arrivals())
def test_duckdb_equals_the_reference_after_every_batch(lake: Settings, arrival: Arrival) -> None:
    check(lake, DuckDBEngine(lake), arrival)


@pytest.fixture(scope="module")
def spark(platform: Settings) -> Iterator[AggregationEngine]:
    session = connect(platform)
    yield SparkEngine(platform, session)
    session.stop()


@example_settings(examples=1)
@given(arrival=arrivals())
def test_spark_equals_the_reference_after_every_batch(
    platform: Settings, spark: AggregationEngine, arrival: Arrival
) -> None:
    check(platform, spark, arrival)


def test_volatility_of_minimal_price_changes_is_exact(lake: Settings) -> None:
    base = datetime(2025, 1, 1, 10, tzinfo=UTC)
    prices = ("9999999999.99999998", "9999999999.99999999", "9999999999.99999998")
    trades = [trade(base + timedelta(minutes=number), number, price=price) for number, price in enumerate(prices)]
    follow(lake, DuckDBEngine(lake), trades)
    key = ("binance_futures", "BTCUSDT", base.date())
    expected = reference_daily(reference_bars(trades))[key]["realised_volatility"]
    got = gold(lake, base.date(), base.date())[key]["realised_volatility"]
    assert Decimal(got) == pytest.approx(expected, rel=Decimal("1e-12"))
