"""WebSocket addresses of Binance streams, shared by the stream types. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from cryptolake_assets.model.symbols import in_url, stream_name

if TYPE_CHECKING:
    from cryptolake_assets.model.markets import Venue
    from cryptolake_assets.settings import Settings

EXCHANGE: Final = "binance_futures"

# (settings, symbols, kind) -> the WebSocket URL that subscribes to this kind of stream of the symbols.
Address = Callable[["Settings", tuple[str, ...], str], str]


def combined(path_of: Callable[[Venue], str] = attrgetter("ws_path")) -> Address:
    """Return an `Address` for combined streams `<symbol>@<kind>` at a venue's path, by default that of its trades."""

    def address(settings: Settings, symbols: tuple[str, ...], kind: str) -> str:
        names = "/".join(in_url(stream_name(symbol, kind)) for symbol in symbols)
        return f"{settings.ws_url}{path_of(settings.venue)}?streams={names}"

    return address
