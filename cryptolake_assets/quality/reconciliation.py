"""Compare a bar with the exchange's official kline in the nine common fields, to the last digit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.markets import EXCHANGES

# Names in the tables of bars, and the attributes of `Kline`.
FIELDS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)

# Fields that may differ for aggregate trades, which exclude some trades of the klines, such as auto-deleveraging.
TOLERANT_FIELDS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")

# Fields comparable for COIN-M futures: COIN-M klines have base-asset volumes instead of quote volumes.
COIN_M_FIELDS = tuple(name for name in FIELDS if name not in ("quote_volume", "taker_buy_quote_volume"))

EXACT = Decimal(0)


class Verdict(StrEnum):
    """The result of a comparison."""

    EQUAL = "equal"
    TOLERATED = "equal within the tolerance"
    DIFFERS = "differs"
    INCOMPLETE = "incomplete"
    NO_REFERENCE = "no official bar"


@dataclass(frozen=True)
class Difference:
    """One differing field."""

    field: str
    ours: Decimal
    official: Decimal
    tolerated: bool = False


@dataclass(frozen=True)
class Comparison:
    """A bar compared with its kline."""

    symbol: str
    verdict: Verdict
    differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        if self.verdict is not Verdict.DIFFERS:
            return self.verdict.value
        return "differs: " + ", ".join(
            f"{item.field} {item.ours:f}, official {item.official:f}" for item in self.differences if not item.tolerated
        )


def compare(bar: Mapping[str, Any], kline: Kline | None, tolerance: Decimal = EXACT) -> Comparison:
    """Compare a row of Silver with the exchange's kline of the same minute. An incomplete bar is not compared.

    `tolerance` is the share of the official value by which `TOLERANT_FIELDS` may differ; prices must be equal.
    """
    symbol = str(bar["symbol"])
    fields = FIELDS if EXCHANGES[bar["exchange"]].klines_count_quote else COIN_M_FIELDS
    if kline is None:
        return Comparison(symbol, Verdict.NO_REFERENCE)
    if not bar["is_complete"]:
        return Comparison(symbol, Verdict.INCOMPLETE)
    differences = tuple(
        _difference(name, Decimal(bar[name]), Decimal(getattr(kline, name)), tolerance)
        for name in fields
        if Decimal(bar[name]) != Decimal(getattr(kline, name))
    )
    if not differences:
        return Comparison(symbol, Verdict.EQUAL)
    tolerated = all(item.tolerated for item in differences)
    return Comparison(symbol, Verdict.TOLERATED if tolerated else Verdict.DIFFERS, differences)


def _difference(name: str, ours: Decimal, official: Decimal, tolerance: Decimal) -> Difference:
    tolerated = name in TOLERANT_FIELDS and abs(ours - official) <= tolerance * official
    return Difference(name, ours, official, tolerated)
