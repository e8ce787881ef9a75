"""The registry of stream types. To add one, append it to `EXTRA_STREAM_TYPES`."""

from __future__ import annotations

from cryptolake_assets.binance import liquidation_frames, mark_price_frames
from cryptolake_assets.binance.stream_adapter import combined
from cryptolake_assets.binance.stream_type import Capabilities, MinuteStream, StreamType
from cryptolake_assets.model.exchange_records import TRADE_STREAMS
from cryptolake_assets.model.trade_tables import BRONZE_TRADES

# Always on. `producer.dispatch` parses its frames; `transform.silver_run` builds its minutes.
TRADES = StreamType(
    name="trades",
    topic_suffix="",
    kinds=TRADE_STREAMS,
    bronze=BRONZE_TRADES,
    identity=("exchange", "symbol", "stream", "trade_id"),
    address=combined(),
    capabilities=Capabilities(ids=True, coverage=True, quarantine=True),
)

# Enabled by the settings.
EXTRA_STREAM_TYPES: tuple[MinuteStream, ...] = (mark_price_frames.STREAM, liquidation_frames.STREAM)

STREAM_TYPES: tuple[StreamType, ...] = (TRADES, *EXTRA_STREAM_TYPES)
