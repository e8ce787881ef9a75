"""Lag of bars per symbol, with idle symbols and finished replays excluded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.freshness import SymbolLag, judge, symbol_lags
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.hour_bars import bar

CLOCK = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def lag(symbol: str, seconds: float, *, is_idle: bool = False) -> SymbolLag:
    return SymbolLag("binance_spot", symbol, timedelta(seconds=seconds), is_idle)


def test_every_symbol_is_compared_with_the_limit() -> None:
    outcome = judge([lag("A", 10), lag("B", 301), lag("C", 900)], CLOCK, 300, replay_finished=False)
    assert not outcome.passed
    lagging = [{"exchange": "binance_spot", "symbol": name, "lag_s": s} for name, s in (("B", "301"), ("C", "900"))]
    assert outcome.failing_rows == lagging
    assert "largest lag 900 s of 3 symbols" in outcome.description


def test_idle_symbol_does_not_lag() -> None:
    outcome = judge([lag("A", 10), lag("B", 5_000, is_idle=True)], CLOCK, 300, replay_finished=False)
    assert outcome.passed
    assert "1 without trades" in outcome.description


def test_lag_is_that_of_the_symbols_exchange(lake: Settings) -> None:
    usdm, coinm = ("binance_futures", "BTCUSDT"), ("binance_futures_coin", "BTCUSDT")
    rules = RuleContext((usdm[0], coinm[0]), (coinm, usdm), CLOCK - timedelta(days=1), CLOCK)
    covered = [CoverageRow(*key, "trade", 0, epoch_ms(CLOCK), None, None, "x") for key in (usdm, coinm)]
    inputs = RunInputs(None, rules, CompletenessIndex(covered, {}, 0), {})
    last = {usdm: CLOCK - timedelta(minutes=10), coinm: CLOCK - timedelta(minutes=30)}
    rows = [bar(0, exchange=key[0], window_start=at - timedelta(minutes=1)) for key, at in last.items()]
    table = load_table(lake, lake.tables.bars)
    table.append(pa.Table.from_pylist(rows, schema=lake.tables.bars.arrow_schema()))
    append(lake, [trade(CLOCK - timedelta(minutes=5), 1)])
    lags = symbol_lags(lake, inputs, CLOCK, limit_s=60)
    assert lags == [
        SymbolLag(*usdm, timedelta(minutes=10), is_idle=False),
        SymbolLag(*coinm, timedelta(minutes=30), is_idle=True),
    ]


def test_nothing_lags_after_a_replay_has_finished() -> None:
    outcome = judge([], CLOCK, 300, replay_finished=True)
    assert outcome.passed
    assert "replay finished" in outcome.description
