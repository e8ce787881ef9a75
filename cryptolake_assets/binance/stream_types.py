"""Every stream beside the trades, and which of them are in use. A new one is a line of `STREAM_TYPES`."""

from __future__ import annotations

from cryptolake_assets.binance import liquidation_frames as force_order
from cryptolake_assets.binance import mark_price_frames as mark_price
from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import Settings, Source
from cryptolake_assets.settings.extra_streams import AUTO_STREAMS

STREAM_TYPES: tuple[StreamType, ...] = (mark_price.STREAM, force_order.STREAM)


def streams_in_use(settings: Settings) -> tuple[StreamType, ...]:
    """Those that the settings name; with `auto` those that the replayed capture holds, and none when live. Raises
    `CaptureError` when the capture cannot be read."""
    if settings.market is not Market.USD_M:  # which is what they are of
        return ()
    if settings.extra_streams != (AUTO_STREAMS,):
        return tuple(of for of in STREAM_TYPES if of.name in settings.extra_streams)
    if settings.source is not Source.REPLAY:
        return ()
    from cryptolake_assets.captures.reader import summarise

    names = summarise(settings.replay_dir).stream_names
    return tuple(of for of in STREAM_TYPES if any(map(of.recorded, names)))
