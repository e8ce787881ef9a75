"""Tables of derivatives: funding rates, open interest, mark prices, liquidations. Pure.

A stream's Bronze columns are the fields of its event in `events`, in order, followed by the Kafka position.
"""

from __future__ import annotations

from cryptolake_assets.model.columns import (
    EXCHANGE,
    FUNDING_RATE,
    PRICE,
    QUANTITY,
    QUOTE_VOLUME,
    SYMBOL,
    TIME,
    UPDATED_AT,
    VOLUME,
    Column,
)
from cryptolake_assets.model.source_tables import raw_answers
from cryptolake_assets.model.table_spec import TableSpec, stream_table

BRONZE_FUNDING_RAW = raw_answers("futures_funding_raw", "Answers of the exchange's funding-rate history, as received.")

SILVER_FUNDING = TableSpec(
    namespace="silver",
    name="futures_funding_rates",
    doc="Funding rates that were charged, a row a symbol and funding time.",
    columns=(
        Column("funding_time", TIME, "when it was charged, as the exchange says: some ms after the full hour"),
        SYMBOL,
        Column("funding_rate", FUNDING_RATE, "share of the position's value; above 0 longs pay shorts"),
        Column("mark_price", PRICE, "mark price at that time; empty where the exchange does not tell it"),
        UPDATED_AT,
    ),
    key=("funding_time", "symbol"),
    partition=("funding_time", "month"),
    rewritten=True,
    pooled=True,
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
        SYMBOL,
        Column("source", "string", "history: a statistic of five minutes; present: the value at that moment"),
        Column("open_interest", VOLUME, "open positions, base currency"),
        Column("open_interest_value", QUOTE_VOLUME, "the same in quote currency; of history only"),
        UPDATED_AT,
    ),
    key=("observed_at", "symbol", "source"),
    partition=("observed_at", "day"),
    rewritten=True,
    pooled=True,
)

BRONZE_MARK_PRICES = stream_table(
    "futures_mark_prices",
    "Every mark-price update as received, repeats included; append-only.",
    (
        SYMBOL,
        Column("event_time", TIME, "when the exchange sent it"),
        Column("mark_price", PRICE, "mark price"),
        Column("index_price", PRICE, "index price"),
        Column("settle_price", PRICE, "estimated settle price, of use in the hour before settlement; may be empty"),
        Column("funding_rate", FUNDING_RATE, "rate of the next funding; empty for a contract without funding"),
        Column("next_funding_time", TIME, "when that is; empty for a contract without funding"),
        EXCHANGE,
        Column("ingest_ts", TIME, "when the frame was received, by the receiver's clock"),
    ),
)

SILVER_MARK_PRICE = TableSpec(
    namespace="silver",
    name="futures_mark_price_1m",
    doc="Mark price, index and funding rate by the minute.",
    columns=(
        SYMBOL,
        Column("window_start", TIME, "start of the minute"),
        Column("open", PRICE, "first mark price"),
        Column("high", PRICE, "highest mark price"),
        Column("low", PRICE, "lowest mark price"),
        Column("close", PRICE, "last mark price"),
        Column("index_close", PRICE, "last index price"),
        Column("funding_rate", FUNDING_RATE, "last rate that was told for the next funding; empty without funding"),
        Column("next_funding_time", TIME, "when that is; empty without funding"),
        Column("updates", "long", "frames that were received, 60 where none is missing"),
        UPDATED_AT,
    ),
    key=("symbol", "window_start"),
    partition=("window_start", "day"),
    rewritten=True,
    pooled=True,
)

BRONZE_LIQUIDATIONS = stream_table(
    "futures_liquidations",
    "Every liquidation order as received, repeats included: a sample of at most one a symbol and second.",
    (
        SYMBOL,
        Column("event_time", TIME, "trade time of the order"),
        Column("side", "string", "of the order: sell closes a long position, buy a short one"),
        Column("order_type", "string", "the exchange's o, such as LIMIT"),
        Column("time_in_force", "string", "the exchange's f, such as IOC"),
        Column("qty", QUANTITY, "ordered, base currency"),
        Column("price", PRICE, "limit of the order, quote currency per unit"),
        Column("average_price", PRICE, "of what was filled"),
        Column("status", "string", "the exchange's X, such as FILLED"),
        Column("last_filled_qty", QUANTITY, "of the last fill, base currency"),
        Column("filled_qty", QUANTITY, "of all fills, base currency"),
        EXCHANGE,
        Column("ingest_ts", TIME, "when the frame was received, by the receiver's clock"),
    ),
)

SILVER_LIQUIDATIONS = TableSpec(
    namespace="silver",
    name="futures_liquidations_1m",
    doc="Liquidations that the exchange told of, by minute and side: a sample, never all of them.",
    columns=(
        SYMBOL,
        Column("window_start", TIME, "start of the minute"),
        Column("side", "string", "of the order: sell closes a long position, buy a short one"),
        Column("orders", "long", "orders that the exchange told of, at most one a second"),
        Column("qty", VOLUME, "filled, base currency"),
        Column("notional", QUOTE_VOLUME, "filled, quote currency, at the average prices"),
        UPDATED_AT,
    ),
    key=("symbol", "window_start", "side"),
    partition=("window_start", "day"),
    rewritten=True,
    pooled=True,
)
