"""Liquidations of Binance USD-M futures: orders by which the exchange closes positions. Pure.

Source:
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Liquidation-Order-Streams.
Of the liquidations of a symbol in 1000 ms the exchange sends one. What is received is a sample: sums of it are at most
what was liquidated, and no minute of it is ever complete.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_adapter import EXCHANGE, address_of, recorded_as
from cryptolake_assets.binance.stream_type import (
    FrameReader,
    Parsed,
    Price,
    Quantity,
    StreamType,
    Symbol,
    TimeMs,
    Word,
)
from cryptolake_assets.binance.trade_frames import RejectedFrame
from cryptolake_assets.model.columns import PRICE, QUANTITY, QUOTE_VOLUME, TIME, VOLUME, Column
from cryptolake_assets.model.table_spec import TableSpec


class LiquidationEvent(Struct, frozen=True, gc=False):
    """See `stream_type.Event`."""

    symbol: str
    event_time: int
    side: Literal["buy", "sell"]
    order_type: str
    time_in_force: str
    qty: str
    price: str
    average_price: str
    status: str
    last_filled_qty: str
    filled_qty: str
    exchange: str
    ingest_ts: int


class _Order(Struct, gc=False):
    symbol: Symbol = field(name="s")
    side: Literal["BUY", "SELL"] = field(name="S")
    order_type: Word = field(name="o")
    time_in_force: Word = field(name="f")
    qty: Quantity = field(name="q")
    price: Price = field(name="p")
    average_price: Price = field(name="ap")
    status: Word = field(name="X")
    last_filled_qty: Quantity = field(name="l")
    filled_qty: Quantity = field(name="z")
    time_ms: TimeMs = field(name="T")


class _Frame(Struct, tag_field="e", tag="forceOrder", gc=False):
    exchange_time_ms: TimeMs = field(name="E")
    order: _Order = field(name="o")


_reader = FrameReader(_Frame, symbol="order.symbol")


def parse(raw: bytes, received_at_us: int) -> Parsed:
    """A frame as an event; what it may be else says `StreamType`."""
    frame = _reader.read(raw)
    if isinstance(frame, RejectedFrame | ControlFrame):
        return frame
    order = frame.order
    return LiquidationEvent(
        symbol=order.symbol,
        event_time=order.time_ms * 1000,
        side="buy" if order.side == "BUY" else "sell",
        order_type=order.order_type,
        time_in_force=order.time_in_force,
        qty=order.qty,
        price=order.price,
        average_price=order.average_price,
        status=order.status,
        last_filled_qty=order.last_filled_qty,
        filled_qty=order.filled_qty,
        exchange=EXCHANGE,
        ingest_ts=received_at_us,
    )


SILVER = TableSpec(
    namespace="silver",
    name="futures_liquidations_1m",
    doc="Liquidations that the exchange told of, by minute and side: a sample, never all of them.",
    columns=(
        Column("symbol", "string", "the exchange's symbol"),
        Column("window_start", TIME, "start of the minute"),
        Column("side", "string", "of the order: sell closes a long position, buy a short one"),
        Column("orders", "long", "orders that the exchange told of, at most one a second"),
        Column("qty", VOLUME, "filled, base currency"),
        Column("notional", QUOTE_VOLUME, "filled, quote currency, at the average prices"),
        Column("updated_at", TIME, "when the row last changed; outside all equality"),
    ),
    key=("symbol", "window_start", "side"),
    partition=("window_start", "day"),
    rewritten=True,
)

STREAM = StreamType(
    name="forceOrder",
    exchange=EXCHANGE,
    topic_suffix="liquidations",
    contract=(
        Column("symbol", "string", "the exchange's symbol"),
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
        Column("exchange", "string", "such as binance_futures"),
        Column("ingest_ts", TIME, "when the frame was received, by the receiver's clock"),
    ),
    optional=frozenset(),
    identity=("exchange", "symbol", "event_time", "side", "qty", "price", "average_price", "filled_qty"),
    address=address_of("forceOrder"),
    recorded=recorded_as("forceOrder"),
    parse=parse,
    bronze_name="futures_liquidations",
    bronze_doc="Every liquidation order as received, repeats included: a sample of at most one a symbol and second.",
    silver=SILVER,
    # DuckDB multiplies in 128 bits only where it is told that a factor is longer than 18 digits.
    minutes="""
        SELECT symbol, date_trunc('minute', event_time) AS window_start, side, count(*) AS orders,
            CAST(sum(filled_qty) AS decimal(38, 8)) AS qty,
            CAST(sum(CAST(filled_qty AS decimal(28, 8)) * CAST(average_price AS decimal(19, 8)))
                AS decimal(38, 16)) AS notional
        FROM events GROUP BY ALL""",
    counted="orders",
    checks={
        "orders_at_least_one": "orders < 1",
        "liquidations_not_negative": "qty < 0 OR notional < 0",
        "side_known": "side NOT IN ('buy', 'sell')",
        "no_nulls": " OR ".join(f"{name} IS NULL" for name in SILVER.column_names if name != "updated_at"),
    },
    meanings={
        "orders_at_least_one": "A row stands for at least one order.",
        "liquidations_not_negative": "Quantities and values are >= 0.",
        "side_known": "A side is buy or sell.",
    },
)
