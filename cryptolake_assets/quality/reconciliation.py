"""Our bars beside the exchange's own: the nine fields that both have, compared to the last digit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.markets import venue_of

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
"""Names in `silver.futures_ohlcv_1m`, and the attributes of `Kline`."""

TOLERANT_FIELDS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
"""What the exchange's aggregates may lack: they leave out what its klines count, such as auto-deleveraging."""

OF_COIN_M = tuple(name for name in FIELDS if name not in ("quote_volume", "taker_buy_quote_volume"))
"""What can be compared of COIN-M futures: where others state the quote's volume their klines state the base asset's."""

EXACT = Decimal(0)


class Verdict(StrEnum):
    """What a comparison says."""

    EQUAL = "equal"
    TOLERATED = "equal within the tolerance"
    DIFFERS = "differs"
    INCOMPLETE = "incomplete"
    NO_REFERENCE = "no official bar"


@dataclass(frozen=True)
class Difference:
    """One field that differs."""

    field: str
    ours: Decimal
    official: Decimal
    tolerated: bool = False


@dataclass(frozen=True)
class Comparison:
    """One bar beside its kline."""

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
    """A row of Silver beside the exchange's kline of the same minute. An incomplete bar is not judged.

    `tolerance` is the share of the official value by which `TOLERANT_FIELDS` may differ; prices never may.
    """
    symbol = str(bar["symbol"])
    # Spot's symbols look like those of USD-M, and so do its klines.
    fields = FIELDS if venue_of(symbol).klines_count_quote else OF_COIN_M
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
