"""Kafka events and rejected frames. Pure.

An event is a JSON object whose fields are the columns of its Bronze table, in order. Times are µs since 1970, UTC;
decimals are the exchange's own digits and fit the column type.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec
from msgspec import Raw, Struct

# Increment when formerly rejected frames become accepted: gaps of rejected trades are then requested again.
# 2: symbols in any script, quantities of 20 digits, ids without a trade. 1: earlier releases.
CONTRACT_VERSION: Final = 2

MAX_TIME_MS: Final = 253_402_300_799_999  # last millisecond of the year 9999, the latest time all engines can hold
MAX_ID: Final = 2**63 - 1
MAX_REASON_CHARS: Final = 200

# Type stored for futures `trade` frames without one; the exchange uses this value itself. The trade is stored, but like
# every type other than `MARKET` it is not in the exchange's klines. Not `MARKET`, which would be a guess. Spot frames
# never have a type, and all Spot trades are order-book executions.
UNKNOWN_TRADE_TYPE: Final = "NA"


class Event(Protocol):
    """An event of any stream; optional fields of its contract may be None."""

    @property
    def symbol(self) -> str: ...


class TradeEvent(Struct, frozen=True, gc=False):
    """One trade, or one aggregate of trades at one price."""

    symbol: str
    event_time: int  # trade time
    price: str  # fits `columns.PRICE`
    qty: str  # in the base asset, or contracts on COIN-M; fits `columns.QUANTITY`
    side: Literal["buy", "sell"]  # the taker's side
    trade_id: int  # id of the trade or aggregate; `stream` determines the sequence
    exchange: str
    ingest_ts: int  # when this process received the frame; may be before `event_time`, because clocks differ
    first_trade_id: int
    last_trade_id: int
    trade_type: str  # `MARKET` for order-book trades; see `UNKNOWN_TRADE_TYPE`
    stream: Literal["trade", "aggTrade"]

    def encode(self) -> bytes:
        """Return the event as JSON."""
        return encode_event(self)


encode_event: Final = msgspec.json.Encoder().encode  # `TradeEvent.encode` for callers with many events


class MarkPriceEvent(Struct, frozen=True, gc=False):
    """Mark price, index and funding rate of a symbol."""

    symbol: str
    event_time: int
    mark_price: str
    index_price: str
    settle_price: str | None
    funding_rate: str | None
    next_funding_time: int | None
    exchange: str
    ingest_ts: int


class LiquidationEvent(Struct, frozen=True, gc=False):
    """A liquidation order; the exchange closes a position with it."""

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


class DepthUpdateEvent(Struct, frozen=True, gc=False):
    """The changed levels of an order book; sides are JSON arrays of [price, quantity]."""

    symbol: str
    event_time: int
    transaction_time: int | None
    first_update_id: int
    final_update_id: int
    previous_update_id: int | None
    bids: Raw
    asks: Raw
    exchange: str
    ingest_ts: int


class DepthSnapshotEvent(Struct, frozen=True, gc=False):
    """An order book of the exchange's REST interface; sides are JSON arrays of [price, quantity], from the top."""

    symbol: str
    event_time: int | None
    transaction_time: int | None
    last_update_id: int
    bids: Raw
    asks: Raw
    exchange: str
    ingest_ts: int


class BookTickerEvent(Struct, frozen=True, gc=False):
    """Best bid and ask of a book; a price and quantity of 0 is an empty side."""

    symbol: str
    event_time: int | None
    transaction_time: int | None
    update_id: int
    bid_price: str
    bid_qty: str
    ask_price: str
    ask_qty: str
    exchange: str
    ingest_ts: int


class RejectedFrame(Struct, frozen=True, gc=False):
    """A frame with an invalid structure; it becomes a dead letter.

    `reason` is a stable code, a colon and the detail: printable ASCII, at most `MAX_REASON_CHARS` characters. Codes:
    `not_json`, `not_an_object`, `missing_field`, `wrong_type`, `wrong_shape`, `price_format`, `qty_format`,
    `symbol_format`, `trade_type_format`, `levels_format`, `out_of_range`, `id_order`, `unexpected_event`,
    `not_accepted`.
    """

    raw: bytes
    reason: str
    # Symbol, stream (such as `btcusdt@trade`) and trade or aggregate id of the frame, if readable.
    symbol: str | None = None
    stream_name: str | None = None
    trade_id: int | None = None
