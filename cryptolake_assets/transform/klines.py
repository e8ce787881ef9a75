"""Reads the exchange's own one-minute bars from `bronze.futures_klines_1m`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptolake_assets.exchange.records import Kline
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.tables import BRONZE_KLINES
from cryptolake_assets.lake.windows import between
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.ohlcv import epoch_ms


def read_klines(settings: Settings, first: datetime, last: datetime) -> dict[tuple[str, int], Kline]:
    """Klines of first <= open time < last, by (symbol, open time in ms)."""
    rows = load_table(settings, BRONZE_KLINES).scan(row_filter=between("open_time", first, last)).to_arrow()
    return {(row["symbol"], epoch_ms(row["open_time"])): _kline(row) for row in rows.to_pylist()}


def _kline(row: dict[str, Any]) -> Kline:
    return Kline(
        open_time_ms=epoch_ms(row["open_time"]),
        open=f"{row['open']:f}",
        high=f"{row['high']:f}",
        low=f"{row['low']:f}",
        close=f"{row['close']:f}",
        volume=f"{row['volume']:f}",
        close_time_ms=epoch_ms(row["close_time"]),
        quote_volume=f"{row['quote_volume']:f}",
        trades=row["trades"],
        taker_buy_volume=f"{row['taker_buy_volume']:f}",
        taker_buy_quote_volume=f"{row['taker_buy_quote_volume']:f}",
    )
