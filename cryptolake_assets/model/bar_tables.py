"""Tables of bars: official klines, our one-minute bars, their differences, and daily statistics. Pure."""

from __future__ import annotations

from cryptolake_assets.model.columns import PRICE, QUOTE_VOLUME, SYMBOL, TIME, UPDATED_AT, VOLUME, Column
from cryptolake_assets.model.measures import BAR_MEASURES, DAILY_MEASURES, columns
from cryptolake_assets.model.table_spec import TableSpec

BRONZE_KLINES = TableSpec(
    namespace="bronze",
    name="futures_klines_1m",
    doc="The exchange's own one-minute bars, to hold Silver against.",
    columns=(
        SYMBOL,
        Column("open_time", TIME, "open time of the minute"),
        Column("open", PRICE, "first price"),
        Column("high", PRICE, "highest price"),
        Column("low", PRICE, "lowest price"),
        Column("close", PRICE, "last price"),
        Column("volume", VOLUME, "base currency"),
        Column("close_time", TIME, "last millisecond of the minute"),
        Column("quote_volume", QUOTE_VOLUME, "quote currency"),
        Column("trades", "long", "single trades"),
        Column("taker_buy_volume", VOLUME, "base currency bought by takers"),
        Column("taker_buy_quote_volume", QUOTE_VOLUME, "quote currency spent by buying takers"),
        Column("source", "string", "where it was read: rest or archive"),
        UPDATED_AT,
    ),
    key=("symbol", "open_time"),
    partition=("open_time", "day"),
    rewritten=True,
    pooled=True,
)

SILVER_OHLCV = TableSpec(
    namespace="silver",
    name="futures_ohlcv_1m",
    doc="Exact one-minute bars, gated by blocking checks.",
    columns=columns(BAR_MEASURES),
    key=("symbol", "window_start"),
    partition=("window_start", "day"),
    rewritten=True,
    pooled=True,
)

SILVER_KLINE_DIFFERENCES = TableSpec(
    namespace="silver",
    name="futures_kline_differences",
    doc="Where a complete bar and the exchange's own differ: a row a field, with both values.",
    columns=(
        SYMBOL,
        Column("window_start", TIME, "open time of the minute"),
        Column("field", "string", "name of the field; `bar` where one of the two has no bar"),
        Column("ours", QUOTE_VOLUME, "value in silver.futures_ohlcv_1m", own_unit="as the field"),
        Column("official", QUOTE_VOLUME, "value in bronze.futures_klines_1m", own_unit="as the field"),
        Column("tolerated", "boolean", "within the stated tolerance of bars made of aggregates"),
        UPDATED_AT,
    ),
    key=("symbol", "window_start", "field"),
    partition=("window_start", "day"),
    rewritten=True,
    writers=("bronze/futures_klines_1m", "bronze/futures_trades_archive"),
)

GOLD_DAILY = TableSpec(
    namespace="gold",
    name="futures_daily_stats",
    doc="Daily statistics per symbol, from Silver.",
    columns=columns(DAILY_MEASURES),
    key=("symbol", "trade_date"),
    partition=("trade_date", "month"),
    rewritten=True,
    pooled=True,
)
