"""Read the exchange's published files in a capture directory: klines and aggregates (CSV), exchangeInfo and tickers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.exchange_records import KLINE_HEADER, AggTrade, Kline

EXCHANGE_INFO_FILE = "exchangeInfo.json"
TICKERS_FILE = "ticker-24hr.json"
_FIRST_KLINE_COLUMNS = 9  # common to all layouts
_KLINE_COLUMNS = 11  # a twelfth, unused one may follow
_AGG_TRADE_COLUMNS = 7
_DECIMAL = re.compile(r"\A-?[0-9]+(?:\.[0-9]+)?\Z", re.ASCII)
_INTEGER = re.compile(r"\A[0-9]{1,18}\Z", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def read_klines(directory: Path, symbol: str, interval: str) -> list[Kline]:
    """Read a directory's official klines of one symbol and interval, sorted by open time, decimals verbatim.

    Source: every `<SYMBOL>-<interval>-….csv` in the archive's layout with its header; an empty list without such a
    file. Raises `CaptureError` for a row that is not a kline, and for files with different klines for one open time.
    """
    found: dict[int, Kline] = {}
    for path in sorted(directory.glob("*.csv")):
        if not path.name.startswith(f"{symbol}-{interval}-") or not _is_kline_file(path):
            continue
        for line_number, row in _rows(path):
            if line_number == 1:
                continue
            kline = _kline(path, line_number, row)
            if found.setdefault(kline.open_time_ms, kline) != kline:
                raise _row_error(path, line_number, "another file has a different kline for the same open time")
    return [found[open_time_ms] for open_time_ms in sorted(found)]


def read_agg_trade_files(directory: Path) -> Iterator[tuple[str, AggTrade]]:
    """Yield (symbol, aggregate trade) of every `<SYMBOL>-aggTrades-*.csv`, in file order; a header line is optional."""
    for path in sorted(directory.glob("*-aggTrades-*.csv")):
        symbol = path.name.rpartition("-aggTrades-")[0]
        for line_number, row in _rows(path):
            if line_number == 1 and row[0] == "agg_trade_id":
                continue
            yield symbol, _agg_trade(path, line_number, row)


def read_exchange_info(directory: Path) -> dict[str, Any] | None:
    """Return the recorded exchangeInfo document of a directory; None without one."""
    path = directory / EXCHANGE_INFO_FILE
    if not path.is_file():
        return None
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        entries = _named_rows(document["symbols"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise CaptureError(
            f"capture: {path} is not an exchangeInfo document ({error!r}). Replace it with a response of "
            "exchangeInfo, or remove it: a minimal one is then derived from the capture's symbols."
        ) from error
    return {**document, "symbols": entries}


def read_tickers(directory: Path) -> list[dict[str, Any]]:
    """Return the recorded `ticker/24hr` response of a directory; an empty list without one."""
    path = directory / TICKERS_FILE
    if not path.is_file():
        return []
    try:
        return _named_rows(msgspec.json.decode(path.read_bytes(), type=list[Any]))
    except (OSError, msgspec.MsgspecError, TypeError) as error:
        raise CaptureError(
            f"capture: {path} is not a list of tickers ({error!r}). Replace it with a response of "
            "ticker/24hr, or remove it."
        ) from error


def _named_rows(rows: list[Any]) -> list[dict[str, Any]]:
    """Return the rows that name a symbol; skip the others. Raises `TypeError` if no row names one."""
    named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("symbol"), str)]
    if rows and not named:
        raise TypeError("no row names a symbol")
    return named


def _is_kline_file(path: Path) -> bool:
    header = next(_rows(path), (1, [""]))[1]
    return tuple(header[:_FIRST_KLINE_COLUMNS]) == KLINE_HEADER[:_FIRST_KLINE_COLUMNS]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, values) of the non-empty lines."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaptureError(f"capture: {path} cannot be read ({error}). Replace or remove the file.") from error


def _kline(path: Path, line_number: int, row: list[str]) -> Kline:
    integers, decimals = (0, 6, 8), (1, 2, 3, 4, 5, 7, 9, 10)
    _check_row(path, line_number, row, _KLINE_COLUMNS, integers, decimals)
    return Kline(int(row[0]), row[1], row[2], row[3], row[4], row[5], int(row[6]), row[7], int(row[8]), row[9], row[10])


def _agg_trade(path: Path, line_number: int, row: list[str]) -> AggTrade:
    # An aggregate id without a trade has -1 as its first and last trade id.
    marker = [item if item != "-1" or index not in (3, 4) else "0" for index, item in enumerate(row)]
    _check_row(path, line_number, marker, _AGG_TRADE_COLUMNS, integers=(0, 3, 4, 5), decimals=(1, 2))
    is_buyer_maker = _BOOLEANS.get(row[6].lower())
    if is_buyer_maker is None:
        raise _row_error(path, line_number, f"is_buyer_maker is {row[6]!r}, expected true or false")
    return AggTrade(int(row[0]), row[1], row[2], int(row[3]), int(row[4]), int(row[5]), is_buyer_maker)


def _check_row(
    path: Path, line_number: int, row: list[str], columns: int, integers: tuple[int, ...], decimals: tuple[int, ...]
) -> None:
    if len(row) < columns:
        raise _row_error(path, line_number, f"{len(row)} columns, expected at least {columns}")
    for index in integers:
        if not _INTEGER.match(row[index]):
            raise _row_error(path, line_number, f"column {index + 1} is {row[index]!r}, expected an integer")
    for index in decimals:
        if not _DECIMAL.match(row[index]):
            raise _row_error(path, line_number, f"column {index + 1} is {row[index]!r}, expected a decimal")


def _row_error(path: Path, line_number: int, cause: str) -> CaptureError:
    return CaptureError(
        f"capture: {path}, line {line_number}: {cause}. Replace it with the exchange's own file, or remove it."
    )
