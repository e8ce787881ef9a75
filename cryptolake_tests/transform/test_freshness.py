"""Lag of bars per symbol, with idle symbols and finished replays excluded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptolake_assets.transform.freshness import SymbolLag, judge

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


def test_nothing_lags_after_a_replay_has_finished() -> None:
    outcome = judge([], CLOCK, 300, replay_finished=True)
    assert outcome.passed
    assert "replay finished" in outcome.description
