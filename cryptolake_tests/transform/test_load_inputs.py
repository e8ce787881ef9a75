"""Inputs of a run are bounded by its hours, and equal those of the full tables within these hours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.gap_ledger import IcebergGapSink, TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family, Market
from cryptolake_assets.model.symbol_selection import split_items
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings, Source
from cryptolake_assets.transform import load_inputs, quarantine, silver_run
from cryptolake_assets.transform.load_inputs import NEVER, load_run_inputs
from cryptolake_assets.transform.quarantine import advance_quarantine, quarantined_out_of_range
from cryptolake_tests.support.bronze import append, trade

START = datetime(2024, 7, 19, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
HOUR_MS = 3_600_000


@pytest.fixture
def covered(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Write coverage of twelve hours, 40 minutes each, and three open gaps; the exchange is unreachable."""
    monkeypatch.setattr(load_inputs, "committed_offsets", lambda *_: {0: 10**9})
    settings = lake.model_copy(update={"exchange_port": 1, "start_date": START.date(), "watermark_grace_ms": 2_000})
    rows = [
        CoverageRow(
            *("binance_futures", "BTCUSDT", "trade"),
            connected_from_ms=START_MS + number * HOUR_MS,
            connected_to_ms=START_MS + number * HOUR_MS + 40 * 60_000,
            kafka_partition=0,
            kafka_offset=number,
            source="ws://x",
            evidence=Evidence.IDS if number % 2 else Evidence.BARRIER,
        )
        for number in range(12)
    ]
    IcebergCoverageSink(settings).write(rows)
    IcebergGapSink(settings).write([gap_at(hour * HOUR + timedelta(minutes=10)) for hour in (1, 4, 9)])
    return settings


def gap_at(after: timedelta) -> TradeGap:
    after_us = (START_MS + round(after.total_seconds() * 1000)) * 1000
    return TradeGap(
        exchange="binance_futures",
        symbol="BTCUSDT",
        stream="trade",
        first_missing_id=after_us,
        last_missing_id=after_us,
        ids_missing=1,
        after_us=after_us,
        before_us=after_us + 1_000_000,
        detected_at=START,
    )


@pytest.mark.parametrize("first", range(12))
@pytest.mark.parametrize("hours", [1, 3])
def test_bounded_inputs_prove_the_same_minutes_as_the_full_tables(covered: Settings, first: int, hours: int) -> None:
    start, end = START + first * HOUR, START + (first + hours) * HOUR
    everything, bounded = load_run_inputs(covered), load_run_inputs(covered, start, end)
    assert bounded.exchange_time_ms == everything.exchange_time_ms == START_MS + 11 * HOUR_MS + 40 * 60_000
    assert bounded.rules == everything.rules
    minutes = [START_MS + first * HOUR_MS + number * 60_000 for number in range(hours * 60)]
    found = [
        bounded.completeness.evidence("binance_futures", "BTCUSDT", "trade", minute, minute + 60_000)
        for minute in minutes
    ]
    expected = [
        everything.completeness.evidence("binance_futures", "BTCUSDT", "trade", minute, minute + 60_000)
        for minute in minutes
    ]
    assert found == expected
    assert set(found) > {None}


def test_empty_window_loads_only_the_extent(covered: Settings) -> None:
    known = load_run_inputs(covered, NEVER, NEVER)
    assert known.rules == load_run_inputs(covered).rules
    assert not known.completeness.is_complete_on_any_stream("binance_futures", "BTCUSDT", START_MS, START_MS + 1)


def test_symbols_are_those_of_the_familys_markets(covered: Settings) -> None:
    changes = {
        "source": Source.BINANCE,
        "markets": (Market.USD_M, Market.SPOT, Market.COIN_M),
        "symbols": split_items("ETHUSDT;spot:SOLUSDT;coinm:BTCUSD_PERP"),
        "exchange_rest_url": "http://127.0.0.1:1",
    }
    lake = covered.model_copy(update=changes)
    rules = load_run_inputs(lake, NEVER, NEVER).rules
    assert rules.exchanges == ("binance_futures_coin", "binance_futures")
    in_coverage = ("binance_futures", "BTCUSDT")
    assert set(rules.symbols) == {in_coverage, ("binance_futures", "ETHUSDT"), ("binance_futures_coin", "BTCUSD_PERP")}
    spot = load_run_inputs(lake.of_family(Family.SPOT)).rules
    assert (spot.exchanges, spot.symbols) == (("binance_spot",), (("binance_spot", "SOLUSDT"),))
    of_market = load_run_inputs(lake.of_market(Market.COIN_M), NEVER, NEVER).rules
    assert replace(of_market, latest=rules.latest) == rules, "a run is of the family"


def test_quarantined_trades_are_limited_to_the_hours(covered: Settings) -> None:
    future = START + timedelta(days=30)
    append(covered, [trade(future + number * HOUR, number) for number in range(3)])
    advance(covered)
    of_hour = load_run_inputs(covered, future + HOUR, future + 2 * HOUR).rules.quarantined
    assert of_hour == (("binance_futures", "BTCUSDT", "trade", 1),)
    assert load_run_inputs(covered, START, START + HOUR).rules.quarantined == ()
    assert len(load_run_inputs(covered).rules.quarantined) == 3


@pytest.mark.parametrize("source", [Source.REPLAY, Source.BINANCE])
@pytest.mark.parametrize("speed", [1.0, 20.0])
def test_trades_after_the_coverage_are_valid_while_the_exchange_clock_does_not_respond(
    covered: Settings, source: Source, speed: float
) -> None:
    update = {"source": source, "replay_speed": speed, "exchange_rest_url": "http://127.0.0.1:1"}
    covered = covered.model_copy(update=update)
    covered_to = START + timedelta(hours=11, minutes=40)
    lag = timedelta(minutes=30) * speed
    append(covered, [trade(covered_to + lag, 1), trade(covered_to + timedelta(days=2_000), 2)])
    assert advance(covered) == 1


def test_exchange_clock_bounds_the_time_of_trades(covered: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = START + timedelta(hours=12)
    monkeypatch.setattr(load_inputs, "_clock_ms", lambda _: round(now.timestamp() * 1000))
    append(covered, [trade(now + timedelta(seconds=59), 1), trade(now + timedelta(seconds=61), 2)])
    assert advance(covered) == 1


def test_slow_run_judges_no_trade_by_a_clock_from_before_it_arrived(
    covered: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [START + timedelta(hours=12)]
    monkeypatch.setattr(load_inputs, "_clock_ms", lambda _: round(clock[0].timestamp() * 1000))

    def slowly(*arguments: Any) -> tuple[tuple[str, str, str, int], ...]:
        clock[0] += timedelta(minutes=5)
        append(covered, [trade(clock[0], 1)])
        return quarantined_out_of_range(*arguments)

    monkeypatch.setattr(load_inputs, "quarantined_out_of_range", slowly)
    inputs = silver_run.load_inputs(covered, [START + 12 * HOUR])
    assert advance_quarantine(covered, inputs.bronze, inputs.known.rules, "test") == 0
    assert load_table(covered, FUTURES.trades).scan().count() == 1


def test_clock_behind_the_coverage_quarantines_no_trade_after_it(
    covered: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    covered_to = START + timedelta(hours=11, minutes=40)
    monkeypatch.setattr(load_inputs, "_clock_ms", lambda _: round(covered_to.timestamp() * 1000) - 600_000)
    append(covered, [trade(covered_to + timedelta(minutes=5), 1)])
    assert advance(covered) == 0


def advance(settings: Settings) -> int:
    rules = load_run_inputs(settings, NEVER, NEVER).rules
    return advance_quarantine(settings, load_table(settings, FUTURES.trades), rules, "test")


@pytest.mark.parametrize("max_days", [31, 2], ids=["each day", "range of days"])
def test_broken_trade_is_quarantined_once_on_any_day(
    covered: Settings, monkeypatch: pytest.MonkeyPatch, max_days: int
) -> None:
    monkeypatch.setattr(quarantine, "MAX_SINGLE_DAYS", max_days)
    last = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    broken = [
        trade(START, 1, price="-1"),
        trade(START + timedelta(days=400), 2),
        trade(datetime(1970, 1, 1, tzinfo=UTC), 3),
        {**trade(START, 4), "event_time": last},
    ]
    append(covered, broken)
    assert advance(covered) == 4
    append(covered, [*broken, trade(START, 5, qty="0")])
    assert advance(covered) == 1
    rows = load_table(covered, FUTURES.quarantine).scan().to_arrow()
    assert sorted(rows["trade_id"].to_pylist()) == [1, 2, 3, 4, 5]
