"""Rows of earlier releases get their exchange: each file is rewritten once, and nothing else of a row changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from cryptolake_assets.lake import exchange_column
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import swap_files
from cryptolake_assets.lake.exchange_column import fill_exchange, tables_with_symbol_keys
from cryptolake_assets.lake.migrations import add_columns
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.mart_tables import DAILY_RETURNS
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import table_properties
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.lakes import append_old, without_exchange

DAY = datetime(2024, 7, 19, tzinfo=UTC)
WRITTEN = DAY + timedelta(hours=30)
PROPERTIES = {"cryptolake.bronze-sequence": "7", "cryptolake.run-id": "old"}
SYMBOLS = ("BTCUSDT", "BTCUSD_PERP", "ETHUSDT")


def bars(day: datetime, symbols: tuple[str, ...] = SYMBOLS) -> list[dict[str, Any]]:
    return [
        {
            "symbol": symbol,
            "window_start": day + timedelta(minutes=minute),
            "open": Decimal("1.5"),
            "trades": minute,
            "updated_at": WRITTEN,
        }
        for symbol in sorted(symbols)
        for minute in range(3)
    ]


@pytest.fixture
def old_bars(lake: Settings) -> Settings:
    """A lake whose futures bars of four days have no exchange."""
    without_exchange(lake, FUTURES.bars)
    for number in range(4):
        append_old(lake, FUTURES.bars, bars(DAY + timedelta(days=number)), PROPERTIES)
    add_columns(lake, FUTURES.bars)
    return lake


def rows(settings: Settings, spec: TableSpec) -> list[dict[str, Any]]:
    found = load_table(settings, spec).scan().to_arrow().to_pylist()
    return sorted(found, key=lambda row: tuple(row[name] for name in spec.key))


def files(settings: Settings, spec: TableSpec) -> list[str]:
    return sorted(task.file.file_path for task in load_table(settings, spec).scan().plan_files())


def test_new_columns_are_at_their_places(old_bars: Settings) -> None:
    names = load_table(old_bars, FUTURES.bars).schema().column_names
    assert tuple(names) == FUTURES.bars.column_names


def test_rows_get_the_exchange_of_their_symbol_and_keep_everything_else(old_bars: Settings) -> None:
    before = load_table(old_bars, FUTURES.bars).scan().to_arrow().to_pylist()
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    found = rows(old_bars, FUTURES.bars)
    assert {row["symbol"]: row["exchange"] for row in found} == {
        "BTCUSDT": "binance_futures",
        "ETHUSDT": "binance_futures",
        "BTCUSD_PERP": "binance_futures_coin",
    }
    assert {row["stream"] for row in found} == {None}

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["symbol"], row["window_start"]

    assert sorted(({**row, "exchange": None} for row in found), key=key) == sorted(before, key=key)


def test_files_stay_in_their_partitions_and_in_key_order(old_bars: Settings) -> None:
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    table = load_table(old_bars, FUTURES.bars)
    tasks = list(table.scan().plan_files())
    assert len({task.file.partition[0] for task in tasks}) == len(tasks) == 4
    for day in range(4):
        start = DAY + timedelta(days=day)
        filed = table.scan(row_filter=f"window_start >= '{start.isoformat()}'").to_arrow().to_pylist()
        keys = [
            (row["exchange"], row["symbol"], row["window_start"])
            for row in filed
            if row["window_start"] < start + timedelta(days=1)
        ]
        assert keys == sorted(keys)


def test_new_snapshot_keeps_the_properties_that_readers_use(old_bars: Settings) -> None:
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    snapshot = load_table(old_bars, FUTURES.bars).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert {name: snapshot.summary[name] for name in PROPERTIES} == PROPERTIES


def test_second_run_changes_nothing(old_bars: Settings) -> None:
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    before = load_table(old_bars, FUTURES.bars).metadata_location
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    assert load_table(old_bars, FUTURES.bars).metadata_location == before


def test_interrupted_run_rewrites_only_the_remaining_files(old_bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_column, "FILES_PER_COMMIT", 1)

    def swap_then_fail(*arguments: Any) -> None:
        swap_files(*arguments)
        raise OSError("killed")

    monkeypatch.setattr(exchange_column, "swap_files", swap_then_fail)
    seen = [set(files(old_bars, FUTURES.bars))]
    for _ in range(4):
        with pytest.raises(OSError, match="killed"):
            fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
        seen.append(set(files(old_bars, FUTURES.bars)))
    assert [len(after - before) for before, after in pairwise(seen)] == [1, 1, 1, 1]
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    assert set(files(old_bars, FUTURES.bars)) == seen[-1]
    assert {row["exchange"] for row in rows(old_bars, FUTURES.bars)} == {"binance_futures", "binance_futures_coin"}


def test_lost_race_is_retried_on_the_new_state(old_bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    raced: list[bool] = []

    def load_then_race(settings: Settings, spec: TableSpec) -> Any:
        table = load_table(settings, spec)
        if not raced:
            raced.append(True)
            later = bars(DAY + timedelta(days=9), ("SOLUSDT",))
            append_old(settings, spec, [{**row, "exchange": "binance_futures"} for row in later], {})
        return table

    monkeypatch.setattr(exchange_column, "load_table", load_then_race)
    fill_exchange(old_bars, FUTURES.bars, Family.FUTURES)
    assert len(rows(old_bars, FUTURES.bars)) == 4 * 9 + 3
    assert not load_table(old_bars, FUTURES.bars).scan(row_filter="exchange is null").to_arrow().num_rows


def test_marts_of_a_spot_lake_get_the_exchange_of_spot(lake: Settings) -> None:
    get_catalog(lake).create_table(
        DAILY_RETURNS.identifier,
        schema=DAILY_RETURNS.iceberg_schema(),
        partition_spec=DAILY_RETURNS.partition_spec(),
        properties=table_properties(DAILY_RETURNS),
    )
    without_exchange(lake, DAILY_RETURNS)
    append_old(lake, DAILY_RETURNS, [{"symbol": "BTCUSDT", "trade_date": DAY.date(), "updated_at": WRITTEN}], {})
    marts = [(spec, family) for spec, family in tables_with_symbol_keys(lake, Family.SPOT) if spec.namespace == "marts"]
    assert marts == [(DAILY_RETURNS, Family.SPOT)], "only marts that exist"
    add_columns(lake, DAILY_RETURNS)
    fill_exchange(lake, *marts[0])
    assert rows(lake, DAILY_RETURNS)[0]["exchange"] == "binance_spot"


def test_tables_that_always_had_the_exchange_are_not_rewritten(lake: Settings) -> None:
    found = {spec.full_name for spec, _ in tables_with_symbol_keys(lake, Family.FUTURES)}
    for tables in FAMILY_TABLES.values():
        assert not found & {spec.full_name for spec in (tables.trades, tables.rejected, tables.gaps, tables.quarantine)}
