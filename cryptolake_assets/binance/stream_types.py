"""The registry of streams. A new one is an entry of `EXTRA_STREAM_TYPES`."""

from __future__ import annotations

from cryptolake_assets.binance import liquidation_frames, mark_price_frames
from cryptolake_assets.binance.stream_adapter import combined
from cryptolake_assets.binance.stream_type import Capabilities, MinuteStream, StreamType
from cryptolake_assets.model.exchange_records import TRADE_STREAMS
from cryptolake_assets.model.trade_tables import BRONZE_TRADES

TRADES = StreamType(
    name="trades",
    topic_suffix="",
    kinds=TRADE_STREAMS,
    bronze=BRONZE_TRADES,
    identity=("exchange", "symbol", "stream", "trade_id"),
    address=combined(),
    capabilities=Capabilities(ids=True, coverage=True, quarantine=True),
)
"""Always in use. `producer.dispatch` parses its frames, `transform.silver_run` makes its minutes."""

EXTRA_STREAM_TYPES: tuple[MinuteStream, ...] = (mark_price_frames.STREAM, liquidation_frames.STREAM)
"""In use by setting."""

STREAM_TYPES: tuple[StreamType, ...] = (TRADES, *EXTRA_STREAM_TYPES)
