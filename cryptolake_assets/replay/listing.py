"""A minimal exchangeInfo for a capture without one, derived from symbol names, in the market's own shape. Pure.

Precisions, filters and contract sizes are omitted, because a name does not contain them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cryptolake_assets.model.markets import Market, Venue

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "USD", "BTC")
_HEADS: dict[Market, dict[str, Any]] = {
    Market.USD_M: {"futuresType": "U_MARGINED", "assets": []},
    Market.COIN_M: {},
    Market.SPOT: {},
}


def minimal_exchange_info(symbols: Iterable[str], venue: Venue) -> dict[str, Any]:
    """Return the document for these symbols, without `serverTime`."""
    limit = {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": venue.weights.per_minute,
    }
    return {
        "timezone": "UTC",
        "rateLimits": [limit],
        "exchangeFilters": [],
        **_HEADS[venue.market],
        "symbols": [minimal_symbol(symbol, venue) for symbol in symbols],
    }


def minimal_symbol(symbol: str, venue: Venue) -> dict[str, Any]:
    """Return one symbol's entry."""
    pair, _, contract = symbol.partition("_")
    quote = next((quote for quote in _QUOTES if pair.endswith(quote) and pair != quote), "")
    base = pair.removesuffix(quote)
    common = {"symbol": symbol, "baseAsset": base, "quoteAsset": quote}
    if venue.market is Market.SPOT:
        return {**common, "status": "TRADING", "isSpotTradingAllowed": True}
    of_futures = {**common, "pair": pair, "contractType": "PERPETUAL"}
    if venue.market is Market.COIN_M:
        kind = "PERPETUAL" if contract == "PERP" else "CURRENT_QUARTER"
        return {**of_futures, "contractType": kind, "contractStatus": "TRADING", "marginAsset": base}
    return {**of_futures, "status": "TRADING", "marginAsset": quote}
