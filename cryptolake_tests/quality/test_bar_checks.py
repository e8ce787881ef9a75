"""Blocking checks on bars: each passes valid bars and fails on its own violation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from cryptolake_assets.ingest import archive_checks
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.quality import batch_checks, book_checks, stream_minute_checks
from cryptolake_assets.quality.bar_checks import (
    DEPENDENCIES,
    FRAMES_ACCEPTED,
    GOLD_CHECKS,
    HEARTBEAT,
    LIVE_BARS,
    MEANINGS,
    PUBLISHED_COUNT,
    ROW_CHECKS,
    SILVER_CHECKS,
    SILVER_OBSERVATIONS,
    UP_TO_DATE,
    check_counts,
)
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.quality.minute_bars import RowCounts

MINUTE = datetime(2024, 7, 19, tzinfo=UTC)
SAMPLE = [{"rule": "qty_zero", "trade_id": "7"}]


def bar(minute: int = 0, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "exchange": "binance_futures",
        "symbol": "BTCUSDT",
        "window_start": MINUTE + timedelta(minutes=minute),
        "open": Decimal(10),
        "high": Decimal(12),
        "low": Decimal(9),
        "close": Decimal(11),
        "volume": Decimal(5),
        "quote_volume": Decimal(50),
        "vwap": Decimal(10),
        "trades": 3,
        "taker_buy_volume": Decimal(2),
        "taker_buy_quote_volume": Decimal(20),
        "first_trade_id": 1,
        "last_trade_id": 3,
        "is_complete": True,
        "updated_at": None,
        "trades_dropped": 0,
        "evidence": "ids",
        "stream": "trade",
    }
    return {**row, **changes}


def failed(*bars: dict[str, Any]) -> list[CheckOutcome]:
    candidate = pa.Table.from_pylist(list(bars), schema=FUTURES.bars.arrow_schema())
    return failed_of(candidate)


def failed_of(candidate: pa.Table) -> list[CheckOutcome]:
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, FUTURES.bars, candidate, ROW_CHECKS["silver"])
    return [outcome for outcome in outcomes if not outcome.passed]


def test_valid_bars_pass_all_checks() -> None:
    assert failed(bar(), bar(1, is_complete=False, evidence=None), bar(2, open=Decimal(9), close=Decimal(12))) == []


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("ohlc_order", {"open": Decimal("12.00000001")}),
        ("ohlc_order", {"close": Decimal("8.99999999")}),
        (
            "volumes_not_negative",
            {"quote_volume": Decimal("-0.0000000000000001"), "taker_buy_quote_volume": Decimal(-1)},
        ),
        ("taker_buy_within_volume", {"taker_buy_volume": Decimal("5.00000001")}),
        ("trades_at_least_one", {"trades": 0}),
        ("no_nulls", {"vwap": None}),
        ("no_nulls", {"stream": None}),
    ],
)
def test_invalid_bar_fails_its_check_and_is_sampled(check: str, changes: dict[str, Any]) -> None:
    by_name = {outcome.name: outcome for outcome in failed(bar(), bar(1, **changes))}
    assert by_name[check].failing_count == 1
    assert by_name[check].failing_rows[0]["window_start"].startswith("2024-07-19 00:01")


def test_duplicate_bars_fail_unique_key() -> None:
    assert [(outcome.name, outcome.failing_count) for outcome in failed(bar(), bar())] == [("unique_key", 1)]


def test_different_column_type_fails_schema() -> None:
    candidate = pa.Table.from_pylist([bar()], schema=FUTURES.bars.arrow_schema())
    widened = candidate.set_column(3, "open", candidate["open"].cast(pa.decimal128(20, 8)))
    assert [outcome.name for outcome in failed_of(widened)] == ["schema"]


def counts_failed(counts: RowCounts, expected_rows: int) -> list[CheckOutcome]:
    outcomes = check_counts(counts, expected_rows, 0.05)
    return [outcome for outcome in outcomes if not outcome.passed]


def test_drop_ratio_counts_distinct_trades_and_lists_rules() -> None:
    at_the_limit = RowCounts(rows_in=140, rows_valid=95, rows_duplicate=40, dropped_by_rule={"qty_zero": 5})
    assert counts_failed(at_the_limit, 140) == []
    over = RowCounts(rows_in=140, rows_valid=94, rows_duplicate=40, dropped_by_rule={"qty_zero": 6})
    (outcome,) = counts_failed(over, 140)
    assert outcome.description == "6 of 100 trades dropped (6.00%); the limit is 5.00%; qty_zero: 6"
    assert outcome.failing_count == 6


@pytest.mark.parametrize(("rows_in", "expected_rows"), [(10, 11), (11, 10), (11, 11)])
def test_unread_or_uncounted_row_fails_row_count(rows_in: int, expected_rows: int) -> None:
    counts = RowCounts(rows_in=rows_in, rows_valid=8, rows_duplicate=1, rows_other_type=1)
    assert [outcome.name for outcome in counts_failed(counts, expected_rows)] == ["row_count"]
    assert counts_failed(RowCounts(rows_in=10, rows_valid=8, rows_duplicate=1, rows_other_type=1), 10) == []


def test_every_check_has_a_description() -> None:
    others = {PUBLISHED_COUNT, UP_TO_DATE, LIVE_BARS, HEARTBEAT, FRAMES_ACCEPTED, DEPENDENCIES}
    others |= {*archive_checks.BLOCKING, *archive_checks.WARNING}
    others |= {name for rules in batch_checks.BATCH_RULES.values() for name in rules}
    others |= {archive_checks.KLINES_OF_DAY}
    others |= {*batch_checks.MEANINGS, *stream_minute_checks.MEANINGS, *book_checks.MEANINGS}
    assert {*SILVER_CHECKS, *SILVER_OBSERVATIONS, *GOLD_CHECKS, *others} == set(MEANINGS)
