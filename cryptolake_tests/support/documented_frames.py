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
DEPTH_FRAME: dict[str, Any] = {
    **{"e": "depthUpdate", "E": 123456789, "T": 123456788, "s": "BTCUSDT", "U": 157, "u": 160, "pu": 149},
    **{"b": [["0.0024", "10"]], "a": [["0.0026", "100"]]},
}
SPOT_DEPTH_FRAME = {name: value for name, value in DEPTH_FRAME.items() if name not in ("T", "pu")}
SPOT_BOOK_TICKER_FRAME: dict[str, Any] = {
    **{"u": 400900217, "s": "BNBUSDT", "b": "25.35190000", "B": "31.21000000", "a": "25.36520000", "A": "40.66000000"}
}
BOOK_TICKER_FRAME = {"e": "bookTicker", **SPOT_BOOK_TICKER_FRAME, "T": 1568014460891, "E": 1568014460893}
FORCE_FRAME: dict[str, Any] = {"e": "forceOrder", "E": 1568014460893, "o": ORDER}
