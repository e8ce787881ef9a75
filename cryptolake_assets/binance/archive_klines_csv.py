"""Read one-minute klines from an archive zip; decimals stay the exchange's own digits. No network.

The layout is the same for every market: `exchange_records.KLINE_HEADER`, with or without that line, times in ms or µs.
A line that is not a kline of the file's day is rejected with a reason, because the exchange does not correct these
files. If a minute has different klines, all of its lines are rejected, because the correct one is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptolake_assets.binance.archive_csv import BOM, MICROSECONDS_FROM, BadLine, format_error, is_header, open_csv
from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.binance.kline_checks import valid_klines, value_problem
from cryptolake_assets.model.exchange_records import KLINE_HEADER, Kline
from cryptolake_assets.model.intervals import INTERVALS_MS

INTERVAL = "1m"

_MAX_BYTES = 8 << 20  # a day of one-minute klines has about 200 kB


def read_kline_zip(path: Path, file: ArchiveFile) -> tuple[list[Kline], list[BadLine]]:
    """Return the klines of the file's UTC day, ascending by open time, and the rejected lines.

    Raises `ArchiveFormatError` for a damaged zip, and for a file without any kline (with its first bad line).
    """
    with open_csv(path) as content:
        text = content.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise format_error(
            path, f"the CSV has more than {_MAX_BYTES} bytes, the maximum for a day of one-minute klines"
        )
    parsed: list[tuple[tuple[int, str], Kline | str]] = []
    for number, line in enumerate(text.removeprefix(BOM).decode("utf-8", "replace").splitlines(), 1):
        if line and not (number == 1 and is_header(path, line, KLINE_HEADER)):
            values = line.split(",")
            parsed.append(((number, line), value_problem(values) or _kline(values)))
    klines, rejected = valid_klines(parsed, str(file.day), file.start_ms, file.start_ms + INTERVALS_MS["1d"])
    rejected_lines = sorted((BadLine(*place, problem) for place, problem in rejected), key=lambda bad: bad.number)
    if not klines:
        first = f"; line {rejected_lines[0].number}: {rejected_lines[0].reason}" if rejected_lines else ""
        raise format_error(path, f"the file contains no klines{first}")
    return klines, rejected_lines


def _kline(values: Sequence[str]) -> Kline:
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
    """Convert a time in ms or µs to ms. A close time is the last ms or µs of its minute: both give the same ms."""
    return time // 1000 if time >= MICROSECONDS_FROM else time
