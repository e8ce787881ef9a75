"""Every stream beside the trades. A new one is a line of `STREAM_TYPES`."""

from __future__ import annotations

from cryptolake_assets.binance import liquidation_frames as force_order
from cryptolake_assets.binance import mark_price_frames as mark_price
from cryptolake_assets.binance.stream_type import StreamType

STREAM_TYPES: tuple[StreamType, ...] = (mark_price.STREAM, force_order.STREAM)
