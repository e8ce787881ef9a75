"""Spot and COIN-M through the entire pipeline, each on its own platform, compared with klines.

The replay exchange, the producer, the broker and the Bronze stream are processes that read the market from settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from cryptolake_assets.bronze.offsets import bronze_lag
from cryptolake_assets.ingest.klines import fetch_hour, judge_hour
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.model.markets import Market
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.load_inputs import load_run_inputs
from cryptolake_tests.support.bronze import bars
from cryptolake_tests.support.capture_cases import CASES, PARTS, expected, wait_until_replayed, with_columns_of
from cryptolake_tests.support.markets import COIN_SYMBOL, coin_capture, spot_capture
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.reference import Trade, reference_bars
from cryptolake_tests.support.silver_runs import rebuild
from cryptolake_tests.support.waiting import wait_for


@dataclass
class Ingested:
    """A platform that has ingested an entire capture; `frames` are its trades."""

    settings: Settings
    frames: list[Any]

    def bronze(self) -> list[Trade]:
        return list(load_table(self.settings, self.settings.tables.trades).scan().to_arrow().to_pylist())


@pytest.fixture(scope="module")
def ingested(
    start_platform: StartPlatform, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ingested]:
    market: Market = request.param
    directory = tmp_path_factory.mktemp(f"{market}-capture")
    frames: list[Any] = list(coin_capture(directory) if market is Market.COIN_M else spot_capture(directory))
    home = tmp_path_factory.mktemp(f"{market}-home")
    settings = settings_for(
        home, market=market, replay_dir=directory, replay_speed=0, spark_memory_mb=1024, bronze_trigger_s=1
    )
    with start_platform(settings, PARTS):
        table = load_table(settings, settings.tables.trades)
        wait_for(lambda: table.refresh().scan().count() >= len(frames), timeout_s=120)
        last_ms = max(_time_ms(frame) for frame in frames)
        wait_for(lambda: max((row.connected_to_ms for row in read_coverage(settings)), default=0) >= last_ms)
        # A batch is in the table before it is in the checkpoint, which completeness reads.
        wait_for(lambda: bronze_lag(settings) == 0)
        yield Ingested(settings, frames)


def _time_ms(frame: Any) -> int:
    return int(frame["T"] if isinstance(frame, dict) else frame.time_ms)


@pytest.fixture
def settings(ingested: Ingested, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name, value in ingested.settings.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield ingested.settings
    get_settings.cache_clear()


def hours_of(rows: list[Trade]) -> list[datetime]:
    return sorted({row["event_time"].replace(minute=0, second=0, microsecond=0) for row in rows})


@pytest.mark.parametrize("ingested", [Market.COIN_M, Market.SPOT], indirect=True)
def test_every_frame_is_stored_and_silver_equals_the_markets_klines(ingested: Ingested, settings: Settings) -> None:
    rows, market = ingested.bronze(), settings.market
    assert {row["exchange"] for row in rows} == {settings.venue.exchange}
    assert {row["trade_type"] for row in rows} == {"MARKET"}
    if market is Market.SPOT:
        assert {row["stream"] for row in rows} == {"trade"}
        expected = {(event["s"], event["t"]): (event["p"], event["q"], event["T"]) for event in ingested.frames}
    else:
        assert {row["stream"] for row in rows} == {"aggTrade"}
        expected = {(COIN_SYMBOL, item.agg_id): (item.price, item.qty, item.time_ms) for item in ingested.frames}
    assert len(rows) == len(expected)
    for row in rows:
        price, qty, time_ms = expected[row["symbol"], row["trade_id"]]
        assert (row["price"], row["qty"]) == (Decimal(price), Decimal(qty))
        assert row["event_time"] == datetime.fromtimestamp(time_ms / 1000, UTC)
    hours = hours_of(rows)
    first = hours[0]
    candidates = rebuild(settings, DuckDBEngine(settings), first, hours[-1] + timedelta(hours=1))
    assert [(candidate.hour, candidate.passed) for candidate in candidates] == [(hour, True) for hour in hours]
    found = bars(settings, first, len(hours))
    assert found == {key: {**found[key], **bar} for key, bar in reference_bars(rows).items()}
    complete = [key for key, bar in found.items() if bar["is_complete"]]
    assert len(complete) >= 2
    completeness = load_run_inputs(settings).completeness
    for hour in hours:
        assert fetch_hour(settings, hour, "test").klines > 0
        agreement = judge_hour(settings, hour, completeness, "test")
        assert agreement.differences == []
        assert agreement.outcome.passed, agreement.outcome.description


@pytest.mark.parametrize("ingested", [Market.SPOT], indirect=True)
def test_control_messages_between_trades_are_not_stored_as_trades(ingested: Ingested, settings: Settings) -> None:
    other = settings.model_copy(update={"replay_dir": CASES / "acks", "coverage_interval_s": 1})
    lifecycle.up(other, PARTS)
    acks = wait_until_replayed(other)
    assert acks.problems == []
    assert acks.producer.streams["trade"].control >= 2
    assert acks.dead_letters() == {}
    made, expected_bars = acks.bars("2025-11-07", 10), expected("acks")
    assert with_columns_of(made, expected_bars) == expected_bars
    assert {minute for (_, minute), bar in made.items() if bar["is_complete"]} == {"10:01", "10:02"}
