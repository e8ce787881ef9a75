"""Tables of batch sources: raw responses, the Fear & Greed index, CoinGecko. Pure."""

from __future__ import annotations

from cryptolake_assets.model.columns import COIN_PRICE, COINS, PERCENTAGE, QUOTE_VOLUME, TIME, UPDATED_AT, USD, Column
from cryptolake_assets.model.table_spec import TableSpec


def raw_responses(name: str, doc: str) -> TableSpec:
    """Return the append-only Bronze table of a batch source: every response, accepted or rejected."""
    return TableSpec(
        namespace="bronze",
        name=name,
        doc=doc,
        columns=_RAW_RESPONSE,
        partition=("fetched_at", "month"),
        pooled=True,
    )


_RAW_RESPONSE = (
    Column("fetched_at", TIME, "request time, by this machine's clock"),
    Column("asked_at", TIME, "request time, by the exchange's clock; differs from fetched_at in a replay"),
    Column("partition_date", "date", "UTC day of the run's partition"),
    Column("endpoint", "string", "name of the requested endpoint"),
    Column("url", "string", "full URL, without the API key, which is sent in a header"),
    Column("status", "int", "HTTP status; empty without a response"),
    Column("etag", "string", "ETag of the response; empty without one"),
    Column("sha256", "string", "SHA-256 of the body, in hex"),
    Column("body", "binary", "body of the response, byte for byte"),
    Column("refused", "string", "reason of rejection; empty if accepted"),
    Column("run_id", "string", "id of the Dagster run"),
)

BRONZE_FEAR_GREED_RAW = raw_responses("fear_greed_raw", "Responses of the Fear & Greed index, as received.")

BRONZE_COINGECKO_RAW = raw_responses("coingecko_raw", "Responses of CoinGecko, as received.")

SILVER_FEAR_GREED = TableSpec(
    namespace="silver",
    name="fear_greed_daily",
    doc="The Fear & Greed index, one row per UTC day.",
    columns=(
        Column("index_date", "date", "UTC day"),
        Column("value", "int", "index of the day, 0 (extreme fear) to 100 (extreme greed)"),
        Column("classification", "string", "the source's label of the index value"),
        UPDATED_AT,
    ),
    key=("index_date",),
    rewritten=True,
    pooled=True,
)

SILVER_COINGECKO_MARKETS = TableSpec(
    namespace="silver",
    name="coingecko_markets",
    doc="Hourly snapshots of the largest coins by market cap, in US dollars.",
    columns=(
        Column("snapshot_hour", TIME, "start of the hour of the request"),
        Column("coin_id", "string", "CoinGecko's id, such as bitcoin"),
        Column("symbol", "string", "the coin's symbol, such as btc; not unique"),
        Column("name", "string", "the coin's name"),
        Column("market_cap_rank", "long", "rank by market cap; 1 is the largest"),
        Column("price", COIN_PRICE, "price of one coin in US dollars"),
        Column("market_cap", QUOTE_VOLUME, "price times circulating supply", own_unit=USD),
        Column("fully_diluted_valuation", QUOTE_VOLUME, "market cap at the fully diluted supply", own_unit=USD),
        Column("total_volume", QUOTE_VOLUME, "traded volume of the last 24 h on all markets", own_unit=USD),
        Column("high_24h", COIN_PRICE, "highest price of the last 24 h"),
        Column("low_24h", COIN_PRICE, "lowest price of the last 24 h"),
        Column("price_change_percentage_24h", PERCENTAGE, "price change of the last 24 h, in percent"),
        Column("circulating_supply", QUOTE_VOLUME, "coins in circulation", own_unit=COINS),
        Column("total_supply", QUOTE_VOLUME, "issued coins minus destroyed coins", own_unit=COINS),
        Column("max_supply", QUOTE_VOLUME, "maximum number of coins; empty if unlimited", own_unit=COINS),
        Column("all_time_high", COIN_PRICE, "all-time high price"),
        Column("all_time_low", COIN_PRICE, "all-time low price"),
        Column("source_updated_at", TIME, "time of CoinGecko's last change"),
        UPDATED_AT,
    ),
    key=("snapshot_hour", "coin_id"),
    partition=("snapshot_hour", "day"),
    rewritten=True,
    pooled=True,
)

SILVER_COINGECKO_GLOBAL = TableSpec(
    namespace="silver",
    name="coingecko_global",
    doc="Hourly snapshots of the total crypto market, in US dollars.",
    columns=(
        Column("snapshot_hour", TIME, "start of the hour of the request"),
        Column("total_market_cap", QUOTE_VOLUME, "market cap of all coins", own_unit=USD),
        Column("total_volume", QUOTE_VOLUME, "traded volume of the last 24 h on all markets", own_unit=USD),
        Column("btc_dominance", PERCENTAGE, "Bitcoin's share of the market cap, in percent"),
        Column("eth_dominance", PERCENTAGE, "Ether's share of the market cap, in percent"),
        Column("market_cap_change_percentage_24h", PERCENTAGE, "change of the market cap in the last 24 h, in percent"),
        Column("active_cryptocurrencies", "long", "number of coins tracked by CoinGecko"),
        Column("markets", "long", "number of exchanges tracked by CoinGecko"),
        Column("source_updated_at", TIME, "time of CoinGecko's last change"),
        UPDATED_AT,
    ),
    key=("snapshot_hour",),
    partition=("snapshot_hour", "month"),
    rewritten=True,
    pooled=True,
)
