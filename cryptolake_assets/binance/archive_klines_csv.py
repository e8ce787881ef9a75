"""Reads the CSV of an archive zip of one-minute klines; decimals stay the exchange's own digits. No network.

The layout is the same for every market: `exchange_records.KLINE_HEADER`, with or without that line, times in ms or µs.
A line that is no kline of a minute of the file's day is set aside with its reason: the exchange does not mend these
files. So are all lines of a minute that has different klines, because nobody can tell which is right.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from cryptolake_assets.binance.archive_csv import BOM, MICROSECONDS_FROM, BadLine, opened_csv, refusal
from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.model.columns import PRICE, decimal_pattern
from cryptolake_assets.model.exchange_records import KLINE_HEADER, Kline
from cryptolake_assets.model.intervals import MINUTE_MS

INTERVAL = "1m"

_MOST_BYTES = 8 << 20
"""A day of one-minute klines has some 200 kB."""
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


def read_kline_zip(path: Path, file: ArchiveFile) -> tuple[list[Kline], list[BadLine]]:
    """Return the klines of the file's UTC day, ascending by open time, and the lines that are none.

    Raises `ArchiveFormatError` for a damaged zip and for a file without a kline, with its first bad line.
    """
    with opened_csv(path) as content:
        text = content.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise refusal(path, f"it has more than {_MOST_BYTES} bytes, which no day of one-minute klines has")
    found: dict[int, Kline] = {}
    lines: dict[int, list[tuple[int, str]]] = {}
    contradicting: set[int] = set()
    set_aside: list[BadLine] = []
    for number, line in enumerate(text.removeprefix(BOM).decode("utf-8", "replace").splitlines(), 1):
        if not line or (number == 1 and _is_header(path, line)):
            continue
        kline = _kline(line)
        problem = kline if isinstance(kline, str) else _problem(kline, file)
        if isinstance(kline, str) or problem:
            set_aside.append(BadLine(number, line, problem))
            continue
        lines.setdefault(kline.open_time_ms, []).append((number, line))
        if found.setdefault(kline.open_time_ms, kline) != kline:
            contradicting.add(kline.open_time_ms)
    for open_time_ms in contradicting:
        del found[open_time_ms]
        set_aside += [
            BadLine(*line, "another line has another kline of the same minute") for line in lines[open_time_ms]
        ]
    set_aside.sort(key=lambda bad: bad.number)
    if not found:
        first = f"; line {set_aside[0].number}: {set_aside[0].reason}" if set_aside else ""
        raise refusal(path, f"it holds no klines{first}")
    return [found[open_time_ms] for open_time_ms in sorted(found)], set_aside


def _is_header(path: Path, line: str) -> bool:
    if line[:1].isdigit():
        return False
    names = tuple(name.strip().strip('"').lower() for name in line.split(","))
    if names != KLINE_HEADER:
        raise refusal(path, f"line 1 is {line[:100]!r}, neither the header {','.join(KLINE_HEADER)} nor a kline")
    return True


def _kline(line: str) -> Kline | str:
    """Return the kline of a line, or what is wrong with it."""
    values = line.split(",")
    if len(values) != len(KLINE_HEADER):
        return f"{len(values)} columns, expected {len(KLINE_HEADER)}"
    for (name, pattern), value in zip(_COLUMNS.items(), values, strict=True):
        if not pattern.fullmatch(value):
            return f"{name} {value!r} is no number that fits its column"
    return Kline(
        open_time_ms=_ms(int(values[0])),
        open=values[1],
        high=values[2],
        low=values[3],
        close=values[4],
        volume=values[5],
        close_time_ms=_ms(int(values[6])),
        quote_volume=values[7],
        trades=int(values[8]),
        taker_buy_volume=values[9],
        taker_buy_quote_volume=values[10],
    )


def _ms(time: int) -> int:
    """A time in ms or µs as ms. A kline ends with the last ms, or µs, of its minute: both are the same ms."""
    return time // 1000 if time >= MICROSECONDS_FROM else time


def _problem(kline: Kline, file: ArchiveFile) -> str:
    """What a kline of these digits cannot be; empty when nothing is wrong."""
    day_ms = file.start_ms
    if not day_ms <= kline.open_time_ms < day_ms + 86_400_000:
        return f"it is not of {file.day}"
    if kline.open_time_ms % MINUTE_MS or kline.close_time_ms != kline.open_time_ms + MINUTE_MS - 1:
        return "open_time and close_time are not the bounds of a minute"
    low, high = Decimal(kline.low), Decimal(kline.high)
    if (
        not low
        <= min(Decimal(kline.open), Decimal(kline.close))
        <= max(Decimal(kline.open), Decimal(kline.close))
        <= high
    ):
        return "open and close are not between low and high"
    return ""
