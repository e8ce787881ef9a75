"""Reads the CSV of an archive zip of aggregate trades in blocks, as Arrow tables with exact decimals. No network.

The layout is the same for every market: `agg_trade_id, price, quantity, first_trade_id, last_trade_id, transact_time,
is_buyer_maker`, with or without that header, times in ms or µs; Spot's lines have an eighth value, `is_best_match`,
which says nothing and is left out. A line that is not an aggregate trade
refuses the file: nothing is rounded, guessed or left out.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from cryptolake_assets.contract import DECIMAL_PATTERN
from cryptolake_assets.errors import ArchiveFormatError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

HEADER = ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker")
"""The columns. In the tables, `transact_time` is in µs since 1970, UTC, and price and quantity are decimal(18,8)."""

BLOCK_BYTES = 4 << 20
"""So much text is parsed at a time."""

MICROSECONDS_FROM = 10**14
"""Times from this number on are in µs (as ms they would be in the year 5138), those below in ms."""

SPOT_HEADER = (*HEADER, "is_best_match")

_INTEGERS = ("agg_trade_id", "first_trade_id", "last_trade_id", "transact_time")
_DECIMALS = ("price", "quantity")
_TOO_LARGE = 10**10
_LAST_US = 253_402_300_800_000_000
BOM = b"\xef\xbb\xbf"
_BOOLEAN = "(?:true|false|True|False|TRUE|FALSE)"
_LINE = re.compile(
    rf"[0-9]{{1,18}},{DECIMAL_PATTERN},{DECIMAL_PATTERN},(?:[0-9]{{1,18}},){{3}}{_BOOLEAN}(?:,{_BOOLEAN})?"
)


def read_blocks(
    path: Path, block_bytes: int = BLOCK_BYTES, columns: Sequence[str] = HEADER
) -> Iterator[tuple[int, pa.Table]]:
    """(lines of the block that are not blank, table with the columns of `HEADER`), in the file's order. `columns` are
    those of the file: `HEADER`, or `SPOT_HEADER`.

    Raises `ArchiveFormatError` for a damaged zip and for the first line that is no aggregate trade, with its number.
    """
    with opened_csv(path) as file:
        number = 1
        for block in ahead(_blocks(file, block_bytes)):
            text = block
            if number == 1:
                text = block.removeprefix(BOM)
                text = text[_header_bytes(path, text, columns) :]
                number += block.count(b"\n") - text.count(b"\n")
            if text:
                table = _parse(path, number, text, columns)
                lines = text.count(b"\n") + (not text.endswith(b"\n"))
                yield _filled_lines(text, lines, table.num_rows), table
                number += lines


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, two of them ahead in a thread: unpacking, parsing and writing leave the interpreter free."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = deque(worker.submit(next, items, None) for _ in range(2))
        while (item := upcoming.popleft().result()) is not None:
            upcoming.append(worker.submit(next, items, None))
            yield item


@contextmanager
def opened_csv(path: Path) -> Iterator[IO[bytes]]:
    """The zip's one CSV, unpacked as it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1 or not names[0].endswith(".csv"):
                raise refusal(path, f"it holds {names[:5]}, expected one .csv")
            with archive.open(names[0]) as file:
                yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise refusal(path, f"the zip is damaged ({error})") from error


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The text in blocks that end where a line does."""
    rest = b""
    while data := file.read(size):
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            if len(rest) > size:
                raise ArchiveFormatError(f"archive: {file.name}: a line is longer than {size} bytes. It is no CSV.")
            continue
        yield rest + data[:end]
        rest = data[end:]
    if rest:
        yield rest


def _header_bytes(path: Path, block: bytes, columns: Sequence[str]) -> int:
    """How much of the first block is its header line; 0 when it has none."""
    line, newline, _ = block.partition(b"\n")
    text = line.decode("ascii", "replace").strip()
    if text[:1].isdigit():
        return 0
    names = tuple(name.strip().strip('"').lower() for name in text.split(","))
    if names != tuple(columns):
        raise refusal(path, f"line 1 is {text[:100]!r}, neither the header {','.join(columns)} nor a trade")
    return len(line) + len(newline)


def _filled_lines(text: bytes, lines: int, rows: int) -> int:
    """Lines that hold something; they are counted only where they are not as many as the rows."""
    return lines if lines == rows else sum(1 for line in text.splitlines() if line)


def _parse(path: Path, first_line: int, text: bytes, columns: Sequence[str]) -> pa.Table:
    """The block's rows. The slow look for the line to blame is taken only when there is one."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    shape_problem = partial(_shape_problem, columns)
    types = {**dict.fromkeys(_INTEGERS, pa.int64()), **dict.fromkeys(_DECIMALS, pa.decimal128(18, 8))}
    types |= {name: pa.bool_() for name in columns if name not in types}
    try:
        table = csv.read_csv(
            pa.py_buffer(text),
            csv.ReadOptions(column_names=list(columns)),
            csv.ParseOptions(quote_char=False),
            csv.ConvertOptions(
                column_types=types,
                null_values=[],
                true_values=["true", "True", "TRUE"],
                false_values=["false", "False", "FALSE"],
            ),
        )
    except pa.ArrowInvalid as error:
        raise _first_bad_line(path, first_line, text, shape_problem, str(error)) from error
    table = table.select(HEADER)
    if b"x" in text or b"X" in text:  # Arrow takes 0x1F for a whole number
        raise _first_bad_line(path, first_line, text, shape_problem, "a number in another notation")
    low, high = _extremes(table)
    if any(max(-low[name], high[name]) >= _TOO_LARGE for name in _DECIMALS):
        raise _first_bad_line(path, first_line, text, shape_problem, "a number is no decimal(18,8)")
    times = table["transact_time"]
    if high["transact_time"] < MICROSECONDS_FROM:
        times = pc.multiply(times, 1000)
    elif low["transact_time"] < MICROSECONDS_FROM:
        times = pc.if_else(pc.less(times, MICROSECONDS_FROM), pc.multiply(times, 1000), times)
    ordered = pc.all(pc.less_equal(table["first_trade_id"], table["last_trade_id"])).as_py()
    if not ordered or min(low[name] for name in _INTEGERS) < 0 or high["transact_time"] >= _LAST_US:
        raise _first_bad_line(path, first_line, text, _meaning_problem, "ids or time out of range")
    return table.set_column(HEADER.index("transact_time"), "transact_time", times)


def _extremes(table: pa.Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Least and greatest value of each column of numbers; 0 in an empty table."""
    import pyarrow.compute as pc

    found = {name: pc.min_max(table[name]).as_py() for name in (*_INTEGERS, *_DECIMALS)}
    least, greatest = ({name: pair[end] or 0 for name, pair in found.items()} for end in ("min", "max"))
    return least, greatest


def _first_bad_line(
    path: Path, first_line: int, text: bytes, problem_of: Callable[[str], str], otherwise: str
) -> ArchiveFormatError:
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), first_line):
        if line and (problem := problem_of(line)):
            return refusal(path, f"line {number} is {line[:120]!r}: {problem}")
    return refusal(path, f"a line from {first_line} on is no aggregate trade ({otherwise})")


def _shape_problem(columns: Sequence[str], line: str) -> str:
    """What is wrong with a line's values; empty when nothing is."""
    values = line.split(",")
    if len(values) != len(columns):
        return f"{len(values)} columns, expected {len(columns)}"
    if _LINE.fullmatch(line):
        return ""
    for name in _DECIMALS:
        value = values[HEADER.index(name)]
        if not re.fullmatch(DECIMAL_PATTERN, value):
            return f"{name} {value!r} is no number with at most 10 digits before and 8 behind the point"
    return "expected whole numbers for ids and time, decimals for price and quantity, true or false at the end"


def _meaning_problem(line: str) -> str:
    values = line.split(",")
    first, last, time = (int(values[HEADER.index(name)]) for name in ("first_trade_id", "last_trade_id", _INTEGERS[3]))
    if first > last:
        return f"first_trade_id {first} is past last_trade_id {last}"
    time_us = time if time >= MICROSECONDS_FROM else time * 1000
    return "" if 0 <= time_us < _LAST_US and min(int(values[0]), first) >= 0 else "ids or time out of range"


def refusal(path: Path, cause: str) -> ArchiveFormatError:
    """The error of a file that is not what it should be."""
    return ArchiveFormatError(
        f"archive: {path.name}: {cause}. The file is refused and what was loaded before stays. Compare it with the "
        "archive's own; if that is the same, a re-issued file has to be waited for."
    )
