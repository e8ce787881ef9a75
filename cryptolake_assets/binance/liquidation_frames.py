"""Liquidations of Binance USD-M futures: orders by which the exchange closes positions. Pure.

Source:
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Liquidation-Order-Streams.
The exchange sends at most one liquidation per symbol and 1000 ms. The stream is a sample: its sums are lower bounds of
the liquidated amounts, and no minute is complete.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_adapter import EXCHANGE, combined
from cryptolake_assets.binance.stream_type import (
    FrameReader,
    MinuteStream,
    Parsed,
    Price,
    Quantity,
    Symbol,
    TimeMs,
    Word,
)
from cryptolake_assets.model.derivatives_tables import BRONZE_LIQUIDATIONS, SILVER_LIQUIDATIONS
from cryptolake_assets.model.events import LiquidationEvent, RejectedFrame


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
    """Parse a frame into an event, a rejected frame or a control message. Never raises."""
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


STREAM = MinuteStream(
    name="forceOrder",
    option="forceOrder",
    topic_suffix="liquidations",
    kinds=("forceOrder",),
    bronze=BRONZE_LIQUIDATIONS,
    identity=("exchange", "symbol", "event_time", "side", "qty", "price", "average_price", "filled_qty"),
    address=combined(),
    parser=lambda _venue: parse,
    silver=SILVER_LIQUIDATIONS,
    # DuckDB multiplies in 128 bits only if a factor's declared precision is above 18 digits.
    minutes="""
        SELECT exchange, symbol, date_trunc('minute', event_time) AS window_start, side, count(*) AS orders,
            CAST(sum(filled_qty) AS decimal(38, 8)) AS qty,
            CAST(sum(CAST(filled_qty AS decimal(28, 8)) * CAST(average_price AS decimal(19, 8)))
                AS decimal(38, 16)) AS notional
        FROM events GROUP BY ALL""",
    counted="orders",
    checks={
        "orders_at_least_one": "orders < 1",
        "liquidations_not_negative": "qty < 0 OR notional < 0",
        "side_known": "side NOT IN ('buy', 'sell')",
        "no_nulls": " OR ".join(f"{name} IS NULL" for name in SILVER_LIQUIDATIONS.column_names if name != "updated_at"),
    },
    meanings={
        "orders_at_least_one": "A row counts at least one order.",
        "liquidations_not_negative": "Quantities and values are >= 0.",
        "side_known": "The side is buy or sell.",
    },
)
