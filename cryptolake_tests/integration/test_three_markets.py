"""Three markets in one lake: each family's Silver and Gold equal an independent count, on both engines.

USD-M and COIN-M share the futures tables; Spot has the symbol, ids and times of USD-M.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysTrue

from cryptolake_assets.ingest.klines import REST, judge_hour, record, replace_klines
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import keys_of, publish, replace_files
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.lake.gap_ledger import IcebergGapSink, TradeGap, read_gaps
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.markets import COIN_M, SPOT, USD_M, Family, Market, Venue
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.symbol_selection import split_items
from cryptolake_assets.model.windows import DAY, HOUR, MINUTE, day_of
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.settings import Settings, Source
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.engines.spark_engine import SparkEngine
from cryptolake_assets.transform.load_inputs import load_run_inputs
from cryptolake_assets.transform.published_count import check_published
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.reference import Trade, reference_bars, reference_daily
from cryptolake_tests.support.silver_runs import refresh, refresh_day

SYMBOLS = {USD_M: "BTCUSDT", COIN_M: "BTCUSD_PERP", SPOT: "BTCUSDT"}

_days = count(1)


@pytest.fixture(scope="module", params=["duckdb", "spark"])
def engine(platform: Settings, request: pytest.FixtureRequest) -> Iterator[AggregationEngine]:
    if request.param == "duckdb":
        yield DuckDBEngine(platform)
        return
    session = connect(platform)
    yield SparkEngine(platform, session)
    session.stop()


@pytest.fixture(scope="module", autouse=True)
def _restore_coverage(platform: Settings) -> Iterator[None]:
    """Remove this module's coverage: it is the exchange clock of the platform that other modules use."""
    before = load_table(platform, OPS_COVERAGE).scan().to_arrow()
    yield
    replace_files(load_table(platform, OPS_COVERAGE), AlwaysTrue(), before)


@pytest.fixture
def hour() -> datetime:
    """The first hour of a day that no other test uses."""
    return datetime(2024, 2, 1, 10, tzinfo=UTC) + timedelta(days=next(_days))


@pytest.fixture
def lake(platform: Settings, hour: datetime) -> Settings:
    """A live platform of the three markets, which cover the hour's end; their exchange does not respond."""
    changes = {
        "source": Source.BINANCE,
        "market": Market.USD_M,
        "markets": (Market.USD_M, Market.SPOT, Market.COIN_M),
        "symbols": split_items("BTCUSDT;spot:BTCUSDT;coinm:BTCUSD_PERP"),
        "exchange_rest_url": "http://127.0.0.1:1",
        "start_date": datetime(2024, 1, 1, tzinfo=UTC).date(),
    }
    settings = platform.model_copy(update=changes)
    IcebergCoverageSink(settings).write([covered(venue, hour + HOUR - MINUTE, hour + HOUR) for venue in SYMBOLS])
    return settings


def trades_of(venue: Venue, hour: datetime, level: int, minutes: int = 4) -> list[Trade]:
    """Return trades with the same ids and times in every market, but with prices from `level` on."""
    return [
        trade(
            hour + timedelta(seconds=10 * number),
            number,
            price=f"{level + number % 5}",
            qty=f"0.{level}",
            exchange=venue.exchange,
            symbol=SYMBOLS[venue],
        )
        for number in range(6 * minutes)
    ]


def covered(venue: Venue, start: datetime, end: datetime, stream: str = "trade") -> CoverageRow:
    span = epoch_ms(start), epoch_ms(end) + 10_000
    return CoverageRow(venue.exchange, SYMBOLS[venue], stream, *span, 0, 0, "ws://test", Evidence.IDS)


def test_both_families_equal_an_independent_count(
    lake: Settings, engine: AggregationEngine, hour: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    usdm, coinm, spot = (trades_of(venue, hour, level) for venue, level in ((USD_M, 20), (COIN_M, 50), (SPOT, 80)))
    families = {Family.FUTURES: usdm + coinm, Family.SPOT: spot}
    last = hour + 4 * MINUTE
    IcebergCoverageSink(lake).write(
        [covered(USD_M, hour, last), covered(COIN_M, hour, hour + MINUTE), covered(SPOT, hour, hour + 2 * MINUTE)]
    )
    for family, trades in families.items():
        append(lake.of_family(family), trades + trades[::5])
    for family, trades in families.items():
        view = lake.of_family(family)
        candidate, publication = refresh(view, engine, hour)
        assert publication is not None, candidate.outcomes
        assert (candidate.counts.rows_valid, candidate.counts.rows_duplicate) == (len(trades), len(trades[::5]))
        found, expected = bars(view, hour), reference_bars(trades)
        assert found.keys() == expected.keys()
        for key, bar in expected.items():
            assert {name: found[key][name] for name in bar} == bar, key
        assert {bar["stream"] for bar in found.values()} == {"trade"}
        rules = load_run_inputs(view, hour, hour + HOUR).rules
        assert check_published(view, hour, rules).passed
        refresh_day(view, engine, hour.date())
        of_day = load_table(view, view.tables.daily).scan(f"trade_date = '{hour.date()}'").to_arrow().to_pylist()
        daily = reference_daily(expected)
        assert {(row["exchange"], row["symbol"], row["trade_date"]) for row in of_day} == daily.keys()
        for row in of_day:
            stats = daily[row["exchange"], row["symbol"], row["trade_date"]]
            volatility = stats.pop("realised_volatility")
            assert {name: row[name] for name in stats} == stats
            assert row["realised_volatility"] == pytest.approx(float(volatility), rel=1e-12)
    assert "spark_fallback_used" not in capsys.readouterr().out
    complete = {
        (exchange, (start - hour) // MINUTE)
        for family in families
        for (exchange, _, start), bar in bars(lake.of_family(family), hour).items()
        if bar["is_complete"]
    }
    assert complete == {
        *((USD_M.exchange, minute) for minute in range(4)),
        (COIN_M.exchange, 0),
        *((SPOT.exchange, minute) for minute in range(2)),
    }
    partitions = f"'{hour:%Y-%m-%d-%H:%M}', '{hour:%Y-%m-%d}'"
    runs = run_sql(lake, f"SELECT DISTINCT asset FROM cryptolake.ops.run_metrics WHERE partition IN ({partitions})")
    assert set(runs["asset"].to_pylist()) == {
        *("silver/futures_ohlcv_1m", "silver/spot_ohlcv_1m", "gold/futures_daily_stats", "gold/spot_daily_stats")
    }


def test_late_trade_recomputes_the_minute_of_its_exchange(
    lake: Settings, engine: AggregationEngine, hour: datetime
) -> None:
    futures = trades_of(USD_M, hour, 20) + trades_of(COIN_M, hour, 50)
    append(lake, futures)
    refresh(lake, engine, hour)
    before = bars(lake, hour)
    late = trade(hour + timedelta(seconds=7), 900, exchange=COIN_M.exchange, symbol=SYMBOLS[COIN_M])
    candidate, publication = refresh(lake, engine, hour, append(lake, [late]))
    assert candidate.counts.rows_in == 7, "only COIN-M's first minute is read again"
    assert publication is not None
    assert publication.changed_keys.to_pylist() == [
        {"exchange": COIN_M.exchange, "symbol": SYMBOLS[COIN_M], "window_start": hour}
    ]
    after, key = bars(lake, hour), (COIN_M.exchange, SYMBOLS[COIN_M], hour)
    assert {name: after[key][name] for name in ("trades", "high")} == {"trades": 7, "high": late["price"]}
    assert {other: bar for other, bar in after.items() if other != key} == {
        other: bar for other, bar in before.items() if other != key
    }


def test_each_bar_of_a_mixed_history_has_one_stream(lake: Settings, engine: AggregationEngine, hour: datetime) -> None:
    """Minutes: only trades; only aggregates; both, nothing complete; both, aggregates complete; both complete."""
    single = [item for item in trades_of(SPOT, hour, 80, 5) if item["event_time"] < hour + MINUTE]
    single += [item for item in trades_of(SPOT, hour, 80, 5) if item["event_time"] >= hour + 2 * MINUTE]
    aggregates = [
        {**item, "stream": "aggTrade", "qty": 2 * item["qty"], "last_trade_id": item["first_trade_id"] + 1}
        for item in trades_of(SPOT, hour, 80, 5)
        if item["event_time"] >= hour + MINUTE
    ]
    spot = lake.of_family(Family.SPOT)
    IcebergCoverageSink(lake).write(
        [
            covered(SPOT, hour + 3 * MINUTE, hour + 5 * MINUTE, "aggTrade"),
            covered(SPOT, hour + 4 * MINUTE, hour + 5 * MINUTE, "trade"),
            covered(USD_M, hour, hour + 5 * MINUTE, "trade"),
        ]
    )
    append(spot, [*aggregates, *single])
    refresh(spot, engine, hour)
    found = [bar for _, bar in sorted(bars(spot, hour).items())]
    streams = ["trade", "aggTrade", "trade", "aggTrade", "trade"]
    assert [(bar["stream"], bar["is_complete"]) for bar in found] == list(
        zip(streams, [False, False, False, True, True], strict=True)
    )
    expected = {stream: reference_bars(rows) for stream, rows in (("trade", single), ("aggTrade", aggregates))}
    for bar, stream in zip(found, streams, strict=True):
        of_stream = expected[stream][bar["exchange"], bar["symbol"], bar["window_start"]]
        assert {name: bar[name] for name in of_stream} == of_stream
    assert check_published(spot, hour).passed
    wrong = pa.Table.from_pylist([{**found[2], "trades": found[1]["trades"]}], schema=spot.tables.bars.arrow_schema())
    assert found[1]["trades"] == 2 * found[2]["trades"]
    publish(
        load_table(spot, spot.tables.bars),
        spot.tables.bars,
        silver_day(hour),
        wrong,
        keys_of(spot.tables.bars, wrong),
        {},
    )
    (difference,) = check_published(spot, hour).failing_rows
    assert (difference["trades in Silver"], difference["trades in Bronze"]) == ("12", "6"), "12 is the other stream's"


def test_quarantine_gaps_and_klines_stay_with_their_exchange(
    lake: Settings, engine: AggregationEngine, hour: datetime
) -> None:
    spot = lake.of_family(Family.SPOT)
    bad = trade(hour + timedelta(seconds=1), 900, qty="0", exchange=SPOT.exchange)
    stray = trade(hour + timedelta(seconds=2), 901, exchange=SPOT.exchange)
    append(lake, [*trades_of(USD_M, hour, 20), stray])
    append(spot, [*trades_of(SPOT, hour, 80), bad])
    IcebergCoverageSink(lake).write([covered(venue, hour, hour + 4 * MINUTE) for venue in (USD_M, SPOT)])
    at_us = epoch_ms(hour) * 1000
    gap = TradeGap(SPOT.exchange, "BTCUSDT", "trade", 5, 5, 1, at_us + 70 * 10**6, at_us + 75 * 10**6, hour)
    IcebergGapSink(spot).write([gap])
    coin_gap = replace(gap, exchange=COIN_M.exchange, symbol="BTCUSD_PERP")
    IcebergGapSink(lake.of_market(Market.COIN_M)).write([coin_gap])
    kline = Kline(
        epoch_ms(hour + 2 * MINUTE), "1", "1", "1", "1", "1", epoch_ms(hour + 3 * MINUTE) - 1, "1", 6, "1", "1"
    )
    rows = [record(SPOT.exchange, "BTCUSDT", kline, REST)]
    replace_klines(spot, day_of(hour), rows, rows, "test")

    relaxed = {"drop_ratio_limit": 1.0}
    found: dict[tuple[str, str, datetime], dict[str, Any]] = {}
    for view in (lake.model_copy(update=relaxed), spot.model_copy(update=relaxed)):
        candidate, publication = refresh(view, engine, hour)
        assert publication is not None, candidate.outcomes
        found |= bars(view, hour)
        quarantined = load_table(view, view.tables.quarantine).scan(
            f"event_time >= '{hour.isoformat()}' and event_time < '{(hour + DAY).isoformat()}'"
        )
        expected = [(SPOT.exchange, 901, "other_exchange")] if view.market is Market.USD_M else []
        expected += [(SPOT.exchange, 900, "qty_zero")] if view.market is Market.SPOT else []
        rejected = quarantined.to_arrow().to_pylist()
        assert [(row["exchange"], row["trade_id"], row["rule"]) for row in rejected] == expected
    complete: dict[str, list[bool]] = {USD_M.exchange: [], SPOT.exchange: []}
    for (exchange, _, _), bar in sorted(found.items()):
        complete[exchange].append(bar["is_complete"])
    assert complete == {USD_M.exchange: [True] * 4, SPOT.exchange: [False, False, True, True]}

    mine = [item for item in read_gaps(lake) if item.after_us == gap.after_us]
    assert mine == [coin_gap]
    assert [item for item in read_gaps(spot) if item.after_us == gap.after_us] == [gap]
    assert coin_gap in IcebergGapSink(lake.of_market(Market.COIN_M)).open_gaps()
    assert coin_gap not in IcebergGapSink(lake).open_gaps(), "a market resumes its own gaps"

    for view, exchanges in ((lake, []), (spot, [SPOT.exchange])):
        completeness = load_run_inputs(view, hour, hour + HOUR).completeness
        differences = judge_hour(view, hour, completeness, "test").differences
        assert sorted({row["exchange"] for row in differences}) == exchanges
