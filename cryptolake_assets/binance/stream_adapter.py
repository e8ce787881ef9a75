"""Where Binance's streams are found: the adapter that its stream types share. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptolake_assets.model.symbols import in_url, stream_name

if TYPE_CHECKING:
    from cryptolake_assets.binance.stream_type import Address
    from cryptolake_assets.settings import Settings

EXCHANGE: Final = "binance_futures"
MARKET_PATH: Final = "/market/stream"
"""Of USD-M futures' market data that is neither trades nor the order book."""


def combined(path: str = "") -> Address:
    """Return the address of a combined stream of `<symbol>@<kind>` of each symbol; `path` is the market's own unless
    given."""

    def address(settings: Settings, symbols: tuple[str, ...], kind: str) -> str:
        names = "/".join(in_url(stream_name(symbol, kind)) for symbol in symbols)
        return f"{settings.ws_url}{path or settings.venue.ws_path}?streams={names}"

    return address
