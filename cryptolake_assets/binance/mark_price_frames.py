"""Mark prices of Binance USD-M futures: mark, index and funding rate of a symbol, once a second. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Mark-Price-Stream.
Contracts with a delivery date have no funding: their rate is the empty text and its time 0.
"""

from __future__ import annotations

from msgspec import Struct, field

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_adapter import EXCHANGE, address_of, recorded_as
from cryptolake_assets.binance.stream_type import (
    FrameReader,
    Parsed,
    Price,
    PriceOrNone,
    RateOrNone,
    StreamType,
    Symbol,
    TimeMs,
)
from cryptolake_assets.binance.trade_frames import RejectedFrame
from cryptolake_assets.model.columns import FUNDING_RATE, PRICE, TIME, Column
from cryptolake_assets.model.table_spec import TableSpec


class MarkPriceEvent(Struct, frozen=True, gc=False):
    """See `stream_type.Event`."""

    symbol: str
    event_time: int
    mark_price: str
    index_price: str
    settle_price: str | None
    funding_rate: str | None
    next_funding_time: int | None
    exchange: str
    ingest_ts: int


class _Frame(Struct, tag_field="e", tag="markPriceUpdate", gc=False):
    time_ms: TimeMs = field(name="E")
    symbol: Symbol = field(name="s")
    mark_price: Price = field(name="p")
    index_price: Price = field(name="i")
    next_funding_ms: TimeMs = field(name="T")
    funding_rate: RateOrNone = field(name="r")
    settle_price: PriceOrNone = field(name="P", default="")


_reader = FrameReader(_Frame)


def parse(raw: bytes, received_at_us: int) -> Parsed:
    """A frame as an event; what it may be else says `StreamType`."""
    frame = _reader.read(raw)
    if isinstance(frame, RejectedFrame | ControlFrame):
        return frame
    return MarkPriceEvent(
        symbol=frame.symbol,
        event_time=frame.time_ms * 1000,
        mark_price=frame.mark_price,
        index_price=frame.index_price,
        settle_price=frame.settle_price or None,
        funding_rate=frame.funding_rate or None,
        next_funding_time=frame.next_funding_ms * 1000 or None,
        exchange=EXCHANGE,
        ingest_ts=received_at_us,
    )


SILVER = TableSpec(
    namespace="silver",
    name="futures_mark_price_1m",
    doc="Mark price, index and funding rate by the minute.",
    columns=(
        Column("symbol", "string", "the exchange's symbol"),
        Column("window_start", TIME, "start of the minute"),
        Column("open", PRICE, "first mark price"),
        Column("high", PRICE, "highest mark price"),
        Column("low", PRICE, "lowest mark price"),
        Column("close", PRICE, "last mark price"),
        Column("index_close", PRICE, "last index price"),
        Column("funding_rate", FUNDING_RATE, "last rate that was told for the next funding; empty without funding"),
        Column("next_funding_time", TIME, "when that is; empty without funding"),
        Column("updates", "long", "frames that were received, 60 where none is missing"),
        Column("updated_at", TIME, "when the row last changed; outside all equality"),
    ),
    key=("symbol", "window_start"),
    partition=("window_start", "day"),
    rewritten=True,
)

STREAM = StreamType(
    name="markPrice",
    exchange=EXCHANGE,
    topic_suffix="mark_prices",
    contract=(
        Column("symbol", "string", "the exchange's symbol"),
        Column("event_time", TIME, "when the exchange sent it"),
        Column("mark_price", PRICE, "mark price"),
        Column("index_price", PRICE, "index price"),
        Column("settle_price", PRICE, "estimated settle price, of use in the hour before settlement; may be empty"),
        Column("funding_rate", FUNDING_RATE, "rate of the next funding; empty for a contract without funding"),
        Column("next_funding_time", TIME, "when that is; empty for a contract without funding"),
        Column("exchange", "string", "such as binance_futures"),
        Column("ingest_ts", TIME, "when the frame was received, by the receiver's clock"),
    ),
    optional=frozenset({"settle_price", "funding_rate", "next_funding_time"}),
    identity=("exchange", "symbol", "event_time"),
    address=address_of("markPrice@1s"),
    recorded=recorded_as("markPrice@1s"),
    parse=parse,
    bronze_name="futures_mark_prices",
    bronze_doc="Every mark-price update as received, repeats included; append-only.",
    silver=SILVER,
    minutes="""
        SELECT symbol, date_trunc('minute', event_time) AS window_start,
            arg_min(mark_price, event_time) AS open, max(mark_price) AS high, min(mark_price) AS low,
            arg_max(mark_price, event_time) AS close, arg_max(index_price, event_time) AS index_close,
            arg_max(funding_rate, event_time) AS funding_rate,
            arg_max(next_funding_time, event_time) AS next_funding_time, count(*) AS updates
        FROM events GROUP BY ALL""",
    counted="updates",
    checks={
        "mark_ohlc_order": "NOT (low <= open AND low <= close AND open <= high AND close <= high)",
        "prices_positive": "low <= 0 OR index_close <= 0",
        "rate_range": "funding_rate NOT BETWEEN -0.1 AND 0.1",
        "updates_at_least_one": "updates < 1",
        "no_nulls": " OR ".join(
            f"{name} IS NULL" for name in ("symbol", "window_start", "open", "high", "low", "close", "index_close")
        ),
    },
    meanings={
        "mark_ohlc_order": "low <= open, close <= high.",
        "prices_positive": "Mark and index are above 0.",
        "rate_range": "Rates are at most a tenth of a position, either way.",
        "updates_at_least_one": "A minute stands for at least one update.",
    },
    every_minute=True,
)
