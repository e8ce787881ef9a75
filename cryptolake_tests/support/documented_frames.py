"""Example frames of the exchange's documentation of its WebSocket market streams."""

from __future__ import annotations

from typing import Any

MARK_FRAME: dict[str, Any] = {
    "e": "markPriceUpdate",
    "E": 1562305380000,
    "s": "BTCUSDT",
    "p": "11794.15000000",
    "i": "11784.62659091",
    "P": "11784.25641265",
    "r": "0.00038167",
    "T": 1562306400000,
}
ORDER: dict[str, Any] = {
    **{"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9910", "X": "FILLED"},
    **{"l": "0.014", "z": "0.014", "T": 1568014460893},
}
FORCE_FRAME: dict[str, Any] = {"e": "forceOrder", "E": 1568014460893, "o": ORDER}
