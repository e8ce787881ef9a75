"""Keys of the assets."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec


def of_table(table: TableSpec) -> dg.AssetKey:
    """Return the asset key of a table: namespace and name."""
    return dg.AssetKey(list(table.identifier))


@dataclass(frozen=True)
class FamilyKeys:
    """The asset keys of one market family; each, except for the archive's, is that of its table."""

    trades: dg.AssetKey
    archive: dg.AssetKey
    klines: dg.AssetKey
    bars: dg.AssetKey
    daily: dg.AssetKey


def _keys(family: Family) -> FamilyKeys:
    tables = FAMILY_TABLES[family]
    return FamilyKeys(
        trades=of_table(tables.trades),
        archive=dg.AssetKey(["bronze", f"{family}_trades_archive"]),
        klines=of_table(tables.klines),
        bars=of_table(tables.bars),
        daily=of_table(tables.daily),
    )


FAMILY_KEYS = {family: _keys(family) for family in Family}

FUTURES, SPOT = FAMILY_KEYS[Family.FUTURES], FAMILY_KEYS[Family.SPOT]

EVENT_LOG = dg.AssetKey(["maintenance", "dagster_event_log"])
