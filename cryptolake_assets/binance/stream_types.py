"""The registry of stream types. To add one, append it to `EXTRA_STREAM_TYPES`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptolake_assets.binance import book_ticker_frames, depth_frames, liquidation_frames, mark_price_frames
from cryptolake_assets.binance.stream_type import Capabilities, EventStream, MinuteStream, StreamType
from cryptolake_assets.binance.venue_adapter import ADAPTERS
from cryptolake_assets.model.exchange_records import TRADE_STREAMS
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings


def _address(settings: Settings, symbols: tuple[str, ...], kind: str) -> str:
    return ADAPTERS[settings.market].address(settings, symbols, kind)


def _trades(name: str, family: Family) -> StreamType:
    return StreamType(
        name=name,
        family=family,
        topic_suffix="",
        kinds=TRADE_STREAMS,
        bronze=FAMILY_TABLES[family].trades,
        identity=("exchange", "symbol", "stream", "trade_id"),
        address=_address,
        capabilities=Capabilities(coverage=True, quarantine=True),
    )


# Always on for the families of the tracked markets. `producer.dispatch` parses their frames; `transform.silver_run`
# builds their minutes.
TRADES, SPOT_TRADES = _trades("trades", Family.FUTURES), _trades("spot_trades", Family.SPOT)
TRADES_OF_FAMILY = {stream.family: stream for stream in (TRADES, SPOT_TRADES)}

# Enabled by the settings.
MINUTE_STREAMS: tuple[MinuteStream, ...] = (mark_price_frames.STREAM, liquidation_frames.STREAM)
EVENT_STREAMS: tuple[EventStream, ...] = (*MINUTE_STREAMS, *depth_frames.STREAMS, *book_ticker_frames.STREAMS)
EXTRA_STREAM_TYPES: tuple[StreamType, ...] = (*EVENT_STREAMS, *depth_frames.SNAPSHOTS_OF_FAMILY.values())

STREAM_TYPES: tuple[StreamType, ...] = (TRADES, SPOT_TRADES, *EXTRA_STREAM_TYPES)
