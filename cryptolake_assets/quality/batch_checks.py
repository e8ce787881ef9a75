"""What rows of the batch sources must hold: predicates that are true on a row that fails, by table and check. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING, SILVER_OPEN_INTEREST
from cryptolake_assets.model.source_facts import MAX_FUNDING_RATE
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import TableSpec

DAYS_MISSING = "days_missing"
NEWEST_ROW = "newest_row"
ROWS_LEFT_OUT = "rows_left_out"
FUNDING_HOLES = "funding_holes"
PERIODS_MISSING = "periods_missing"
SYMBOLS_BEHIND = "symbols_behind"
BATCH_OBSERVATIONS = (DAYS_MISSING, NEWEST_ROW, ROWS_LEFT_OUT, FUNDING_HOLES, PERIODS_MISSING, SYMBOLS_BEHIND)
"""Checks that only warn."""


def _none_empty(spec: TableSpec, *but: str) -> str:
    return " OR ".join(f"{name} IS NULL" for name in spec.column_names if name not in ("updated_at", *but))


BATCH_RULES: Mapping[str, Mapping[str, str]] = {
    SILVER_FEAR_GREED.name: {
        "index_range": "value NOT BETWEEN 0 AND 100",
        "no_nulls": _none_empty(SILVER_FEAR_GREED),
    },
    SILVER_COINGECKO_MARKETS.name: {
        "not_negative": (
            "price < 0 OR market_cap < 0 OR total_volume < 0 OR circulating_supply < 0 OR market_cap_rank < 1"
        ),
        "key_present": "snapshot_hour IS NULL OR coin_id IS NULL",
    },
    SILVER_COINGECKO_GLOBAL.name: {
        "not_negative": "total_market_cap < 0 OR total_volume < 0",
        "dominance_range": "btc_dominance NOT BETWEEN 0 AND 100 OR eth_dominance NOT BETWEEN 0 AND 100",
        "no_nulls": _none_empty(SILVER_COINGECKO_GLOBAL, "market_cap_change_percentage_24h"),
    },
    SILVER_FUNDING.name: {
        "funding_rate_range": f"funding_rate NOT BETWEEN -{MAX_FUNDING_RATE} AND {MAX_FUNDING_RATE}",
        "mark_price_positive": "mark_price <= 0",
        "no_nulls": _none_empty(SILVER_FUNDING, "mark_price"),
    },
    SILVER_OPEN_INTEREST.name: {
        "open_interest_not_negative": "open_interest < 0 OR open_interest_value < 0",
        "no_nulls": _none_empty(SILVER_OPEN_INTEREST, "open_interest_value"),
        "value_of_history": "source = 'history' AND open_interest_value IS NULL",
    },
}
"""A comparison with NULL is not true, so what may be empty passes."""

MEANINGS: Mapping[str, str] = {
    "index_range": "Values are 0 to 100.",
    "not_negative": "Prices, market caps, volumes and supplies are >= 0.",
    "dominance_range": "Shares of the market are 0 to 100 per cent.",
    "key_present": "A row says its hour and its coin.",
    "funding_rate_range": f"Rates are at most {MAX_FUNDING_RATE} of a position, either way.",
    "mark_price_positive": "A mark price, where there is one, is above 0.",
    "open_interest_not_negative": "Open interest and its value are >= 0.",
    "value_of_history": "A statistic of the history has its value in quote currency.",
    FUNDING_HOLES: "No funding is missing between a symbol's first and newest. Warns only.",
    PERIODS_MISSING: "No five minutes of the reach of the exchange's history are missing. Warns only.",
    SYMBOLS_BEHIND: "Each symbol's newest row is close to the exchange's clock. Warns only.",
    DAYS_MISSING: "No day is missing but those for which the index was never published. Warns only.",
    NEWEST_ROW: "The newest row is of the source's present day, or of the day before. Warns only.",
    ROWS_LEFT_OUT: "Every row that the source sent has its shape, and values that can be and that fit. Warns only.",
}


def blocking(spec: TableSpec) -> tuple[str, ...]:
    """Names of the checks on a candidate of the table, in the order of their results."""
    return ("schema", "unique_key", *BATCH_RULES[spec.name])
