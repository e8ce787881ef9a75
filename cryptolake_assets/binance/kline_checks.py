"""What a one-minute kline must be, whether REST or the archive has it: its digits, its minute, its prices. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from cryptolake_assets.model.columns import PRICE, decimal_pattern
from cryptolake_assets.model.exchange_records import KLINE_HEADER, Kline
from cryptolake_assets.model.intervals import MINUTE_MS

_VOLUME = r"[0-9]{1,30}(?:\.[0-9]{1,8})?"
_QUOTE_VOLUME = r"[0-9]{1,22}(?:\.[0-9]{1,16})?"
_PATTERNS = {
    **dict.fromkeys(("open_time", "close_time", "count"), r"[0-9]{1,18}"),
    **dict.fromkeys(("open", "high", "low", "close"), decimal_pattern(PRICE)),
    **dict.fromkeys(("volume", "taker_buy_volume"), _VOLUME),
    **dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), _QUOTE_VOLUME),
    "ignore": r"[^,]*",
}
_COLUMNS = {name: re.compile(_PATTERNS[name], re.ASCII) for name in KLINE_HEADER}


def value_problem(values: Sequence[str]) -> str:
    """Return what is wrong with the values of a row, in the order of `KLINE_HEADER`; empty when nothing is."""
    if len(values) != len(KLINE_HEADER):
        return f"{len(values)} columns, expected {len(KLINE_HEADER)}"
    for (name, pattern), value in zip(_COLUMNS.items(), values, strict=True):
        if not pattern.fullmatch(value):
            return f"{name} {value[:60]!r} is no number that fits its column"
    return ""


def add_kline(found: dict[int, Kline], kline: Kline, window: str, first_ms: int, end_ms: int) -> str:
    """Add a kline of sound values to `found`, by open time; return why it was not, empty when it was.

    `window` names the time from `first_ms` to `end_ms` (exclusive). Of two klines of one minute the first stays.
    """
    if not first_ms <= kline.open_time_ms < end_ms:
        return f"it is not of {window}"
    if kline.open_time_ms % MINUTE_MS or kline.close_time_ms != kline.open_time_ms + MINUTE_MS - 1:
        return "open_time and close_time are not the bounds of a minute"
    low, high, *inner = map(Decimal, (kline.low, kline.high, kline.open, kline.close))
    if not low <= min(inner) <= max(inner) <= high:
        return "open and close are not between low and high"
    if found.setdefault(kline.open_time_ms, kline) != kline:
        return "there is another kline of the same minute"
    return ""
