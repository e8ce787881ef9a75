"""Read aggregate trades from an archive zip in blocks, as Arrow tables with exact decimals. No network.

The layout is the same for every market: `agg_trade_id, price, quantity, first_trade_id, last_trade_id, transact_time,
is_buyer_maker`, with or without that header, times in ms or µs. Spot lines have an eighth value, `is_best_match`,
which carries no information and is dropped. A line that is not an aggregate trade is rejected with a reason; the other
lines are read. No value is rounded or guessed. A file without any aggregate trade is rejected.

An aggregate id without a trade has a line with price 0, quantity 0 and trade ids -1: the exchange used the id, but
executed no trade.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from cryptolake_assets.errors import ArchiveFormatError
from cryptolake_assets.model.columns import PRICE, QUANTITY, decimal_digits, decimal_pattern

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

# The columns. In the Arrow tables, `transact_time` is µs since 1970, UTC; price and quantity have the types
# `columns.PRICE` and `columns.QUANTITY`.
HEADER = ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker")

BLOCK_BYTES = 4 << 20  # bytes of text parsed at a time

# Times of at least this number are µs (as ms they would be in the year 5138); smaller times are ms.
MICROSECONDS_FROM = 10**14

SPOT_HEADER = (*HEADER, "is_best_match")

_INTEGERS = ("agg_trade_id", "first_trade_id", "last_trade_id", "transact_time")
_DECIMALS = {"price": PRICE, "quantity": QUANTITY}
# Maximum digits before and after the point.
_DIGITS = {name: decimal_digits(kind) or (0, 0) for name, kind in _DECIMALS.items()}
_END_OF_IDS = 10**18
_LAST_US = 253_402_300_800_000_000
BOM = b"\xef\xbb\xbf"
_BOOLEANS = (b"true", b"false", b"True", b"False", b"TRUE", b"FALSE")
_BOOLEAN = f"(?:{b'|'.join(_BOOLEANS).decode()})"
# A point without a digit before or after it, or with more digits after it than a column has.
_IRREGULAR_POINT = re.compile(rb"\.(?:(?<![0-9]\.)|[0-9]{9}|[^0-9])")
_LEADING_ZERO = re.compile(rb",0[0-9]")
NO_TRADE: Final = -1  # first and last trade id of an aggregate id without a trade
_ZERO = r"0(?:\.0*)?"
_WITHOUT_TRADE = re.compile(rf"[0-9]{{1,18}},{_ZERO},{_ZERO},-1,-1,[0-9]{{1,18}},{_BOOLEAN}(?:,{_BOOLEAN})?")
_LINE = re.compile(
    rf"[0-9]{{1,18}},{decimal_pattern(PRICE)},{decimal_pattern(QUANTITY)},(?:[0-9]{{1,18}},){{3}}{_BOOLEAN}(?:,{_BOOLEAN})?"
)


@dataclass(frozen=True)
class BadLine:
    """A rejected line: its number in the file, its text, and the reason."""

    number: int
    text: str
    reason: str
    agg_trade_id: int | None = None  # if readable


@dataclass(frozen=True)
class Block:
    """A block of a file's lines. `lines` counts the non-blank lines.

    `rows` (trades) and `without_trade` (aggregate ids without a trade) have the columns of `HEADER`.
    """

    lines: int
    rows: pa.Table
    without_trade: pa.Table
    rejected_lines: tuple[BadLine, ...] = ()


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES, columns: Sequence[str] = HEADER) -> Iterator[Block]:
    """Yield the file's blocks in file order. `columns` is the file's layout: `HEADER` or `SPOT_HEADER`.

    Raises `ArchiveFormatError` for a damaged zip, and for a file without any aggregate trade (with its first bad line).
    """
    first_bad: BadLine | None = None
    has_trades = False
    with open_csv(path) as file:
        number = 1
        for block in prefetch(_blocks(file, block_bytes)):
            text = block
            if number == 1:
                text = block.removeprefix(BOM)
                text = text[_header_bytes(path, text, columns) :]
                number += block.count(b"\n") - text.count(b"\n")
            if text:
                parsed = _parse(number, text, columns)
                has_trades = has_trades or bool(parsed.rows.num_rows or parsed.without_trade.num_rows)
                first_bad = first_bad or next(iter(parsed.rejected_lines), None)
                yield parsed
                number += text.count(b"\n") + (not text.endswith(b"\n"))
    if first_bad is not None and not has_trades:
        shown = first_bad.text[:120]
        raise format_error(
            path, f"no line is an aggregate trade; line {first_bad.number} is {shown!r}: {first_bad.reason}"
        )


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, with two prefetched in a thread: decompression, parsing and writing release the GIL."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = deque(worker.submit(next, items, None) for _ in range(2))
        while (item := upcoming.popleft().result()) is not None:
            upcoming.append(worker.submit(next, items, None))
            yield item


@contextmanager
def open_csv(path: Path) -> Iterator[IO[bytes]]:
    """Open the zip's only CSV for streaming. Raises `ArchiveFormatError` for a damaged zip or other contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1 or not names[0].endswith(".csv"):
                raise format_error(path, f"the zip contains {names[:5]}, expected one .csv")
            with archive.open(names[0]) as file:
                yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise format_error(path, f"the zip is damaged ({error})") from error


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the text in blocks that end at a line end."""
    rest = b""
    while data := file.read(size):
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            if len(rest) > size:
                raise ArchiveFormatError(
                    f"archive: {file.name}: a line is longer than {size} bytes. Download the file again."
                )
            continue
        yield rest + data[:end]
        rest = data[end:]
    if rest:
        yield rest


def _header_bytes(path: Path, block: bytes, columns: Sequence[str]) -> int:
    """Return the length of the header line at the start of the first block; 0 without a header."""
    line, newline, _ = block.partition(b"\n")
    return len(line) + len(newline) if is_header(path, line.decode("ascii", "replace"), columns) else 0


def is_header(path: Path, line: str, columns: Sequence[str]) -> bool:
    """Return whether the first line of a file is the header, not a data line.

    Raises `ArchiveFormatError` for the header of another layout, whose values would get the wrong column names.
    """
    names = tuple(name.strip().strip('"').lower() for name in line.strip().split(","))
    if names == tuple(columns):
        return True
    if not set(names).isdisjoint(columns):
        raise format_error(path, f"line 1 is {line[:100]!r}, expected the header {','.join(columns)}")
    return False


def _count_lines(text: bytes, rows: int) -> int:
    """Return the number of non-blank lines; scan line by line only if the line count differs from `rows`."""
    lines = text.count(b"\n") + (not text.endswith(b"\n"))
    return lines if lines == rows else sum(1 for line in text.splitlines() if line)


def _parse(first_line: int, text: bytes, columns: Sequence[str]) -> Block:
    """Parse a block with Arrow; fall back to line-by-line parsing if any value is irregular."""
    table = _read_csv(text, columns) if _is_plain(text) else None
    if table is not None:
        rows, without_trade = _split(table)
        if _fits_columns(rows) and _fits_columns(without_trade, are_trades=False):
            return Block(_count_lines(text, table.num_rows), _in_us(rows), _in_us(without_trade))
    return _parse_lines(first_line, text, columns)


def _is_plain(text: bytes) -> bool:
    """Return whether the text has no notation that Arrow accepts but `_LINE` rejects: 1e-3, +1, .5, 0x1F, ' 1'."""
    rest = text.translate(None, b"0123456789,.-\r\n")
    for word in _BOOLEANS:
        rest = rest.replace(word, b"")
    return not (rest or _IRREGULAR_POINT.search(text) or _LEADING_ZERO.search(text) or (b"-" in text and b"-0" in text))


def _split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split the rows into trades and aggregate ids without a trade."""
    import pyarrow.compute as pc

    if (pc.min(table["first_trade_id"]).as_py() or 0) >= 0:
        return table, table.slice(0, 0)
    are_without = pc.and_(pc.equal(table["first_trade_id"], NO_TRADE), pc.equal(table["last_trade_id"], NO_TRADE))
    are_without = pc.and_(are_without, pc.and_(pc.equal(table["price"], 0), pc.equal(table["quantity"], 0)))
    return table.filter(pc.invert(are_without)), table.filter(are_without)


def _parse_lines(first_line: int, text: bytes, columns: Sequence[str]) -> Block:
    """Parse a block line by line: valid lines become rows, other lines are rejected with a reason."""
    trades: list[str] = []
    without_trade: list[str] = []
    rejected_lines: list[BadLine] = []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), first_line):
        if not line:
            continue
        if len(line.split(",")) == len(columns) and _WITHOUT_TRADE.fullmatch(line) and not _value_problem(line):
            without_trade.append(line)
        elif problem := _format_problem(columns, line) or _value_problem(line):
            rejected_lines.append(BadLine(number, line, problem, _id_of(line)))
        else:
            trades.append(line)
    lines = len(trades) + len(without_trade) + len(rejected_lines)
    return Block(lines, _rows_of(trades, columns), _rows_of(without_trade, columns), tuple(rejected_lines))


def _rows_of(lines: Sequence[str], columns: Sequence[str]) -> pa.Table:
    # Arrow cannot infer columns from empty text: parse one placeholder line and slice it off.
    table = _read_csv("\n".join(lines or [_ANY_LINE[len(columns)]]).encode(), columns)
    if table is None:
        raise AssertionError("lines that match the pattern are valid CSV rows")
    return _in_us(table.slice(0, len(lines)))


_ANY_LINE = {len(HEADER): "0,0,0,0,0,0,true", len(SPOT_HEADER): "0,0,0,0,0,0,true,true"}


def _id_of(line: str) -> int | None:
    first, comma, _ = line.partition(",")
    return int(first) if comma and re.fullmatch("[0-9]{1,18}", first) else None


def _read_csv(text: bytes, columns: Sequence[str]) -> pa.Table | None:
    """Return the lines as a table with the columns of `HEADER`, times unconverted; None if a value does not fit."""
    import pyarrow as pa
    from pyarrow import csv

    types = {**dict.fromkeys(_INTEGERS, pa.int64())}
    types |= {name: pa.decimal128(integer_digits + scale, scale) for name, (integer_digits, scale) in _DIGITS.items()}
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
    except pa.ArrowInvalid:
        return None
    return table.select(HEADER)


def _fits_columns(table: pa.Table, *, are_trades: bool = True) -> bool:
    """Return whether every number fits its column and, for trades, first_trade_id <= last_trade_id."""
    import pyarrow.compute as pc

    if not table.num_rows:
        return True
    low, high = _extremes(table)
    if min(low["agg_trade_id"], low["transact_time"]) < 0 or high["transact_time"] >= _LAST_US:
        return False
    if max(high[name] for name in _INTEGERS) >= _END_OF_IDS:
        return False
    return not are_trades or bool(
        low["first_trade_id"] >= 0
        and all(max(-low[name], high[name]) < 10**integer_digits for name, (integer_digits, _) in _DIGITS.items())
        and pc.all(pc.less_equal(table["first_trade_id"], table["last_trade_id"])).as_py()
    )


def _in_us(table: pa.Table) -> pa.Table:
    """Return the rows with `transact_time` (ms or µs per row) converted to µs."""
    import pyarrow.compute as pc

    times = table["transact_time"]
    bounds = pc.min_max(times).as_py()
    if table.num_rows and bounds["max"] < MICROSECONDS_FROM:
        times = pc.multiply(times, 1000)
    elif table.num_rows and bounds["min"] < MICROSECONDS_FROM:
        times = pc.if_else(pc.less(times, MICROSECONDS_FROM), pc.multiply(times, 1000), times)
    return table.set_column(HEADER.index("transact_time"), "transact_time", times)


def _extremes(table: pa.Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the minimum and maximum of each numeric column; 0 for an empty table."""
    import pyarrow.compute as pc

    found = {name: pc.min_max(table[name]).as_py() for name in (*_INTEGERS, *_DECIMALS)}
    minima, maxima = ({name: pair[end] or 0 for name, pair in found.items()} for end in ("min", "max"))
    return minima, maxima


def _format_problem(columns: Sequence[str], line: str) -> str:
    """Return the first format problem of a line's values; empty if there is none."""
    values = line.split(",")
    if len(values) != len(columns):
        return f"{len(values)} columns, expected {len(columns)}"
    if _LINE.fullmatch(line):
        return ""
    for name, kind in _DECIMALS.items():
        value = values[HEADER.index(name)]
        if not re.fullmatch(decimal_pattern(kind), value):
            digits, scale = _DIGITS[name]
            return f"{name} {value!r} is not a number with at most {digits} digits before and {scale} after the point"
    return "expected integers for ids and time, decimals for price and quantity, true or false at the end"


def _value_problem(line: str) -> str:
    """Return the first problem of a line's well-formed values; empty if there is none."""
    values = line.split(",")
    first, last, time = (int(values[HEADER.index(name)]) for name in ("first_trade_id", "last_trade_id", _INTEGERS[3]))
    if first > last:
        return f"first_trade_id {first} is greater than last_trade_id {last}"
    time_us = time if time >= MICROSECONDS_FROM else time * 1000
    return "" if 0 <= time_us < _LAST_US else "the time is out of range"


def format_error(path: Path, cause: str) -> ArchiveFormatError:
    """Return the error for a file with invalid content."""
    return ArchiveFormatError(
        f"archive: {path.name}: {cause}. The file was rejected; previously loaded data is unchanged. Compare it with "
        "the archive's file; if they are equal, wait for a re-issued file."
    )
