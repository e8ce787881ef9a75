"""The DuckDB engine splits hours that are too large for memory, with the same result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from cryptolake_assets.lake.bronze_files import files_between
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.minute_bars import RowCounts
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines import duckdb_engine
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.bronze import append, trade

START = datetime(2024, 7, 19, 10, tzinfo=UTC)
SYMBOLS = (("binance_futures", "BTCUSDT"), ("binance_futures", "ETHUSDT"))
CONTEXT = RuleContext(("binance_futures",), SYMBOLS, START - timedelta(days=1), START + timedelta(days=1))

SPOT_CONTEXT = replace(CONTEXT, exchanges=("binance_spot",), symbols=(("binance_spot", "BTCUSDT"),))


@pytest.fixture
def aggregated(lake: Settings) -> Callable[[], tuple[list[dict[str, Any]], RowCounts]]:
    source = random.Random(5)  # noqa: S311  not for secrets
    trades = [
        trade(
            START + timedelta(milliseconds=source.randrange(3_600_000)),
            number,
            symbol=source.choice(["BTCUSDT", "ETHUSDT", "NOPEUSDT"]),
            qty=source.choice(["1", "0"]),
            trade_type=source.choice(["MARKET", "ADL"]),
        )
        for number in range(600)
    ]
    append(lake, trades + trades[:100])

    def aggregate() -> tuple[list[dict[str, Any]], RowCounts]:
        table = load_table(lake, FUTURES.trades)
        ((_, made),) = DuckDBEngine(lake).minute_aggregates(
            FUTURES, table.metadata.current_snapshot_id or 0, [START], None, CONTEXT
        )
        return sorted(made.rows.to_pylist(), key=lambda row: (row["symbol"], row["window_start"])), made.counts

    return aggregate


def test_split_hour_has_the_same_result(
    aggregated: Callable[[], tuple[list[dict[str, Any]], RowCounts]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unsplit = aggregated()
    monkeypatch.setattr(duckdb_engine, "ROWS_AT_ONCE", 50)
    assert aggregated() == unsplit
    rows, counts = unsplit
    assert len(rows) > 40
    assert counts.rows_in == 700
    assert counts.rows_duplicate == 100


@pytest.mark.parametrize("rows_at_once", [1, 7, 10, 1_000])
def test_parts_are_full_minutes_without_gaps(
    lake: Settings, aggregated: object, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(duckdb_engine, "ROWS_AT_ONCE", rows_at_once)
    table = load_table(lake, FUTURES.trades)
    files = files_between(table, table.metadata.current_snapshot_id or 0, START, START + HOUR)
    parts = list(duckdb_engine._split(files, START, START + HOUR))
    assert (parts[0][0], parts[-1][1]) == (START, START + HOUR)
    assert all(earlier[1] == later[0] for earlier, later in pairwise(parts))
    assert all(first < last and first.second == 0 for first, last in parts)
    assert len(parts) == min(60, -(-700 // rows_at_once))


@pytest.mark.parametrize("exchanges", [{"binance_futures"}, {"binance_futures", "binance_spot"}, {"binance_spot"}])
def test_trades_of_another_market_with_the_same_symbol_make_no_bar(lake: Settings, exchanges: set[str]) -> None:
    moment = START + timedelta(minutes=1)
    of_futures = [trade(moment, number, price="10") for number in range(3)]
    of_spot = [trade(moment, number, price="99", qty="5", exchange="binance_spot") for number in range(7)]
    append(lake, [row for row in of_futures + of_spot if row["exchange"] in exchanges])
    table = load_table(lake, FUTURES.trades)
    for context, own in ((CONTEXT, of_futures), (SPOT_CONTEXT, of_spot)):
        snapshot = table.metadata.current_snapshot_id or 0
        ((_, aggregates),) = DuckDBEngine(lake).minute_aggregates(FUTURES, snapshot, [START], None, context)
        is_present = own[0]["exchange"] in exchanges
        assert [row["high"] for row in aggregates.rows.to_pylist()] == ([own[0]["price"]] if is_present else [])
        others = sum(
            len(rows) for rows in (of_futures, of_spot) if rows is not own and rows[0]["exchange"] in exchanges
        )
        assert aggregates.counts.dropped_by_rule["other_exchange"] == others
        assert aggregates.counts.rows_valid == (len(own) if is_present else 0)
