"""Keys of the assets."""

from __future__ import annotations

import dagster as dg

from cryptolake_assets.model.bar_tables import BRONZE_KLINES, GOLD_DAILY, SILVER_OHLCV
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.trade_tables import BRONZE_TRADES


def of_table(table: TableSpec) -> dg.AssetKey:
    """Return the asset key of a table: namespace and name."""
    return dg.AssetKey(list(table.identifier))


BRONZE = of_table(BRONZE_TRADES)
ARCHIVE = dg.AssetKey(["bronze", "futures_trades_archive"])
KLINES = of_table(BRONZE_KLINES)
SILVER = of_table(SILVER_OHLCV)
GOLD = of_table(GOLD_DAILY)
EVENT_LOG = dg.AssetKey(["maintenance", "dagster_event_log"])
