"""The registry of stream types. To add one, append it to `EXTRA_STREAM_TYPES`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptolake_assets.binance import liquidation_frames, mark_price_frames
from cryptolake_assets.binance.stream_type import Capabilities, MinuteStream, StreamType
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
EXTRA_STREAM_TYPES: tuple[MinuteStream, ...] = (mark_price_frames.STREAM, liquidation_frames.STREAM)

STREAM_TYPES: tuple[StreamType, ...] = (TRADES, SPOT_TRADES, *EXTRA_STREAM_TYPES)
