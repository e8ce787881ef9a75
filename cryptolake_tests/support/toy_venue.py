"""A venue whose messages have sequence numbers only: the example of docs/add-a-stream.md.

Its socket is at `/feed/<pairs>`. A trade is `{"pair": "BTC-EUR", "seq": 7, "at": <ms>, "price": "1.5", "size": "2",
"taker": "buy"}`; a heartbeat has no price. It has no trade ids, no history, and no responses to requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from cryptolake_assets.binance.stream_type import Price, Quantity, Symbol, TimeMs
from cryptolake_assets.binance.trade_frames import AcceptedFrame, IdWithoutTrade, ParsedTrade, rejected
from cryptolake_assets.binance.venue_adapter import Proof, VenueAdapter
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.markets import SPOT, Venue

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

TOY = replace(SPOT, exchange="toy", title="Toy exchange", live_symbols=("BTC-EUR",))


def address(settings: Settings, symbols: tuple[str, ...], _kind: str) -> str:
    return f"{settings.ws_url}/feed/{','.join(symbols)}"


class _Message(Struct):
    pair: Symbol
    seq: int
    at: TimeMs
    price: Price | None = None
    size: Quantity = "0"
    taker: Literal["buy", "sell"] = "buy"


_decode = msgspec.json.Decoder(_Message).decode


def parser(venue: Venue) -> Callable[[bytes, int], ParsedTrade]:
    def parse(raw: bytes, received_at_us: int) -> ParsedTrade:
        try:
            found = _decode(raw)
        except ValueError as error:
            return rejected(raw, f"wrong_shape: {error}")
        if found.price is None:
            return IdWithoutTrade(found.pair, "trade", found.seq, found.at * 1000, found.at)
        trade = TradeEvent(
            symbol=found.pair,
            event_time=found.at * 1000,
            price=found.price,
            qty=found.size,
            side=found.taker,
            trade_id=found.seq,
            exchange=venue.exchange,
            ingest_ts=received_at_us,
            first_trade_id=found.seq,
            last_trade_id=found.seq,
            trade_type=venue.unnamed_trade_type,
            stream="trade",
        )
        return AcceptedFrame(trade, found.at)

    return parse


ADAPTER = VenueAdapter(address=address, parser=parser, proof=Proof.SEQUENCE, barriers=False)
