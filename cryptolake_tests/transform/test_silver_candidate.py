"""A bar is complete only as long as nothing shows that a trade of its minute is missing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.transform.silver_candidate import is_outdated, keep_proven_rows

START = datetime(2024, 7, 19, 10, tzinfo=UTC)
START_MS = epoch_ms(START)


def bar(**changes: Any) -> dict[str, Any]:
    key = {"exchange": "binance_futures", "symbol": "BTCUSDT", "window_start": START, "stream": "trade"}
    return {**key, "close": 1, "is_complete": True, "evidence": "barrier", "trades_dropped": 0, **changes}


def known(*, is_covered: bool, gap_at_ms: int | None = None) -> CompletenessIndex:
    stream = "binance_futures", "BTCUSDT", "trade"
    rows = [CoverageRow(*stream, START_MS, START_MS + MINUTE_MS, 0, 0, "ws://x")] if is_covered else []
    at_us = 0 if gap_at_ms is None else (START_MS + gap_at_ms) * 1_000
    gaps = [] if gap_at_ms is None else [TradeGap(*stream, 1, 1, 1, at_us, at_us + 1_000, START)]
    return CompletenessIndex(rows, {}, 0, gaps)


@pytest.mark.parametrize(
    ("completeness", "kept"),
    [
        (known(is_covered=False), True),
        (known(is_covered=False, gap_at_ms=70_000), True),
        (known(is_covered=False, gap_at_ms=30_000), False),
        (known(is_covered=True, gap_at_ms=30_000), False),
    ],
)
def test_unchanged_bar_stays_complete_unless_a_gap_is_found_in_its_minute(
    completeness: CompletenessIndex, kept: bool
) -> None:
    (row,) = keep_proven_rows([bar(is_complete=False, evidence=None)], [bar()], completeness)
    assert row["is_complete"] is kept
    assert is_outdated(bar(), completeness) is not kept
    assert not is_outdated(bar(evidence="klines"), completeness)
    assert not is_outdated(bar(stream=None), completeness), "a bar of an earlier release"


def test_changed_bar_is_not_kept() -> None:
    (row,) = keep_proven_rows([bar(is_complete=False, close=2)], [bar()], known(is_covered=False))
    assert not row["is_complete"]


def test_incomplete_bar_is_outdated_once_covered() -> None:
    assert is_outdated(bar(is_complete=False), known(is_covered=True))
    assert not is_outdated(bar(is_complete=False), known(is_covered=False))
    assert not is_outdated(bar(is_complete=False, trades_dropped=1), known(is_covered=True))
