"""Keys of the assets."""

from __future__ import annotations

import dagster as dg

from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.table_spec import TableSpec


def of_table(table: TableSpec) -> dg.AssetKey:
    """Return the asset key of a table: namespace and name."""
    return dg.AssetKey(list(table.identifier))


BRONZE = of_table(FUTURES.trades)
ARCHIVE = dg.AssetKey(["bronze", "futures_trades_archive"])
KLINES = of_table(FUTURES.klines)
SILVER = of_table(FUTURES.bars)
GOLD = of_table(FUTURES.daily)
EVENT_LOG = dg.AssetKey(["maintenance", "dagster_event_log"])
