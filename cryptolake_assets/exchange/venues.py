"""The exchange's markets: how they differ, said once. Pure.

This module is imported when the Dagster definitions load: nothing heavy may be imported here.
"""

from __future__ import annotations

import re
from enum import StrEnum

from cryptolake_assets.settings import COIN_EXCHANGE_NAME, EXCHANGE_NAME

_COIN_SYMBOL = re.compile(r"[A-Z0-9]+USD_(?:PERP|[0-9]{6})", re.ASCII)


class Market(StrEnum):
    """A futures market, by the archive's name for it."""

    USD_M = "um"
    COIN_M = "cm"

    @property
    def exchange(self) -> str:
        """The `exchange` of its trades."""
        return COIN_EXCHANGE_NAME if self is Market.COIN_M else EXCHANGE_NAME


def market_of(symbol: str) -> Market:
    """COIN-M symbols are quoted in USD and name their contract: `BTCUSD_PERP`, `BTCUSD_250926`. All others are USD-M,
    `BTCUSDT_250926` too."""
    return Market.COIN_M if _COIN_SYMBOL.fullmatch(symbol) else Market.USD_M
