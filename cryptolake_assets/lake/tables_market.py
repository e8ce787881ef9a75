"""The tables of the market beside trades: funding rates, open interest, and those of the streams' contracts.

They join the one list in `tables`.
"""

from __future__ import annotations

from cryptolake_assets.binance import liquidation_frames as force_order
from cryptolake_assets.binance import mark_price_frames as mark_price
from cryptolake_assets.binance.stream_types import STREAM_TYPES
from cryptolake_assets.model.columns import FUNDING_RATE, PRICE, QUOTE_VOLUME, TIME, VOLUME, Column
from cryptolake_assets.model.table_spec import TableSpec, raw_answers

_SYMBOL = Column("symbol", "string", "the exchange's symbol")
_UPDATED_AT = Column("updated_at", TIME, "when the row last changed; outside all equality")

BRONZE_FUNDING_RAW = raw_answers("futures_funding_raw", "Answers of the exchange's funding-rate history, as received.")

SILVER_FUNDING = TableSpec(
    namespace="silver",
    name="futures_funding_rates",
    doc="Funding rates that were charged, a row a symbol and funding time.",
    columns=(
        Column("funding_time", TIME, "when it was charged, as the exchange says: some ms after the full hour"),
        _SYMBOL,
        Column("funding_rate", FUNDING_RATE, "share of the position's value; above 0 longs pay shorts"),
        Column("mark_price", PRICE, "mark price at that time; empty where the exchange does not tell it"),
        _UPDATED_AT,
    ),
    key=("funding_time", "symbol"),
    partition=("funding_time", "month"),
    rewritten=True,
)

BRONZE_OPEN_INTEREST_RAW = raw_answers(
    "futures_open_interest_raw", "Answers of the exchange's open interest, present and history, as received."
)

SILVER_OPEN_INTEREST = TableSpec(
    namespace="silver",
    name="futures_open_interest",
    doc="Open interest: the exchange's statistics of five minutes, and the present value when it was asked.",
    columns=(
        Column("observed_at", TIME, "the time that the exchange gives the value"),
        _SYMBOL,
        Column("source", "string", "history: a statistic of five minutes; present: the value at that moment"),
        Column("open_interest", VOLUME, "open positions, base currency"),
        Column("open_interest_value", QUOTE_VOLUME, "the same in quote currency; of history only"),
        _UPDATED_AT,
    ),
    key=("observed_at", "symbol", "source"),
    partition=("observed_at", "day"),
    rewritten=True,
)

_OF_BATCHES = (BRONZE_FUNDING_RAW, SILVER_FUNDING, BRONZE_OPEN_INTEREST_RAW, SILVER_OPEN_INTEREST)

SILVER_MARK_PRICE = mark_price.SILVER
SILVER_LIQUIDATIONS = force_order.SILVER

MARKET_TABLES = (*_OF_BATCHES, *(spec for of in STREAM_TYPES for spec in (of.bronze, of.silver)))

POOLED_MARKET_TABLES = (*_OF_BATCHES, *(of.silver for of in STREAM_TYPES))
"""Those that runs of the graph write, each one run at a time."""
