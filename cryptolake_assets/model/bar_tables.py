"""Tables of bars: official klines, our one-minute bars, their differences, and daily statistics. Pure.

The same for each market family."""

from __future__ import annotations

from cryptolake_assets.model.columns import EXCHANGE, PRICE, QUOTE_VOLUME, SYMBOL, TIME, UPDATED_AT, VOLUME, Column
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.measures import BAR_MEASURES, DAILY_MEASURES, columns
from cryptolake_assets.model.table_spec import TableSpec


def klines_table(family: Family) -> TableSpec:
    """Return the table of a family's official klines."""
    return TableSpec(
        namespace="bronze",
        name=f"{family}_klines_1m",
        doc="Official one-minute bars of the exchange; Silver's bars are compared with them.",
        columns=(
            EXCHANGE,
            SYMBOL,
            Column("open_time", TIME, "start of the minute"),
            Column("open", PRICE, "price of the first trade"),
            Column("high", PRICE, "highest price"),
            Column("low", PRICE, "lowest price"),
            Column("close", PRICE, "price of the last trade"),
            Column("volume", VOLUME, "traded volume, base currency"),
            Column("close_time", TIME, "last millisecond of the minute"),
            Column("quote_volume", QUOTE_VOLUME, "traded volume, quote currency"),
            Column("trades", "long", "number of single trades"),
            Column("taker_buy_volume", VOLUME, "volume bought by takers, base currency"),
            Column("taker_buy_quote_volume", QUOTE_VOLUME, "volume bought by takers, quote currency"),
            Column("source", "string", "origin of the row: rest or archive"),
            UPDATED_AT,
        ),
        key=("exchange", "symbol", "open_time"),
        partition=("open_time", "day"),
        rewritten=True,
        pooled=True,
    )


def bars_table(family: Family) -> TableSpec:
    """Return the table of a family's one-minute bars."""
    return TableSpec(
        namespace="silver",
        name=f"{family}_ohlcv_1m",
        doc="Exact one-minute bars; published after their blocking checks have passed.",
        columns=columns(BAR_MEASURES),
        key=("exchange", "symbol", "window_start"),
        partition=("window_start", "day"),
        rewritten=True,
        pooled=True,
    )


def kline_differences_table(family: Family) -> TableSpec:
    """Return the table of differences between a family's bars and klines."""
    return TableSpec(
        namespace="silver",
        name=f"{family}_kline_differences",
        doc="Differences between complete bars and the exchange's official bars: one row per field, with both values.",
        columns=(
            EXCHANGE,
            SYMBOL,
            Column("window_start", TIME, "start of the minute"),
            Column("field", "string", "name of the differing field; `bar` if one side has no bar"),
            Column("ours", QUOTE_VOLUME, f"value in silver.{family}_ohlcv_1m", own_unit="as the field"),
            Column("official", QUOTE_VOLUME, f"value in bronze.{family}_klines_1m", own_unit="as the field"),
            Column("tolerated", "boolean", "true if within the tolerance for bars built from aggregates"),
            UPDATED_AT,
        ),
        key=("exchange", "symbol", "window_start", "field"),
        partition=("window_start", "day"),
        rewritten=True,
        writers=(f"bronze/{family}_klines_1m", f"bronze/{family}_trades_archive"),
    )


def daily_table(family: Family) -> TableSpec:
    """Return the table of a family's daily statistics."""
    return TableSpec(
        namespace="gold",
        name=f"{family}_daily_stats",
        doc="Daily statistics per symbol, from Silver.",
        columns=columns(DAILY_MEASURES),
        key=("exchange", "symbol", "trade_date"),
        partition=("trade_date", "month"),
        rewritten=True,
        pooled=True,
    )
