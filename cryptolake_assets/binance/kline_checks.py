"""Checks of one-minute klines from REST and the archive: number formats, minute bounds, price order. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TypeVar

from cryptolake_assets.model.columns import PRICE, decimal_pattern
from cryptolake_assets.model.exchange_records import KLINE_HEADER, Kline
from cryptolake_assets.model.windows import MINUTE_MS

Place = TypeVar("Place")

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
    """Return the first problem of a row's values (in the order of `KLINE_HEADER`); empty if there is none."""
    if len(values) != len(KLINE_HEADER):
        return f"{len(values)} columns, expected {len(KLINE_HEADER)}"
    for (name, pattern), value in zip(_COLUMNS.items(), values, strict=True):
        if not pattern.fullmatch(value):
            return f"{name} {value[:60]!r} is not a number that fits its column"
    return ""


def valid_klines(
    rows: Iterable[tuple[Place, Kline | str]], window: str, first_ms: int, end_ms: int
) -> tuple[list[Kline], list[tuple[Place, str]]]:
    """Return the valid klines by open time, and the places of the rejected ones with their reasons.

    Each input is a place with its kline or with its `value_problem`. `window` is the name of the interval from
    `first_ms` to `end_ms` (exclusive). If a minute has different klines, all of them are rejected, because the correct
    one is unknown.
    """
    found: dict[int, Kline] = {}
    places: dict[int, list[Place]] = defaultdict(list)
    conflicting: set[int] = set()
    rejected = []
    for place, kline in rows:
        problem = kline if isinstance(kline, str) else _problem(kline, window, first_ms, end_ms)
        if isinstance(kline, str) or problem:
            rejected.append((place, problem))
            continue
        places[kline.open_time_ms].append(place)
        if found.setdefault(kline.open_time_ms, kline) != kline:
            conflicting.add(kline.open_time_ms)
    for open_time_ms in conflicting:
        del found[open_time_ms]
        rejected += [(place, "the minute has different klines") for place in places[open_time_ms]]
    return [found[open_time_ms] for open_time_ms in sorted(found)], rejected


def _problem(kline: Kline, window: str, first_ms: int, end_ms: int) -> str:
    if not first_ms <= kline.open_time_ms < end_ms:
        return f"the kline is not in {window}"
    if kline.open_time_ms % MINUTE_MS or kline.close_time_ms != kline.open_time_ms + MINUTE_MS - 1:
        return "open_time and close_time are not the bounds of a minute"
    low, high, *inner = map(Decimal, (kline.low, kline.high, kline.open, kline.close))
    return "" if low <= min(inner) <= max(inner) <= high else "open and close are not between low and high"
