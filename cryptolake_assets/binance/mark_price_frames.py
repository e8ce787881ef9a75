"""Mark prices of Binance USD-M futures: mark price, index price and funding rate per symbol and second. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Mark-Price-Stream.
Contracts with a delivery date have no funding: their rate is the empty string and the next funding time 0.
"""

from __future__ import annotations

from msgspec import Struct, field

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_adapter import EXCHANGE, combined
from cryptolake_assets.binance.stream_type import (
    FrameReader,
    MinuteStream,
    Parsed,
    Price,
    PriceOrNone,
    RateOrNone,
    Symbol,
    TimeMs,
)
from cryptolake_assets.model.derivatives_tables import BRONZE_MARK_PRICES, SILVER_MARK_PRICE
from cryptolake_assets.model.events import MarkPriceEvent, RejectedFrame


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
    """Parse a frame into an event, a rejected frame or a control message. Never raises."""
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


STREAM = MinuteStream(
    name="markPrice",
    option="markPrice",
    topic_suffix="mark_prices",
    kinds=("markPrice@1s",),
    bronze=BRONZE_MARK_PRICES,
    optional=frozenset({"settle_price", "funding_rate", "next_funding_time"}),
    identity=("exchange", "symbol", "event_time"),
    address=combined(),
    parser=lambda _venue: parse,
    silver=SILVER_MARK_PRICE,
    minutes="""
        SELECT exchange, symbol, date_trunc('minute', event_time) AS window_start,
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
            f"{name} IS NULL"
            for name in ("exchange", "symbol", "window_start", "open", "high", "low", "close", "index_close")
        ),
    },
    meanings={
        "mark_ohlc_order": "low <= open <= high and low <= close <= high.",
        "prices_positive": "Mark and index prices are above 0.",
        "rate_range": "Funding rates are between -0.1 and 0.1.",
        "updates_at_least_one": "A row counts at least one update.",
    },
    every_minute=True,
)
