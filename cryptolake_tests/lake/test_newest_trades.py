"""Each symbol's newest trade, read from the newest files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pyiceberg.io import FileIO

from cryptolake_assets.lake import newest_trades as module
from cryptolake_assets.lake.bronze_files import newest_hour
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.newest_trades import LOOK_BACK, newest_trades
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR, MINUTE
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

START = datetime(2024, 7, 19, 10, tzinfo=UTC)
BOTH = ("BTCUSDT", "ETHUSDT")


def found(lake: Settings, stream: str = "trade", symbols: tuple[str, ...] = BOTH) -> dict[str, tuple[int, int]]:
    return newest_trades(lake, "binance_futures", stream, symbols)


def us(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000)


def test_empty_table_has_no_newest_trade(lake: Settings) -> None:
    assert newest_hour(load_table(lake, FUTURES.trades)) is None
    assert found(lake) == {}


def test_newest_trade_is_the_one_with_the_highest_id(lake: Settings) -> None:
    append(lake, [trade(START, 7), trade(START + MINUTE, 9), trade(START, 3, symbol="ETHUSDT")])
    append(lake, [trade(START + 2 * MINUTE, 8)])
    assert found(lake) == {"BTCUSDT": (9, us(START + MINUTE)), "ETHUSDT": (3, us(START))}


def test_trades_of_another_stream_exchange_or_symbol_are_ignored(lake: Settings) -> None:
    append(lake, [trade(START, 5), trade(START, 90, stream="aggTrade"), trade(START, 91, exchange="other")])
    append(lake, [trade(START + HOUR, 92, symbol="SOLUSDT")])
    assert found(lake) == {"BTCUSDT": (5, us(START))}
    assert found(lake, "aggTrade") == {"BTCUSDT": (90, us(START))}


def test_only_the_newest_files_are_read(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []
    read = module._read

    def recorded_read(io: FileIO, path: str) -> pa.Table:
        paths.append(path)
        return read(io, path)

    monkeypatch.setattr(module, "_read", recorded_read)
    for hour in range(8):
        append(lake, [trade(START + hour * HOUR, hour), trade(START + hour * HOUR, hour, symbol="ETHUSDT")])
    assert found(lake) == {"BTCUSDT": (7, us(START + 7 * HOUR)), "ETHUSDT": (7, us(START + 7 * HOUR))}
    assert len(paths) == 1
    assert newest_hour(load_table(lake, FUTURES.trades)) == START + 7 * HOUR


def test_search_is_bounded_in_time_and_rows(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    append(lake, [trade(START, 1, symbol="ETHUSDT")])
    append(lake, [trade(START + LOOK_BACK + timedelta(hours=2), 2)])
    assert found(lake).keys() == {"BTCUSDT"}
    append(lake, [trade(START + LOOK_BACK + HOUR, 3, symbol="ETHUSDT")])
    assert found(lake).keys() == set(BOTH)
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    assert found(lake).keys() == {"BTCUSDT"}
