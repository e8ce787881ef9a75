"""Tables built by dbt: bars of longer timeframes, volume profiles, returns, the market overview, sentiment. Pure.

Their SQL is in `dbt_project/models/marts`; a test compares `marts.yml` with these columns.
"""

from __future__ import annotations

from cryptolake_assets.model.columns import (
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

MARTS_NAMESPACE = "marts"  # where dbt creates its tables

_BAR_COLUMNS = (
    SYMBOL,
    Column("window_start", TIME, "open time of the bar"),
    Column("open", PRICE, "open of the first minute"),
    Column("high", PRICE, "highest price"),
    Column("low", PRICE, "lowest price"),
    Column("close", PRICE, "close of the last minute"),
    Column("volume", VOLUME, "base currency"),
    Column("quote_volume", QUOTE_VOLUME, "quote currency"),
    Column("vwap", PRICE, "quote_volume / volume, rounded half up"),
    Column("trades", "long", "single trades"),
    Column("taker_buy_volume", VOLUME, "base currency bought by takers"),
    Column("taker_buy_quote_volume", QUOTE_VOLUME, "quote currency spent by buying takers"),
    Column("first_trade_id", "long", "lowest single-trade id"),
    Column("last_trade_id", "long", "highest single-trade id"),
    Column(
        "is_complete",
        "boolean",
        "all minutes have a complete bar; or those with trades have and Gold says that the whole day is complete",
    ),
    Column("updated_at", TIME, "when the bar last changed; outside all equality"),
    Column("trades_dropped", "long", "order-book trades of the window that a quality rule keeps out of the bar"),
    Column(
        "evidence",
        "string",
        "the weakest of what proves its minutes (ids, barrier, klines); null where it is not complete, and of minutes "
        "of earlier releases",
    ),
)


def _mart(
    name: str, doc: str, columns: tuple[Column, ...], key: tuple[str, ...], partition: tuple[str, str] | None = None
) -> TableSpec:
    return TableSpec(MARTS_NAMESPACE, name, doc, columns, key, partition, rewritten=True)


def _bars(timeframe: str, title: str, transform: str) -> TableSpec:
    return _mart(
        f"ohlcv_{timeframe}",
        f"{title} bars per symbol, re-aggregated exactly from one-minute bars.",
        _BAR_COLUMNS,
        ("symbol", "window_start"),
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
    "Volume per symbol, hour and bucket of prices. A minute's volume is in the bucket of its vwap; a bucket holds the "
    "prices that agree in their first three digits (at BTC's 64250 it is 100 wide).",
    (
        SYMBOL,
        Column("window_start", TIME, "start of the hour"),
        Column("bucket_low", PRICE, "lowest price of the bucket: the minutes' vwap, cut to its first three digits"),
        Column("bucket_width", PRICE, "prices from bucket_low up to, and without, bucket_low + bucket_width"),
        Column("volume", VOLUME, "base currency"),
        Column("quote_volume", QUOTE_VOLUME, "quote currency"),
        Column("trades", "long", "single trades"),
        Column("minutes_with_trades", "long", "minutes whose vwap is in the bucket"),
        UPDATED_AT,
    ),
    ("symbol", "window_start", "bucket_low"),
    ("window_start", "day"),
)

DAILY_RETURNS = _mart(
    "daily_returns",
    "Return, realised volatility and drawdown per symbol and day, from Gold.",
    (
        SYMBOL,
        Column("trade_date", "date", "UTC day"),
        Column("close", PRICE, "close of the day"),
        Column("previous_close", PRICE, "close of the calendar day before; empty when Gold lacks that day"),
        Column("log_return", "double", "ln(close / previous_close); empty without previous_close", own_unit=LOG_RETURN),
        Column(
            "realised_volatility",
            "double",
            "square root of the sum of squared log returns of minute closes",
            own_unit=LOG_RETURN,
        ),
        Column("highest_close", PRICE, "highest close of this and all earlier days"),
        Column(
            "drawdown",
            PRICE,
            "(highest_close - close) / highest_close, rounded half up: 0 at a new high",
            own_unit=FRACTION,
        ),
        Column("is_complete", "boolean", "coverage holds the whole day and the watermark is past its end"),
        UPDATED_AT,
    ),
    ("symbol", "trade_date"),
    ("trade_date", "year"),
)

MARKET_OVERVIEW = _mart(
    "market_overview",
    "Latest bar, and change and volume of the last 24 h, per symbol that traded in them.",
    (
        SYMBOL,
        Column("latest_minute", TIME, "open time of the symbol's latest bar"),
        Column("is_complete", "boolean", "whether the latest bar is complete"),
        Column("last_price", PRICE, "close of the latest bar"),
        Column(
            "price_24h_ago",
            PRICE,
            "last close at least 24 h before the newest minute of any symbol, if there is one in the 24 h before that",
        ),
        Column(
            "change_24h",
            PRICE,
            "(last_price - price_24h_ago) / price_24h_ago, rounded half up away from 0; empty without price_24h_ago",
            own_unit=FRACTION,
        ),
        Column("high_24h", PRICE, "highest price of the last 24 h"),
        Column("low_24h", PRICE, "lowest price of the last 24 h"),
        Column("volume_24h", VOLUME, "base currency in the last 24 h"),
        Column("quote_volume_24h", QUOTE_VOLUME, "quote currency in the last 24 h"),
        Column("trades_24h", "long", "single trades in the last 24 h"),
        UPDATED_AT,
    ),
    ("symbol",),
)

SENTIMENT_VS_MARKET = _mart(
    "sentiment_vs_market",
    "The Fear & Greed index and the whole market beside a symbol's UTC day, from Gold.",
    (
        SYMBOL,
        Column("trade_date", "date", "UTC day"),
        Column("close", PRICE, "close of the day"),
        Column("vwap", PRICE, "quote volume / volume of the day"),
        Column("total_volume", VOLUME, "base currency"),
        Column("total_quote_volume", QUOTE_VOLUME, "quote currency"),
        Column(
            "realised_volatility",
            "double",
            "square root of the sum of squared log returns of minute closes",
            own_unit=LOG_RETURN,
        ),
        Column(
            "fear_greed",
            "int",
            "the index of that day, 0 (extreme fear) to 100 (extreme greed); empty where it was not published",
        ),
        Column("fear_greed_classification", "string", "the source's word for it"),
        Column(
            "total_market_cap",
            QUOTE_VOLUME,
            "market cap of all coins in US dollars, the day's last snapshot; empty without one",
            own_unit=USD,
        ),
        Column(
            "btc_dominance", PERCENTAGE, "Bitcoin's share of it in per cent, the day's last snapshot; empty without one"
        ),
        Column("is_complete", "boolean", "coverage holds the whole day and the watermark is past its end"),
        UPDATED_AT,
    ),
    ("symbol", "trade_date"),
    ("trade_date", "year"),
)
