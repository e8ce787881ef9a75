"""A minimal stream of another exchange: the example of docs/add-a-stream.md.

Its socket is at `/feed/<symbols>`, and a frame is `{"pair": "BTC-EUR", "at": <ms>, "bid": "1.5"}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_type import FrameReader, MinuteStream, Parsed, Price, Symbol, TimeMs
from cryptolake_assets.model.columns import PRICE, TIME, Column
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.table_spec import TableSpec, stream_table

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

# The adapter: the address and the parser of frames.


def address(settings: Settings, symbols: tuple[str, ...], _kind: str) -> str:
    return f"{settings.ws_url}/feed/{','.join(symbols)}"


class _Frame(Struct):
    pair: Symbol
    at: TimeMs
    bid: Price


_reader = FrameReader(_Frame, symbol="pair")


def parse(raw: bytes, received_at_us: int) -> Parsed:
    frame = _reader.read(raw)
    if isinstance(frame, RejectedFrame | ControlFrame):
        return frame
    return ToyEvent(frame.pair, frame.at * 1000, frame.bid, "toy", received_at_us)


# The contract: the event on the topic, its Bronze columns, the rows per minute and their checks.


class ToyEvent(Struct, frozen=True, gc=False):
    symbol: str
    event_time: int
    bid: str
    exchange: str
    ingest_ts: int


STREAM = MinuteStream(
    name="toyBid",
    option="toyBid",
    topic_suffix="toy_bids",
    kinds=("toyBid",),
    bronze=stream_table(
        "toy_bids",
        "Bids as received.",
        (
            Column("symbol", "string", "pair"),
            Column("event_time", TIME, "when the exchange sent it"),
            Column("bid", PRICE, "best bid"),
            Column("exchange", "string", "toy"),
            Column("ingest_ts", TIME, "when it was received"),
        ),
    ),
    identity=("exchange", "symbol", "event_time"),
    address=address,
    parser=lambda _venue: parse,
    silver=TableSpec(
        namespace="silver",
        name="toy_bids_1m",
        doc="Bids by the minute.",
        columns=(
            Column("symbol", "string", "pair"),
            Column("window_start", TIME, "start of the minute"),
            Column("close", PRICE, "last bid"),
            Column("bids", "long", "number of bids"),
            Column("updated_at", TIME, "when the row last changed"),
        ),
        key=("symbol", "window_start"),
        partition=("window_start", "day"),
        rewritten=True,
    ),
    minutes="""
        SELECT symbol, date_trunc('minute', event_time) AS window_start,
            arg_max(bid, event_time) AS close, count(*) AS bids
        FROM events GROUP BY ALL""",
    counted="bids",
    checks={"bid_positive": "close <= 0"},
    meanings={"bid_positive": "Bids are above 0."},
)
