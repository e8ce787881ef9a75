"""Keys of the assets that other modules name."""

from __future__ import annotations

import dagster as dg

BRONZE = dg.AssetKey(["bronze", "futures_trades"])
ARCHIVE = dg.AssetKey(["bronze", "futures_trades_archive"])
KLINES = dg.AssetKey(["bronze", "futures_klines_1m"])
SILVER = dg.AssetKey(["silver", "futures_ohlcv_1m"])
GOLD = dg.AssetKey(["gold", "futures_daily_stats"])
