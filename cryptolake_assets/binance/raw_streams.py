"""Stream names of events recorded from raw streams, which have no envelope with the stream name. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cryptolake_assets.model.symbols import stream_name

# Stream kind by the event's `e`: the documented market-data events of all markets.
STREAM_KINDS: Final[Mapping[str, str]] = {
    **{kind: kind for kind in ("trade", "aggTrade", "bookTicker", "kline", "avgPrice", "forceOrder")},
    "depthUpdate": "depth",
    "markPriceUpdate": "markPrice@1s",
    "indexPriceUpdate": "indexPrice@1s",
    "continuous_kline": "continuousKline",
    "indexPrice_kline": "indexPriceKline",
    "markPrice_kline": "markPriceKline",
    "24hrTicker": "ticker",
    "24hrMiniTicker": "miniTicker",
    "1hTicker": "ticker_1h",
    "4hTicker": "ticker_4h",
    "1dTicker": "ticker_1d",
    "contractInfo": "contractInfo",
    "compositeIndex": "compositeIndex",
    "assetIndexUpdate": "assetIndex",
}

_DEPTH_SPEED: Final = re.compile(r"(?<=@depth)@[0-9]+ms\Z")


def without_speed(stream: str) -> str:
    """Return a stream name without the speed of depth updates: any recorded speed answers a subscription."""
    return _DEPTH_SPEED.sub("", stream)


_SPOT_BOOK_TICKER: Final = frozenset("usbBaA")  # Spot's bookTicker events have no `e`


def stream_of_event(event: str, symbol: str, order: object = None) -> str | None:
    """Return the stream name of an event (`e`, `s`, `o`); None for an unknown event."""
    kind = STREAM_KINDS.get(event)
    if kind is None:
        return None
    if not symbol and isinstance(order, dict):  # of a liquidation
        symbol = str(order.get("s", ""))
    return stream_name(symbol, kind) if symbol else f"!{kind}"


def stream_of_document(document: Any) -> str | None:
    """Return the stream name of a decoded frame without `e`; None if unknown.

    Handles arrays of events, such as those of `!miniTicker@arr`, and Spot's bookTicker.
    """
    if isinstance(document, dict):
        is_book_ticker = document.keys() == _SPOT_BOOK_TICKER and isinstance(document["s"], str)
        return stream_name(document["s"], "bookTicker") if is_book_ticker else None
    if not isinstance(document, list):
        return None
    events = {item.get("e") if isinstance(item, dict) else None for item in document}
    kind = STREAM_KINDS.get(next(iter(events)) or "") if len(events) == 1 else None
    return f"!{kind}@arr" if kind else None
