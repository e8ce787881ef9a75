"""Events as they travel through Kafka, and the frames that became none. Pure.

An event is a JSON object whose fields are the columns of its Bronze table, in their order. Times are µs since 1970,
UTC; decimals are the exchange's own digits, that fit the column's type.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

CONTRACT_VERSION: Final = 2
"""Raised with every change that accepts what was rejected: gaps of rejected trades are then asked for again.

2: symbols of every script, quantities of 20 digits, ids without a trade. 1: the release before.
"""

MAX_TIME_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: the latest time that every engine behind us can hold."""
MAX_ID: Final = 2**63 - 1
MAX_REASON_CHARS: Final = 200

UNKNOWN_TRADE_TYPE: Final = "NA"
"""Trade type of a futures' `trade` frame that names none: the exchange's own word for it. Such a trade is kept, and
like every type other than `MARKET` it is outside the exchange's klines; calling it `MARKET` would be a guess. Spot's
frames never name one, and all of its trades are executions of the order book."""


class Event(Protocol):
    """An event of any stream; what its contract calls optional may be None."""

    @property
    def symbol(self) -> str: ...


class TradeEvent(Struct, frozen=True, gc=False):
    """One trade, or one aggregate of trades at one price."""

    symbol: str
    event_time: int
    """When the trade happened."""
    price: str
    """Fits `columns.PRICE`."""
    qty: str
    """In the base asset, or contracts where the market counts them; fits `columns.QUANTITY`."""
    side: Literal["buy", "sell"]
    """The taker's side."""
    trade_id: int
    """The trade's id, or the aggregate's: two different sequences, told apart by `stream`."""
    exchange: str
    ingest_ts: int
    """When this process received the frame. May be earlier than `event_time`: clocks differ."""
    first_trade_id: int
    last_trade_id: int
    trade_type: str
    """`MARKET` for trades of the order book; see `UNKNOWN_TRADE_TYPE`."""
    stream: Literal["trade", "aggTrade"]

    def encode(self) -> bytes:
        """The event as JSON."""
        return encode_event(self)


encode_event: Final = msgspec.json.Encoder().encode
"""`TradeEvent.encode`, for those who have many."""


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
    """An order by which the exchange closes a position."""

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


class RejectedFrame(Struct, frozen=True, gc=False):
    """A frame whose structure cannot be accepted: what its dead letter is made of."""

    raw: bytes
    reason: str
    """A stable code, then a colon and the detail; printable ASCII, at most `MAX_REASON_CHARS` characters.

    Codes: `not_json`, `not_an_object`, `missing_field`, `wrong_type`, `price_format`, `qty_format`, `symbol_format`,
    `trade_type_format`, `out_of_range`, `id_order`, `unexpected_event`, `not_accepted`.
    """
    symbol: str | None = None
    """The symbol that the frame names, if it can be read."""
    stream_name: str | None = None
    """The stream that the frame names, such as `btcusdt@trade`, if it can be read."""
    trade_id: int | None = None
    """The id of the trade or aggregate that the frame names, if it can be read."""
