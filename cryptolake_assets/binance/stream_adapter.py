"""Where Binance USD-M futures' streams are found: the adapter that its stream types share. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cryptolake_assets.model.symbols import in_url, stream_name

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

EXCHANGE: Final = "binance_futures"


def address_of(kind: str) -> Callable[[Settings, tuple[str, ...]], str]:
    """The combined stream of `<symbol>@<kind>` of each symbol."""

    def address(settings: Settings, symbols: tuple[str, ...]) -> str:
        names = "/".join(in_url(stream_name(symbol, kind)) for symbol in symbols)
        return f"{settings.ws_url}/market/stream?streams={names}"

    return address


def recorded_as(*kinds: str) -> Callable[[str], bool]:
    """Whether a stream's name, such as `btcusdt@markPrice@1s`, is of one of the kinds."""
    return lambda name: name.partition("@")[2] in kinds
