"""Reads the CSV of an archive zip of one-minute klines; decimals stay the exchange's own digits. No network.

The layout is the same for every market: `official.KLINE_HEADER`, with or without that line, times in ms or µs. A line
that is no kline of the file's day, or not behind the one before it, refuses the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from cryptolake_assets.contract import DECIMAL_PATTERN
from cryptolake_assets.exchange.archive import ArchiveFile
from cryptolake_assets.exchange.archive_csv import BOM, MICROSECONDS_FROM, opened_csv, refusal
from cryptolake_assets.exchange.intervals import MINUTE_MS
from cryptolake_assets.exchange.official import KLINE_HEADER
from cryptolake_assets.exchange.records import Kline

INTERVAL = "1m"

_MOST_BYTES = 8 << 20
"""A day of one-minute klines has some 200 kB."""
_VOLUME = r"[0-9]{1,30}(?:\.[0-9]{1,8})?"
_QUOTE_VOLUME = r"[0-9]{1,22}(?:\.[0-9]{1,16})?"
_PATTERNS = {
    **dict.fromkeys(("open_time", "close_time", "count"), r"[0-9]{1,18}"),
    **dict.fromkeys(("open", "high", "low", "close"), DECIMAL_PATTERN),
    **dict.fromkeys(("volume", "taker_buy_volume"), _VOLUME),
    **dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), _QUOTE_VOLUME),
    "ignore": r"[^,]*",
}
_COLUMNS = {name: re.compile(_PATTERNS[name], re.ASCII) for name in KLINE_HEADER}


def read_kline_zip(path: Path, file: ArchiveFile) -> list[Kline]:
    """The klines of the file's UTC day, ascending by open time. Raises `ArchiveFormatError` for a damaged zip, for an
    empty file, and for the first line that is no such kline, with its number."""
    with opened_csv(path) as content:
        text = content.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise refusal(path, f"it has more than {_MOST_BYTES} bytes, which no day of one-minute klines has")
    found: list[Kline] = []
    for number, line in enumerate(text.removeprefix(BOM).decode("utf-8", "replace").splitlines(), 1):
        if not line or (number == 1 and _is_header(path, line)):
            continue
        kline = _kline(path, number, line)
        if problem := _problem(kline, file, found[-1] if found else None):
            raise _bad_line(path, number, line, problem)
        found.append(kline)
    if not found:
        raise refusal(path, "it holds no klines")
    return found


def _is_header(path: Path, line: str) -> bool:
    if line[:1].isdigit():
        return False
    names = tuple(name.strip().strip('"').lower() for name in line.split(","))
    if names != KLINE_HEADER:
        raise refusal(path, f"line 1 is {line[:100]!r}, neither the header {','.join(KLINE_HEADER)} nor a kline")
    return True


def _kline(path: Path, number: int, line: str) -> Kline:
    values = line.split(",")
    if len(values) != len(KLINE_HEADER):
        raise _bad_line(path, number, line, f"{len(values)} columns, expected {len(KLINE_HEADER)}")
    for (name, pattern), value in zip(_COLUMNS.items(), values, strict=True):
        if not pattern.fullmatch(value):
            raise _bad_line(path, number, line, f"{name} {value!r} is no number that fits its column")
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


def _problem(kline: Kline, file: ArchiveFile, before: Kline | None) -> str:
    """What a kline of these digits cannot be; empty when nothing is wrong."""
    day_ms = file.start_ms
    if not day_ms <= kline.open_time_ms < day_ms + 86_400_000:
        return f"it is not of {file.day}"
    if kline.open_time_ms % MINUTE_MS or kline.close_time_ms != kline.open_time_ms + MINUTE_MS - 1:
        return "open_time and close_time are not the bounds of a minute"
    if before is not None and kline.open_time_ms <= before.open_time_ms:
        return "it does not come behind the line before"
    return ""


def _bad_line(path: Path, number: int, line: str, problem: str) -> Exception:
    return refusal(path, f"line {number} is {line[:160]!r}: {problem}")
