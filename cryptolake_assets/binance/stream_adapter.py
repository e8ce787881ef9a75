"""WebSocket addresses of Binance streams, shared by the stream types. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptolake_assets.model.symbols import in_url, stream_name

if TYPE_CHECKING:
    from cryptolake_assets.binance.stream_type import Address
    from cryptolake_assets.settings import Settings

EXCHANGE: Final = "binance_futures"
MARKET_PATH: Final = "/market/stream"  # USD-M market data other than the order book


def combined(path: str = "") -> Address:
    """Return an `Address` for combined streams `<symbol>@<kind>`; `path` defaults to the market's own."""

    def address(settings: Settings, symbols: tuple[str, ...], kind: str) -> str:
        names = "/".join(in_url(stream_name(symbol, kind)) for symbol in symbols)
        return f"{settings.ws_url}{path or settings.venue.ws_path}?streams={names}"

    return address
