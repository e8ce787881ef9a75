"""Tables built by dbt: bars of longer timeframes, volume profiles, returns, the market overview, sentiment. Pure.

Their SQL is in `dbt_project/models/marts`; a test compares `marts.yml` with these columns.
"""

from __future__ import annotations

from cryptolake_assets.model.columns import (
    EXCHANGE,
    FRACTION,
    LOG_RETURN,
    PERCENTAGE,
    PRICE,
    QUOTE_VOLUME,
    SYMBOL,
    TIME,
    UPDATED_AT,
    USD,
    VOLUME,
    Column,
)
from cryptolake_assets.model.table_spec import TableSpec

MARTS_NAMESPACE = "marts"  # of the tables that dbt creates

_BAR_COLUMNS = (
    EXCHANGE,
    SYMBOL,
    Column("window_start", TIME, "start of the bar"),
    Column("open", PRICE, "price of the first trade"),
    Column("high", PRICE, "highest price"),
    Column("low", PRICE, "lowest price"),
    Column("close", PRICE, "price of the last trade"),
    Column("volume", VOLUME, "traded volume, base currency"),
    Column("quote_volume", QUOTE_VOLUME, "traded volume, quote currency"),
    Column("vwap", PRICE, "quote_volume / volume, rounded half up"),
    Column("trades", "long", "number of single trades"),
    Column("taker_buy_volume", VOLUME, "volume bought by takers, base currency"),
    Column("taker_buy_quote_volume", QUOTE_VOLUME, "volume bought by takers, quote currency"),
    Column("first_trade_id", "long", "lowest single-trade id"),
    Column("last_trade_id", "long", "highest single-trade id"),
    Column(
        "is_complete",
        "boolean",
        "true if every minute has a complete bar, or if all its bars and the day in Gold are complete",
    ),
    UPDATED_AT,
    Column("trades_dropped", "long", "number of order-book trades excluded from the bar by a quality rule"),
    Column(
        "evidence",
        "string",
        "weakest proof of completeness of its minutes: ids, barrier or klines; null if the bar is incomplete, or a "
        "minute is from an earlier release",
    ),
)


def _mart(
    name: str, doc: str, columns: tuple[Column, ...], key: tuple[str, ...], partition: tuple[str, str] | None = None
) -> TableSpec:
    return TableSpec(MARTS_NAMESPACE, name, doc, columns, key, partition, rewritten=True)


def _bars(timeframe: str, title: str, transform: str) -> TableSpec:
    return _mart(
        f"ohlcv_{timeframe}",
        f"{title} bars per symbol, aggregated exactly from one-minute bars.",
        _BAR_COLUMNS,
        ("exchange", "symbol", "window_start"),
        ("window_start", transform),
    )


BARS_OF_TIMEFRAMES = (
    _bars("5m", "Five-minute", "day"),
    _bars("15m", "Quarter-hour", "day"),
    _bars("1h", "One-hour", "day"),
    _bars("4h", "Four-hour", "month"),
    _bars("1d", "One-day", "year"),
)

VOLUME_PROFILE_HOURLY = _mart(
    "volume_profile_hourly",
    "Volume per symbol, hour and price bucket. A minute's volume is in the bucket of its vwap; a bucket holds the "
    "prices with the same first three digits (around 64250 it is 100 wide).",
    (
        EXCHANGE,
        SYMBOL,
        Column("window_start", TIME, "start of the hour"),
        Column(
            "bucket_low", PRICE, "lowest price of the bucket: vwap of a minute, truncated to three significant digits"
        ),
        Column(
            "bucket_width",
            PRICE,
            "width of the bucket: prices from bucket_low (inclusive) to bucket_low + bucket_width (exclusive)",
        ),
        Column("volume", VOLUME, "traded volume, base currency"),
        Column("quote_volume", QUOTE_VOLUME, "traded volume, quote currency"),
        Column("trades", "long", "number of single trades"),
        Column("minutes_with_trades", "long", "number of minutes with their vwap in the bucket"),
        UPDATED_AT,
    ),
    ("exchange", "symbol", "window_start", "bucket_low"),
    ("window_start", "day"),
)

DAILY_RETURNS = _mart(
    "daily_returns",
    "Return, realised volatility and drawdown per symbol and day, from Gold.",
    (
        EXCHANGE,
        SYMBOL,
        Column("trade_date", "date", "UTC day"),
        Column("close", PRICE, "price of the last trade of the day"),
        Column("previous_close", PRICE, "close of the previous calendar day; empty if Gold has no row for it"),
        Column(
            "log_return", "double", "ln(close / previous_close); empty if previous_close is empty", own_unit=LOG_RETURN
        ),
        Column(
            "realised_volatility",
            "double",
            "square root of the sum of squared log returns of minute closes",
            own_unit=LOG_RETURN,
        ),
        Column("highest_close", PRICE, "highest close up to and including this day"),
        Column(
            "drawdown",
            PRICE,
            "(highest_close - close) / highest_close, rounded half up; 0 at a new high",
            own_unit=FRACTION,
        ),
        Column("is_complete", "boolean", "true if every trade of the day is proven to be in its bars"),
        UPDATED_AT,
    ),
    ("exchange", "symbol", "trade_date"),
    ("trade_date", "year"),
)

MARKET_OVERVIEW = _mart(
    "market_overview",
    "Latest bar, and price change and volume of the last 24 h, per symbol with trades in that time.",
    (
        EXCHANGE,
        SYMBOL,
        Column("latest_minute", TIME, "start of the symbol's latest bar"),
        Column("is_complete", "boolean", "true if the latest bar is complete"),
        Column("last_price", PRICE, "close of the latest bar"),
        Column(
            "price_24h_ago",
            PRICE,
            "last close 24 to 48 h before the newest minute of any symbol; empty if there is none",
        ),
        Column(
            "change_24h",
            PRICE,
            "(last_price - price_24h_ago) / price_24h_ago, rounded half away from 0; empty if price_24h_ago is empty",
            own_unit=FRACTION,
        ),
        Column("high_24h", PRICE, "highest price of the last 24 h"),
        Column("low_24h", PRICE, "lowest price of the last 24 h"),
        Column("volume_24h", VOLUME, "traded volume of the last 24 h, base currency"),
        Column("quote_volume_24h", QUOTE_VOLUME, "traded volume of the last 24 h, quote currency"),
        Column("trades_24h", "long", "number of single trades of the last 24 h"),
        UPDATED_AT,
    ),
    ("exchange", "symbol"),
)

SENTIMENT_VS_MARKET = _mart(
    "sentiment_vs_market",
    "Gold's daily statistics per symbol, with the day's Fear & Greed index and total crypto market cap.",
    (
        EXCHANGE,
        SYMBOL,
        Column("trade_date", "date", "UTC day"),
        Column("close", PRICE, "price of the last trade of the day"),
        Column("vwap", PRICE, "total_quote_volume / total_volume, rounded half up"),
        Column("total_volume", VOLUME, "traded volume, base currency"),
        Column("total_quote_volume", QUOTE_VOLUME, "traded volume, quote currency"),
        Column(
            "realised_volatility",
            "double",
            "square root of the sum of squared log returns of minute closes",
            own_unit=LOG_RETURN,
        ),
        Column(
            "fear_greed",
            "int",
            "index of the day, 0 (extreme fear) to 100 (extreme greed); empty if not published",
        ),
        Column("fear_greed_classification", "string", "the source's label of the index value"),
        Column(
            "total_market_cap",
            QUOTE_VOLUME,
            "market cap of all coins in US dollars, from the day's last snapshot; empty without a snapshot",
            own_unit=USD,
        ),
        Column(
            "btc_dominance",
            PERCENTAGE,
            "Bitcoin's share of the market cap in percent, from the day's last snapshot; empty without a snapshot",
        ),
        Column("is_complete", "boolean", "true if every trade of the day is proven to be in its bars"),
        UPDATED_AT,
    ),
    ("exchange", "symbol", "trade_date"),
    ("trade_date", "year"),
)

MARTS = (*BARS_OF_TIMEFRAMES, VOLUME_PROFILE_HOURLY, DAILY_RETURNS, MARKET_OVERVIEW, SENTIMENT_VS_MARKET)
