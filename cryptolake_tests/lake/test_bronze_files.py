"""Data files of an interval, new data files, and the column values known from manifests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cryptolake_assets.errors import SnapshotExpiredError
from cryptolake_assets.lake.bronze_files import (
    added_files,
    current_sequence,
    files_between,
    local_path,
    quantities_fit,
    scan_trades,
)
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.model.columns import PRICE
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR, MINUTE
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, append_narrow, trade

START = datetime(2024, 7, 19, 10, tzinfo=UTC)


@pytest.fixture
def snapshot_ids(lake: Settings) -> list[int]:
    """Make three commits: two in the first hour, one in the second and the fourth."""
    ids = []
    for trades in (
        [trade(START, 1), trade(START + 9 * MINUTE, 2, symbol="ETHUSDT")],
        [trade(START + 30 * MINUTE, 3), trade(START + 59 * MINUTE, 4, trade_type="ADL")],
        [trade(START + HOUR, 5), trade(START + 3 * HOUR, 6)],
    ):
        append(lake, trades)
        snapshot_id = load_table(lake, FUTURES.trades).metadata.current_snapshot_id
        assert snapshot_id is not None
        ids.append(snapshot_id)
    return ids


def between(lake: Settings, snapshot_id: int, first: datetime, last: datetime) -> list[tuple[datetime, datetime]]:
    files = files_between(load_table(lake, FUTURES.trades), snapshot_id, first, last)
    return sorted((file.earliest, file.latest) for file in files)


def test_interval_selects_the_files_that_overlap_it(lake: Settings, snapshot_ids: list[int]) -> None:
    head = snapshot_ids[-1]
    early, late = (START, START + 9 * MINUTE), (START + 30 * MINUTE, START + 59 * MINUTE)
    assert between(lake, head, START, START + HOUR) == [early, late]
    assert between(lake, head, START + 9 * MINUTE, START + 10 * MINUTE) == [early]
    assert between(lake, head, START + 10 * MINUTE, START + 30 * MINUTE) == []
    assert between(lake, head, START + HOUR, START + 2 * HOUR) == [(START + HOUR, START + HOUR)]
    assert between(lake, head, START + 2 * HOUR, START + 3 * HOUR) == []
    assert between(lake, snapshot_ids[0], START, START + HOUR) == [early]


def test_manifests_show_columns_with_a_single_value(lake: Settings, snapshot_ids: list[int]) -> None:
    table = load_table(lake, FUTURES.trades)
    early, late = sorted(files_between(table, snapshot_ids[-1], START, START + HOUR), key=lambda file: file.earliest)
    assert early.constants["trade_type"] == "MARKET"
    assert early.constants["stream"] == late.constants["stream"] == "trade"
    assert late.constants["symbol"] == "BTCUSDT"
    assert "symbol" not in early.constants
    assert "trade_type" not in late.constants


def test_possibly_truncated_bound_is_not_a_constant(lake: Settings) -> None:
    append(lake, [trade(START, 1, exchange="binance_futures_a"), trade(START, 2, exchange="binance_futures_b")])
    table = load_table(lake, FUTURES.trades)
    (file,) = files_between(table, table.metadata.current_snapshot_id or 0, START, START + HOUR)
    assert "exchange" not in file.constants


def test_files_of_narrow_and_wide_quantities_are_read_together_in_any_order(lake: Settings) -> None:
    wide, narrow = "12345678901.00000001", "9999999999.99999999"
    append(lake, [trade(START, 1, qty=wide), trade(START, 2, qty="-1")])
    append_narrow(lake, [trade(START, 3, qty=narrow)])
    table = load_table(lake, FUTURES.trades)
    files = files_between(table, table.metadata.current_snapshot_id or 0, START, START + HOUR)
    assert {pq.read_schema(local_path(file.path)).field("qty").type for file in files} == {
        pa.decimal128(18, 8),
        pa.decimal128(28, 8),
    }
    assert sorted(file.largest_qty or 0 for file in files) == [10**18 - 1, 1_234_567_890_100_000_001]
    for ordered in (files, files[::-1]):
        with open_duckdb() as duck:
            rows = duck.sql(f"SELECT qty::VARCHAR FROM {scan_trades(duck, ordered)} ORDER BY trade_id").fetchall()
        assert rows == [(wide,), ("-1.00000000",), (narrow,)]
    assert [quantities_fit([file], PRICE) for file in sorted(files, key=lambda file: file.largest_qty or 0)] == [
        True,
        False,
    ]
    read = table.scan().to_arrow().sort_by("trade_id")["qty"]
    assert read.to_pylist() == [Decimal(wide), Decimal(-1), Decimal(narrow)]


def test_only_files_above_the_cursor_are_new(lake: Settings, snapshot_ids: list[int]) -> None:
    table = load_table(lake, FUTURES.trades)
    assert current_sequence(table) == 3
    assert {file.hour for file in added_files(table, 2)} == {START + HOUR, START + 3 * HOUR}
    assert sum(file.rows for file in added_files(table, 0)) == 6
    assert added_files(table, 3) == []


def test_expired_snapshot_raises_an_error_with_the_next_step(lake: Settings) -> None:
    with pytest.raises(SnapshotExpiredError, match="Run the refresh again"):
        files_between(load_table(lake, FUTURES.trades), 12345, START, START + timedelta(hours=1))
