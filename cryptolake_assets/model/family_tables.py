"""The tables of each market family: `futures_*` hold USD-M and COIN-M, `spot_*` hold Spot. Pure.

Both are made by the same functions; a row's market is its column `exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cryptolake_assets.model.bar_tables import bars_table, daily_table, kline_differences_table, klines_table
from cryptolake_assets.model.book_tables import (
    book_1s_table,
    book_checkpoints_table,
    book_gaps_table,
    book_tickers_table,
    depth_snapshots_table,
    depth_updates_table,
)
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.trade_tables import gaps_table, quarantine_table, rejected_table, trades_table


@dataclass(frozen=True)
class FamilyTables:
    """The tables of one market family, in the data's way."""

    family: Family
    trades: TableSpec
    rejected: TableSpec
    gaps: TableSpec
    klines: TableSpec
    bars: TableSpec
    quarantine: TableSpec
    kline_differences: TableSpec
    daily: TableSpec
    depth_updates: TableSpec
    depth_snapshots: TableSpec
    book_tickers: TableSpec
    book_1s: TableSpec
    book_checkpoints: TableSpec
    book_gaps: TableSpec

    def __iter__(self) -> Iterator[TableSpec]:
        return iter(
            (
                self.trades,
                self.rejected,
                self.gaps,
                self.klines,
                self.bars,
                self.quarantine,
                self.kline_differences,
                self.daily,
                self.depth_updates,
                self.depth_snapshots,
                self.book_tickers,
                self.book_1s,
                self.book_checkpoints,
                self.book_gaps,
            )
        )


def _tables(family: Family) -> FamilyTables:
    return FamilyTables(
        family=family,
        trades=trades_table(family),
        rejected=rejected_table(family),
        gaps=gaps_table(family),
        klines=klines_table(family),
        bars=bars_table(family),
        quarantine=quarantine_table(family),
        kline_differences=kline_differences_table(family),
        daily=daily_table(family),
        depth_updates=depth_updates_table(family),
        depth_snapshots=depth_snapshots_table(family),
        book_tickers=book_tickers_table(family),
        book_1s=book_1s_table(family),
        book_checkpoints=book_checkpoints_table(family),
        book_gaps=book_gaps_table(family),
    )


FAMILY_TABLES = {family: _tables(family) for family in Family}

FUTURES, SPOT = FAMILY_TABLES[Family.FUTURES], FAMILY_TABLES[Family.SPOT]
