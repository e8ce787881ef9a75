"""Silver on the real Spark server and catalog: exact, incremental, repeatable, with quarantine.

Each test uses its own day in the shared tables.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from itertools import count
from typing import Any

import pytest

from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.quality.rules import MISSING_TRADE_RULES
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.engines.spark_engine import SparkEngine
from cryptolake_assets.transform.silver_run import run_silver
from cryptolake_tests.support import silver_runs
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.reference import Trade, reference_bars
from cryptolake_tests.support.silver_runs import refresh_day

_days = count(1)


@pytest.fixture
def hour() -> datetime:
    """The first hour of a day that no other test uses."""
    return datetime(2024, 8, 1, 10, tzinfo=UTC) + timedelta(days=next(_days))


@pytest.fixture(scope="module", params=["duckdb", "spark"])
def engine(platform: Settings, request: pytest.FixtureRequest) -> Iterator[AggregationEngine]:
    if request.param == "duckdb":
        yield DuckDBEngine(platform)
        return
    session = connect(platform)
    yield SparkEngine(platform, session)
    session.stop()


def refresh(settings: Settings, engine: AggregationEngine, hour: datetime, from_sequence: int | None = None) -> int:
    """Run Silver; return the number of changed bars."""
    candidate, publication = silver_runs.refresh(settings, engine, hour, from_sequence)
    assert publication is not None, [outcome for outcome in candidate.outcomes if not outcome.passed]
    return publication.rows_changed


def assert_bars_equal(settings: Settings, hour: datetime, trades: list[Trade]) -> None:
    expected = reference_bars(trades)
    got = bars(settings, hour)
    assert got.keys() == expected.keys()
    for key, bar in expected.items():
        assert {name: got[key][name] for name in bar} == bar, key


def random_trades(hour: datetime, seed: int, number: int) -> list[Trade]:
    """Return trades of two symbols with many ties and hostile digits."""
    source = random.Random(seed)  # noqa: S311  not for secrets
    made = []
    for trade_id in range(number):
        when = hour + timedelta(milliseconds=source.choice([source.randrange(3_600_000), 60_000, 119_999]))
        price = f"{Decimal(source.randrange(1, 10**17)).scaleb(-8):f}"
        qty = f"{Decimal(source.randrange(1, 10 ** source.randrange(1, 13))).scaleb(-8):f}"
        made.append(
            trade(
                when,
                trade_id,
                symbol=source.choice(["BTCUSDT", "ETHUSDT"]),
                price=price,
                qty=qty,
                side=source.choice(["buy", "sell"]),
                trade_type=source.choice(["MARKET"] * 9 + ["INSURANCE_FUND"]),
            )
        )
    return made


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_duplicate_and_tied_trades_give_the_reference_bars(
    platform: Settings, engine: AggregationEngine, hour: datetime, seed: int
) -> None:
    trades = random_trades(hour, seed, 3_000)
    arrivals = trades + random.Random(seed).sample(trades, 300)  # noqa: S311
    random.Random(seed + 1).shuffle(arrivals)  # noqa: S311
    for start in range(0, len(arrivals), 1_100):
        append(platform, arrivals[start : start + 1_100])
    refresh(platform, engine, hour)
    assert_bars_equal(platform, hour, trades)


def test_late_trade_updates_only_its_own_minute(platform: Settings, engine: AggregationEngine, hour: datetime) -> None:
    trades = [trade(hour + timedelta(seconds=20 * number), number) for number in range(12)]
    refresh(platform, engine, hour, append(platform, trades))
    before = bars(platform, hour)
    late = trade(hour + timedelta(seconds=61), 999, price="250")
    assert refresh(platform, engine, hour, append(platform, [late])) == 1
    after = bars(platform, hour)
    minute = ("binance_futures", "BTCUSDT", hour + timedelta(minutes=1))
    assert after[minute]["high"] == 250
    assert after[minute]["updated_at"] > before[minute]["updated_at"]
    assert {key: row for key, row in after.items() if key != minute} == {
        key: row for key, row in before.items() if key != minute
    }
    assert_bars_equal(platform, hour, [*trades, late])


def test_second_run_changes_nothing(platform: Settings, engine: AggregationEngine, hour: datetime) -> None:
    trades = [trade(hour + timedelta(seconds=7 * number), number) for number in range(50)]
    first = append(platform, trades)
    refresh(platform, engine, hour, first)
    before = bars(platform, hour)
    duplicates = append(platform, trades)
    assert refresh(platform, engine, hour, duplicates) == 0
    assert refresh(platform, engine, hour) == 0
    assert bars(platform, hour) == before


def test_trades_that_break_a_rule_are_quarantined_once_and_reach_no_bar(
    platform: Settings, engine: AggregationEngine, hour: datetime
) -> None:
    valid = [trade(hour + timedelta(seconds=number), number) for number in range(40)]
    first_id = hour.toordinal() * 10_000  # unique: the quarantine, shared by all tests, stores an identity once
    invalid = {
        "other_exchange": trade(hour, first_id + 6, exchange="binance_spot"),
        "price_not_positive": trade(hour, first_id + 1, price="-1"),
        "qty_negative": trade(hour, first_id + 2, qty="-2"),
        "qty_zero": trade(hour, first_id + 3, qty="0"),
        "quote_out_of_range": trade(hour, first_id + 7, price="9" * 10, qty="9" * 11),
        "unknown_symbol": trade(hour, first_id + 4, symbol="NOPEUSDT"),
        "event_time_out_of_range": trade(datetime(2099, 1, 1, tzinfo=UTC), first_id + 5),
    }
    sequence = append(platform, [*valid, *invalid.values()])
    lenient = platform.model_copy(update={"drop_ratio_limit": 0.5})
    (made,) = run_silver(lenient, engine, [hour], "t", from_sequence=sequence)
    (candidate,) = made.candidates
    assert candidate.passed
    assert made.quarantined == len(invalid)
    assert candidate.counts.dropped_by_rule == {**dict.fromkeys(invalid, 1), "event_time_out_of_range": 0}
    (again,) = run_silver(lenient, engine, [hour], "t", from_sequence=sequence)
    assert again.quarantined == 0
    of_minute = [invalid[rule] for rule in MISSING_TRADE_RULES]
    assert_bars_equal(platform, hour, [*valid, *of_minute])
    quarantined_rows = run_sql(
        platform,
        "SELECT rule, trade_id FROM cryptolake.silver.futures_trades_quarantine "
        f"WHERE trade_id BETWEEN {first_id} AND {first_id + 9}",
    ).to_pylist()
    assert {row["rule"]: row["trade_id"] for row in quarantined_rows} == {
        rule: row["trade_id"] for rule, row in invalid.items()
    }


def test_invalid_copy_of_a_trade_does_not_replace_the_valid_one(
    platform: Settings, engine: AggregationEngine, hour: datetime
) -> None:
    trades = [trade(hour + timedelta(seconds=number), number) for number in range(30)]
    invalid_copy: dict[str, Any] = {**trades[3], "price": Decimal(-5), "qty": Decimal(0)}
    append(platform, [invalid_copy, *trades])
    refresh(platform, engine, hour)
    assert_bars_equal(platform, hour, trades)


def test_failed_candidate_is_not_published_and_other_hours_continue(
    platform: Settings, engine: AggregationEngine, hour: datetime
) -> None:
    good = [trade(hour + timedelta(seconds=number), number) for number in range(30)]
    refresh(platform, engine, hour, append(platform, good))
    before = bars(platform, hour, hours=2)
    bad = [trade(hour + timedelta(minutes=2, seconds=number), 500 + number, price="-1") for number in range(10)]
    other = [trade(hour + timedelta(hours=1), 600)]
    sequence = append(platform, bad + other)
    rejected, publication = silver_runs.refresh(platform, engine, hour, sequence)
    assert publication is None
    assert [outcome.name for outcome in rejected.outcomes if not outcome.passed] == ["drop_ratio"]
    assert bars(platform, hour, hours=2) == before
    refresh(platform, engine, hour + timedelta(hours=1), sequence)
    assert set(bars(platform, hour, hours=2)) - set(before) == {
        ("binance_futures", "BTCUSDT", hour + timedelta(hours=1))
    }


def test_gold_sums_the_days_bars_and_a_second_run_changes_nothing(
    platform: Settings, engine: AggregationEngine, hour: datetime
) -> None:
    trades = random_trades(hour, 5, 500)
    append(platform, trades)
    refresh(platform, engine, hour)
    day: date = hour.date()
    _, first = refresh_day(platform, engine, day)
    assert first.rows_changed == 2
    assert refresh_day(platform, engine, day)[1].rows_changed == 0
    rows = run_sql(
        platform, f"SELECT * FROM cryptolake.gold.futures_daily_stats WHERE trade_date = '{day}'"
    ).to_pylist()
    silver = bars(platform, hour)
    assert sorted(row["symbol"] for row in rows) == sorted({symbol for _, symbol, _ in silver})
    assert len(rows) == first.rows_changed
    for row in rows:
        of_symbol = [bar for (_, symbol, _), bar in sorted(silver.items()) if symbol == row["symbol"]]
        assert row["trades"] == sum(bar["trades"] for bar in of_symbol)
        with localcontext() as context:
            context.prec = 80
            assert row["total_volume"] == sum(bar["volume"] for bar in of_symbol)
            assert row["total_quote_volume"] == sum(bar["quote_volume"] for bar in of_symbol)
        assert (row["open"], row["close"]) == (of_symbol[0]["open"], of_symbol[-1]["close"])
        assert row["high"] - row["low"] == row["price_range"] > 0
        assert row["minutes_with_trades"] == len(of_symbol)
        assert 0 < row["taker_buy_ratio"] < 1
        assert row["realised_volatility"] > 0
