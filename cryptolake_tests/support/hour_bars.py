"""Bars of one hour, as input of its checks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms

HOUR = datetime(2024, 7, 19, tzinfo=UTC)
HOUR_MS = epoch_ms(HOUR)
NOTHING_COVERED = CompletenessIndex([], {}, 0)


def bar(minute: int, first: int = 0, last: int = 0, symbol: str = "BTCUSDT", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "exchange": "binance_futures",
        "symbol": symbol,
        "window_start": HOUR + timedelta(minutes=minute),
        **dict.fromkeys(("open", "high", "low", "close"), Decimal("64000.10000000")),
        **dict.fromkeys(("volume", "taker_buy_volume"), Decimal("1.50000000")),
        **dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), Decimal("96000.1500000000000000")),
        "trades": last - first + 1,
        "first_trade_id": first,
        "last_trade_id": last,
        "is_complete": True,
        "stream": "trade",
    }
    return {**row, **changes}
