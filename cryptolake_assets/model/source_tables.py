"""Tables of batch sources: raw responses, the Fear & Greed index, CoinGecko. Pure."""

from __future__ import annotations

from cryptolake_assets.model.columns import COIN_PRICE, COINS, PERCENTAGE, QUOTE_VOLUME, TIME, UPDATED_AT, USD, Column
from cryptolake_assets.model.table_spec import TableSpec


def raw_answers(name: str, doc: str) -> TableSpec:
    """Return the append-only Bronze table of a batch source: every response, accepted or rejected."""
    return TableSpec(
        namespace="bronze",
        name=name,
        doc=doc,
        columns=_RAW_ANSWER,
        partition=("fetched_at", "month"),
        pooled=True,
    )


_RAW_ANSWER = (
    Column("fetched_at", TIME, "when it was asked, this machine's clock"),
    Column("asked_at", TIME, "the same by the source's clock: that of the exchange that is replayed, or the same"),
    Column("partition_date", "date", "UTC day that the run was for"),
    Column("endpoint", "string", "what was asked of the source"),
    Column("url", "string", "the whole address; a key is in a header, not here"),
    Column("status", "int", "HTTP status; empty where nothing came back"),
    Column("etag", "string", "the answer's ETag, if it had one"),
    Column("sha256", "string", "of the body, in hex"),
    Column("body", "binary", "the answer, byte for byte"),
    Column("refused", "string", "why nothing of it may reach Silver; empty when it was accepted"),
    Column("run_id", "string", "Dagster run"),
)

BRONZE_FEAR_GREED_RAW = raw_answers("fear_greed_raw", "Answers of the Fear & Greed index, as received.")

BRONZE_COINGECKO_RAW = raw_answers("coingecko_raw", "Answers of CoinGecko, as received.")

SILVER_FEAR_GREED = TableSpec(
    namespace="silver",
    name="fear_greed_daily",
    doc="The Fear & Greed index, a UTC day a row.",
    columns=(
        Column("index_date", "date", "UTC day"),
        Column("value", "int", "0 (extreme fear) to 100 (extreme greed)"),
        Column("classification", "string", "the source's word for the value"),
        UPDATED_AT,
    ),
    key=("index_date",),
    rewritten=True,
    pooled=True,
)

SILVER_COINGECKO_MARKETS = TableSpec(
    namespace="silver",
    name="coingecko_markets",
    doc="Coins by market cap, a snapshot an hour; in US dollars.",
    columns=(
        Column("snapshot_hour", TIME, "start of the hour in which it was asked"),
        Column("coin_id", "string", "CoinGecko's id, such as bitcoin"),
        Column("symbol", "string", "the coin's symbol, such as btc; not unique"),
        Column("name", "string", "the coin's name"),
        Column("market_cap_rank", "long", "1 is the largest"),
        Column("price", COIN_PRICE, "price of one coin"),
        Column("market_cap", QUOTE_VOLUME, "price times circulating supply", own_unit=USD),
        Column("fully_diluted_valuation", QUOTE_VOLUME, "price times the supply there will be", own_unit=USD),
        Column("total_volume", QUOTE_VOLUME, "traded in 24 hours on all markets", own_unit=USD),
        Column("high_24h", COIN_PRICE, "highest price of 24 hours"),
        Column("low_24h", COIN_PRICE, "lowest price of 24 hours"),
        Column("price_change_percentage_24h", PERCENTAGE, "change of the price in 24 hours, per cent"),
        Column("circulating_supply", QUOTE_VOLUME, "coins in circulation", own_unit=COINS),
        Column("total_supply", QUOTE_VOLUME, "coins made, less those destroyed", own_unit=COINS),
        Column("max_supply", QUOTE_VOLUME, "most coins there can be, where there is such a bound", own_unit=COINS),
        Column("all_time_high", COIN_PRICE, "highest price ever"),
        Column("all_time_low", COIN_PRICE, "lowest price ever"),
        Column("source_updated_at", TIME, "when CoinGecko last changed it"),
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
    doc="All coins together, a snapshot an hour; in US dollars.",
    columns=(
        Column("snapshot_hour", TIME, "start of the hour in which it was asked"),
        Column("total_market_cap", QUOTE_VOLUME, "market cap of all coins", own_unit=USD),
        Column("total_volume", QUOTE_VOLUME, "traded in 24 hours on all markets", own_unit=USD),
        Column("btc_dominance", PERCENTAGE, "Bitcoin's share of the market cap, per cent"),
        Column("eth_dominance", PERCENTAGE, "Ether's share of the market cap, per cent"),
        Column("market_cap_change_percentage_24h", PERCENTAGE, "change of the market cap in 24 hours, per cent"),
        Column("active_cryptocurrencies", "long", "coins that CoinGecko follows"),
        Column("markets", "long", "exchanges that CoinGecko follows"),
        Column("source_updated_at", TIME, "when CoinGecko last changed it"),
        UPDATED_AT,
    ),
    key=("snapshot_hour",),
    partition=("snapshot_hour", "month"),
    rewritten=True,
    pooled=True,
)
