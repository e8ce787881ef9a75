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
from cryptolake_assets.model.source_tables import raw_responses
from cryptolake_assets.model.table_spec import TableSpec, stream_table

BRONZE_FUNDING_RAW = raw_responses(
    "futures_funding_raw", "Responses of the exchange's funding-rate history, as received."
)

SILVER_FUNDING = TableSpec(
    namespace="silver",
    name="futures_funding_rates",
    doc="Charged funding rates: one row per symbol and funding time.",
    columns=(
        EXCHANGE,
        SYMBOL,
        Column("funding_time", TIME, "time of the charge by the exchange; a few ms after the full hour"),
        Column("funding_rate", FUNDING_RATE, "fraction of the position's value; if positive, longs pay shorts"),
        Column("mark_price", PRICE, "mark price at the funding time; empty if the exchange does not report it"),
        UPDATED_AT,
    ),
    key=("exchange", "symbol", "funding_time"),
    partition=("funding_time", "month"),
    rewritten=True,
    pooled=True,
)

BRONZE_OPEN_INTEREST_RAW = raw_responses(
    "futures_open_interest_raw", "Responses of the exchange's open interest, present and history, as received."
)

SILVER_OPEN_INTEREST = TableSpec(
    namespace="silver",
    name="futures_open_interest",
    doc="Open interest: five-minute statistics of the exchange, and the present value at each request.",
    columns=(
        EXCHANGE,
        SYMBOL,
        Column("observed_at", TIME, "time of the value by the exchange"),
        Column("source", "string", "history: five-minute statistic; present: value at the time of the request"),
        Column("open_interest", VOLUME, "open interest, base currency"),
        Column("open_interest_value", QUOTE_VOLUME, "open interest, quote currency; empty for present values"),
        UPDATED_AT,
    ),
    key=("exchange", "symbol", "observed_at", "source"),
    partition=("observed_at", "day"),
    rewritten=True,
    pooled=True,
)

BRONZE_MARK_PRICES = stream_table(
    "futures_mark_prices",
    "All mark-price updates as received, including duplicates; append-only.",
    (
        SYMBOL,
        Column("event_time", TIME, "send time by the exchange"),
        Column("mark_price", PRICE, "mark price"),
        Column("index_price", PRICE, "index price"),
        Column(
            "settle_price",
            PRICE,
            "estimated settlement price, meaningful in the last hour before settlement; may be empty",
        ),
        Column("funding_rate", FUNDING_RATE, "rate of the next funding; empty for contracts without funding"),
        Column("next_funding_time", TIME, "time of the next funding; empty for contracts without funding"),
        EXCHANGE,
        Column("ingest_ts", TIME, "receive time of the frame, by the receiver's clock"),
    ),
)

SILVER_MARK_PRICE = TableSpec(
    namespace="silver",
    name="futures_mark_price_1m",
    doc="Mark price, index price and funding rate per symbol and minute.",
    columns=(
        EXCHANGE,
        SYMBOL,
        Column("window_start", TIME, "start of the minute"),
        Column("open", PRICE, "first mark price"),
        Column("high", PRICE, "highest mark price"),
        Column("low", PRICE, "lowest mark price"),
        Column("close", PRICE, "last mark price"),
        Column("index_close", PRICE, "last index price"),
        Column(
            "funding_rate", FUNDING_RATE, "last reported rate of the next funding; empty for contracts without funding"
        ),
        Column("next_funding_time", TIME, "time of the next funding; empty for contracts without funding"),
        Column("updates", "long", "number of received frames; 60 if none is missing"),
        UPDATED_AT,
    ),
    key=("exchange", "symbol", "window_start"),
    partition=("window_start", "day"),
    rewritten=True,
    pooled=True,
)

BRONZE_LIQUIDATIONS = stream_table(
    "futures_liquidations",
    "All liquidation orders as received, including duplicates: a sample of at most one per symbol and second.",
    (
        SYMBOL,
        Column("event_time", TIME, "trade time of the order"),
        Column("side", "string", "side of the order: sell closes a long position, buy a short one"),
        Column("order_type", "string", "order type (the exchange's field `o`), such as LIMIT"),
        Column("time_in_force", "string", "time in force (the exchange's field `f`), such as IOC"),
        Column("qty", QUANTITY, "ordered quantity, base currency"),
        Column("price", PRICE, "limit price of the order"),
        Column("average_price", PRICE, "average price of all fills"),
        Column("status", "string", "order status (the exchange's field `X`), such as FILLED"),
        Column("last_filled_qty", QUANTITY, "quantity of the last fill, base currency"),
        Column("filled_qty", QUANTITY, "quantity of all fills, base currency"),
        EXCHANGE,
        Column("ingest_ts", TIME, "receive time of the frame, by the receiver's clock"),
    ),
)

SILVER_LIQUIDATIONS = TableSpec(
    namespace="silver",
    name="futures_liquidations_1m",
    doc="Reported liquidations per symbol, minute and side: a sample, never all liquidations.",
    columns=(
        EXCHANGE,
        SYMBOL,
        Column("window_start", TIME, "start of the minute"),
        Column("side", "string", "side of the order: sell closes a long position, buy a short one"),
        Column("orders", "long", "number of reported orders, at most one per second"),
        Column("qty", VOLUME, "filled quantity, base currency"),
        Column("notional", QUOTE_VOLUME, "filled value at average prices, quote currency"),
        UPDATED_AT,
    ),
    key=("exchange", "symbol", "window_start", "side"),
    partition=("window_start", "day"),
    rewritten=True,
    pooled=True,
)
