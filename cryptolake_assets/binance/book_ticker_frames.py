"""Book tickers: best bid and ask of a symbol at each change, for all markets of Binance. Pure.

They are the exchange's own word on the top of the book, against which rebuilt books are checked. Source:
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Individual-Symbol-Book-Ticker-Streams,
and the same pages of COIN-M and Spot. Spot has neither `E` nor `T`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter

from msgspec import Struct, field

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_adapter import combined
from cryptolake_assets.binance.stream_type import (
    BookPrice,
    BookQuantity,
    EventStream,
    FrameReader,
    Parsed,
    Symbol,
    TimeMs,
    UpdateId,
)
from cryptolake_assets.model.events import BookTickerEvent, RejectedFrame
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family, Market, Venue


class _SpotFrame(Struct, gc=False):
    symbol: Symbol = field(name="s")
    update_id: UpdateId = field(name="u")
    bid_price: BookPrice = field(name="b")
    bid_qty: BookQuantity = field(name="B")
    ask_price: BookPrice = field(name="a")
    ask_qty: BookQuantity = field(name="A")


class _FuturesFrame(_SpotFrame, tag_field="e", tag="bookTicker", gc=False):
    time_ms: TimeMs = field(name="E")
    transaction_time_ms: TimeMs = field(name="T")


_readers = {Family.SPOT: FrameReader(_SpotFrame), Family.FUTURES: FrameReader(_FuturesFrame)}


def book_ticker_parser(venue: Venue) -> Callable[[bytes, int], Parsed]:
    """Return the parser of a venue's frames, which takes a frame and its receive time in µs since 1970."""
    return partial(_parse, _readers[venue.family], venue.exchange)


def _parse(reader: FrameReader, exchange: str, raw: bytes, received_at_us: int) -> Parsed:
    frame = reader.read(raw)
    if isinstance(frame, RejectedFrame | ControlFrame):
        return frame
    is_futures = isinstance(frame, _FuturesFrame)
    return BookTickerEvent(
        symbol=frame.symbol,
        event_time=frame.time_ms * 1000 if is_futures else None,
        transaction_time=frame.transaction_time_ms * 1000 if is_futures else None,
        update_id=frame.update_id,
        bid_price=frame.bid_price,
        bid_qty=frame.bid_qty,
        ask_price=frame.ask_price,
        ask_qty=frame.ask_qty,
        exchange=exchange,
        ingest_ts=received_at_us,
    )


def _stream(family: Family, markets: frozenset[Market], optional: frozenset[str] = frozenset()) -> EventStream:
    return EventStream(
        name="bookTicker" if family is Family.FUTURES else f"{family}_bookTicker",
        option="bookTicker",
        is_automatic=False,
        family=family,
        markets=markets,
        topic_suffix="book_tickers",
        kinds=("bookTicker",),
        bronze=FAMILY_TABLES[family].book_tickers,
        optional=optional,
        identity=("exchange", "symbol", "update_id"),
        address=combined(attrgetter("ws_book_path")),
        parser=book_ticker_parser,
        is_followed=False,
    )


STREAMS = (
    _stream(Family.FUTURES, frozenset({Market.USD_M, Market.COIN_M})),
    _stream(Family.SPOT, frozenset({Market.SPOT}), optional=frozenset({"event_time", "transaction_time"})),
)
