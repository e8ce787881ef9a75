"""DuckDB and Spark compute equal aggregates to the last digit, for the real capture and hostile generated trades."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pytest

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.lake.bootstrap import bootstrap, ensure_table
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.migrations import widen_decimals
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.columns import PRICE
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import USD_M, Family, exchanges_of
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.minute_bars import RowCounts
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.engines.spark_engine import SparkEngine
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.reference import Trade, reference_bars
from cryptolake_tests.support.silver_runs import rebuild

CAPTURE_HOURS = [datetime(2024, 7, 18, 23, tzinfo=UTC), datetime(2024, 7, 19, 0, tzinfo=UTC)]
GENERATED_HOUR = datetime(2024, 12, 24, 10, tzinfo=UTC)
CONTEXT = RuleContext(
    exchanges=exchanges_of(Family.FUTURES),
    symbols=tuple((exchange, symbol) for exchange in exchanges_of(Family.FUTURES) for symbol in ("BTCUSDT", "ETHUSDT")),
    earliest=datetime(2024, 1, 1, tzinfo=UTC),
    latest=datetime(2026, 1, 1, tzinfo=UTC),
    quarantined=(("binance_futures", "BTCUSDT", "trade", 77),),
)


@pytest.fixture(scope="module")
def engines(platform: Settings) -> Iterator[tuple[AggregationEngine, AggregationEngine]]:
    bootstrap(platform)
    session = connect(platform)
    yield DuckDBEngine(platform), SparkEngine(platform, session)
    session.stop()


def captured_trades() -> Iterator[Trade]:
    """Yield the shipped capture's trades as rows of Bronze."""
    for number, frame in enumerate(read_frames(DEMO_CAPTURE_DIR)):
        parsed = parse_frame(frame.raw, ingest_time_us=frame.receive_time_ns // 1000, exchange=USD_M.exchange)
        if isinstance(parsed, AcceptedFrame):
            event = parsed.event
            when = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=event.event_time)
            yield trade(
                when,
                event.trade_id,
                price=event.price,
                qty=event.qty,
                symbol=event.symbol,
                side=event.side,
                trade_type=event.trade_type,
                kafka_offset=number,
            )


def hostile_trades(number: int) -> list[Trade]:
    """Return shuffled trades: extreme values, ties, both streams, duplicates, invalid and conflicting copies."""
    source = random.Random(11)  # noqa: S311  not for secrets
    made = []
    for position in range(number):
        when = GENERATED_HOUR + timedelta(microseconds=source.choice([source.randrange(3_600_000_000), 0, 59_999_999]))
        trade_id = source.choice([position, position, 2**40 + position, 2**63 - 1 - position])
        made.append(
            trade(
                when,
                trade_id,
                symbol=source.choice(["BTCUSDT", "ETHUSDT", "NOPEUSDT"]),
                price=f"{Decimal(source.choice([1, 10**18 - 1, source.randrange(10**18), 0, -5])).scaleb(-8):f}",
                qty=f"{Decimal(source.choice([1, source.randrange(10**12), 0, -5, 10**27 - 1])).scaleb(-8):f}",
                side=source.choice(["buy", "sell"]),
                trade_type=source.choice(["MARKET", "MARKET", "INSURANCE_FUND"]),
                stream=source.choice(["trade", "aggTrade"]),
                exchange=source.choice(["binance_futures", "binance_futures", "binance_futures_coin", "binance_spot"]),
                first_trade_id=position * 5,
                last_trade_id=position * 5 + source.randrange(5),
            )
        )
    duplicates = source.sample(made, number // 5)
    invalid = [{**item, "price": Decimal(-1)} for item in source.sample(made, number // 20)]
    conflicting = [{**item, "qty": item["qty"] + 1} for item in source.sample(made, number // 20)]
    everything = made + duplicates + invalid + conflicting
    source.shuffle(everything)
    return everything


def large_numbers(hour: datetime, number: int) -> list[Trade]:
    """Return valid trades that fit Spark's fast query: all digits used, ties, several duplicates of a trade.

    Two exchanges have the same symbols and ids.
    """
    source = random.Random(12)  # noqa: S311  not for secrets
    edges = [1, 22 * 10**14 - 1, 22 * 10**14, 22 * 10**14 + 1]

    def of_digits(limit: int) -> str:
        units = source.choice(
            [10**limit - 1, source.randrange(1, 10**limit), *(one for one in edges if one < 10**limit)]
        )
        return f"{Decimal(units).scaleb(-8):f}"

    made = [
        trade(
            hour + timedelta(microseconds=source.choice([source.randrange(120_000_000), 0, 59_999_999])),
            2**37 - 1 - position // 4 * 2 - position % 2,
            exchange=exchanges_of(Family.FUTURES)[position // 2 % 2],
            price=of_digits(18 if position % 2 else 13),
            qty=of_digits(13 if position % 2 else 16),
            side=source.choice(["buy", "sell"]),
            trade_type=source.choice(["MARKET", "MARKET", "ADL"]),
        )
        for position in range(number)
    ]
    return made + source.sample(made, number // 4) + source.choices(made, k=number // 4)


def aggregated(
    settings: Settings, engine: AggregationEngine, hours: list[datetime]
) -> list[tuple[datetime, list[dict[str, Any]], RowCounts]]:
    snapshot = load_table(settings, FUTURES.trades).current_snapshot()
    assert snapshot is not None
    return [
        (
            hour,
            sorted(made.rows.to_pylist(), key=itemgetter("exchange", "symbol", "stream", "window_start")),
            made.counts,
        )
        for hour, made in engine.minute_aggregates(FUTURES, snapshot.snapshot_id, hours, None, CONTEXT)
    ]


def test_engines_agree_on_the_shipped_capture(
    platform: Settings, engines: tuple[AggregationEngine, AggregationEngine]
) -> None:
    append(platform, captured_trades())
    duckdb, spark = (aggregated(platform, engine, CAPTURE_HOURS) for engine in engines)
    assert duckdb == spark
    assert sum(counts.rows_valid for _, _, counts in duckdb) >= 24_356
    assert len(list(chain.from_iterable(rows for _, rows, _ in duckdb))) == 18


def test_engines_agree_on_hostile_generated_trades(
    platform: Settings, engines: tuple[AggregationEngine, AggregationEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    trades = hostile_trades(6_000)
    for start in range(0, len(trades), 2_500):
        append(platform, trades[start : start + 2_500])
    capsys.readouterr()
    duckdb, spark = (aggregated(platform, engine, [GENERATED_HOUR]) for engine in engines)
    assert "spark_fallback_used" in capsys.readouterr().out
    assert duckdb == spark
    ((_, rows, counts),) = duckdb
    assert len(rows) > 100
    assert counts.rows_in == len(trades)
    assert counts.rows_valid > 0
    assert counts.rows_duplicate > 0
    assert counts.rows_other_type > 0
    rules = ("other_exchange", "unknown_symbol", "price_not_positive", "qty_negative")
    assert min(counts.dropped_by_rule[rule] for rule in rules) > 0


def test_large_numbers_stay_exact_in_sparks_fast_query(
    platform: Settings, engines: tuple[AggregationEngine, AggregationEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    hour = GENERATED_HOUR + timedelta(hours=1)
    append(platform, large_numbers(hour, 3_000))
    capsys.readouterr()
    duckdb, spark = (aggregated(platform, engine, [hour]) for engine in engines)
    assert "spark_fallback_used" not in capsys.readouterr().out
    assert duckdb == spark
    ((_, rows, counts),) = duckdb
    assert (len(rows), counts.rows_duplicate) == (4, 1_500)
    assert {row["exchange"] for row in rows} == set(exchanges_of(Family.FUTURES))


def wide_trades(start: datetime) -> list[Trade]:
    """Return trades with quantities of 1 to 20 digits; products have 16 decimals and exceed 2^63."""
    quantities = ("12500000000", "99999999999.12345679", "12345678901234567890.12345679", "0.00000001", "9999999999.5")
    prices = ("0.00000041", "0.00012347", "0.00000003", "1.23456789", "0.00041237")
    return [
        trade(start + timedelta(seconds=number), number, price=price, qty=qty)
        for number, (price, qty) in enumerate(zip(prices, quantities, strict=True), start=1_000)
    ]


def test_engines_read_a_widened_table_and_its_older_snapshots(
    platform: Settings, engines: tuple[AggregationEngine, AggregationEngine]
) -> None:
    """Widen a table of the earlier type; both engines and PyIceberg read its old and new snapshots."""
    now = replace(FUTURES.trades, name="widened_trades")
    before = replace(
        now,
        columns=tuple(
            replace(column, type=PRICE) if column.name == "qty" else column for column in FUTURES.trades.columns
        ),
    )
    tables = replace(FUTURES, trades=now)
    hour = GENERATED_HOUR
    narrow = [trade(hour + timedelta(seconds=30), 1, qty="9999999999.99999999"), trade(hour, 2, qty="0.00000001")]
    ensure_table(platform, before)
    table = load_table(platform, now)
    table.append(pa.Table.from_pylist(narrow, schema=before.arrow_schema()))
    widen_decimals(platform, now)
    table = load_table(platform, now)
    table.append(pa.Table.from_pylist(wide_trades(hour), schema=now.arrow_schema()))
    snapshots = [entry.snapshot_id for entry in table.history()]
    for snapshot, trades in zip(snapshots, (narrow, narrow + wide_trades(hour)), strict=True):
        expected = reference_bars(trades)
        read = table.scan(snapshot_id=snapshot, selected_fields=("qty",)).to_arrow()["qty"].to_pylist()
        assert sorted(read) == sorted(item["qty"] for item in trades)
        for engine in engines:
            ((_, made),) = engine.minute_aggregates(tables, snapshot, [hour], None, CONTEXT)
            found = {(row["exchange"], row["symbol"], row["window_start"]): row for row in made.rows.to_pylist()}
            assert found.keys() == expected.keys()
            for key, bar in expected.items():
                assert {name: found[key][name] for name in bar if name != "vwap"} == {
                    name: value for name, value in bar.items() if name != "vwap"
                }, engine.name


def test_engines_agree_on_daily_aggregates(
    platform: Settings, engines: tuple[AggregationEngine, AggregationEngine]
) -> None:
    hour = GENERATED_HOUR + timedelta(days=1)
    source = random.Random(3)  # noqa: S311
    append(
        platform,
        [
            trade(
                hour + timedelta(seconds=7 * number),
                number,
                price=f"{Decimal(source.randrange(1, 10**17)).scaleb(-8):f}",
            )
            for number in range(500)
        ],
    )
    rebuild(platform, engines[0], hour, hour + HOUR)
    snapshot = load_table(platform, FUTURES.bars).current_snapshot()
    assert snapshot is not None
    duckdb, spark = (
        engine.daily_aggregates(FUTURES, snapshot.snapshot_id, hour.date()).to_pylist() for engine in engines
    )
    assert duckdb == spark
    assert len(duckdb[0]["closes"]) == 59
