"""Archive CSV: every layout is read with all digits, and every other line is rejected with a reason."""

from __future__ import annotations

import tempfile
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.binance.archive_csv import HEADER, SPOT_HEADER, read_blocks
from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.errors import ArchiveFormatError
from cryptolake_tests.support.archives import Aggregate, aggregates, csv_text, write_zip

DAY = date(2024, 7, 18)
FILE = ArchiveFile("BTCUSDT", DAY)
VALID = aggregates(DAY, 5)


def read(directory: Path, text: str, block_bytes: int = 1 << 20) -> pa.Table:
    blocks = list(read_blocks(write_zip(directory, FILE, text), block_bytes))
    for block in blocks:
        assert block.lines == block.rows.num_rows
        assert (block.without_trade.num_rows, block.rejected_lines) == (0, ())
    return pa.concat_tables(block.rows for block in blocks)


def as_dicts(rows: list[Aggregate]) -> list[dict[str, object]]:
    return [
        dict(
            zip(
                HEADER,
                (
                    row.agg_id,
                    Decimal(row.price),
                    Decimal(row.qty),
                    row.first_id,
                    row.last_id,
                    row.time_ms * 1000,
                    row.maker,
                ),
                strict=True,
            )
        )
        for row in rows
    ]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("time_factor", [1, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_layout_is_read_exactly(tmp_path: Path, header: bool, time_factor: int, newline: str) -> None:
    text = csv_text((row.line(time_factor) for row in VALID), header=header).replace("\n", newline)
    found = read(tmp_path, text)
    assert [found.schema.field(name).type for name in ("price", "quantity")] == [
        pa.decimal128(18, 8),
        pa.decimal128(28, 8),
    ]
    assert found.to_pylist() == as_dicts(VALID)
    assert read(tmp_path, text.removesuffix(newline)).to_pylist() == as_dicts(VALID)


def test_python_booleans_byte_order_mark_and_quoted_header_are_accepted(tmp_path: Path) -> None:
    lines = [row.line().replace("true", "True").replace("false", "False") for row in VALID]
    assert read(tmp_path, "\ufeff" + csv_text(lines)).to_pylist() == as_dicts(VALID)
    header = ",".join(f'"{name}"' for name in HEADER)
    assert read(tmp_path, header + "\n" + csv_text(lines, header=False)).to_pylist() == as_dicts(VALID)


def test_spot_column_is_required_and_dropped(tmp_path: Path) -> None:
    lines = [f"{row.line(1000).replace('true', 'True').replace('false', 'False')},True" for row in VALID]
    path = write_zip(tmp_path, FILE, csv_text(lines, header=False))
    blocks = [block.rows for block in read_blocks(path, columns=SPOT_HEADER)]
    assert pa.concat_tables(blocks).to_pylist() == as_dicts(VALID)
    assert blocks[0].column_names == list(HEADER)
    with pytest.raises(ArchiveFormatError, match=r"line 1 .* 8 columns, expected 7"):
        read(tmp_path, csv_text(lines, header=False))
    for bad in (VALID[1].line(1000), f"{VALID[1].line(1000)},maybe"):
        path = write_zip(tmp_path, FILE, csv_text([lines[0], bad], header=False))
        (block,) = read_blocks(path, columns=SPOT_HEADER)
        assert block.rows.to_pylist() == as_dicts(VALID[:1])
        assert [(line.number, line.text) for line in block.rejected_lines] == [(2, bad)]


_amounts = st.decimals(0, Decimal("9999999999"), places=8).map(lambda value: f"{value:f}")
_ids = st.integers(0, 10**17)
_rows = st.builds(
    lambda agg_id, price, qty, first, more, time_ms, maker: Aggregate(
        agg_id, price, qty, first, first + more, time_ms, maker
    ),
    _ids,
    _amounts,
    _amounts,
    _ids,
    st.integers(0, 1_000),
    st.integers(0, 4 * 10**12),
    st.booleans(),
)


@given(rows=st.lists(_rows, min_size=1, max_size=30), block_bytes=st.integers(150, 600), header=st.booleans())
def test_every_block_size_keeps_all_digits(rows: list[Aggregate], block_bytes: int, header: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        text = csv_text((row.line() for row in rows), header=header)
        assert read(Path(directory), text, block_bytes).to_pylist() == as_dicts(rows)


BAD_LINES = {
    "price with nine decimals": ("3,60000.123456789,1,30,30,1721260800002,true", "price"),
    "quantity with nine decimals": ("3,1,0.000000001,30,30,1721260800002,true", "quantity"),
    "exponent": ("3,1E-9,1,30,30,1721260800002,true", "price"),
    "quantity too large": ("3,1,123456789012345678901,30,30,1721260800002,true", "quantity"),
    "price too large": ("3,12345678901,1,30,30,1721260800002,true", "price"),
    "price not a number": ("3,NaN,1,30,30,1721260800002,true", "price"),
    "empty price": ("3,,1,30,30,1721260800002,true", "price"),
    "one column too few": ("3,1,1,30,30,1721260800002", "6 columns"),
    "one column too many": ("3,1,1,30,30,1721260800002,true,true", "8 columns"),
    "id with a letter": ("x3,1,1,30,30,1721260800002,true", "integers"),
    "hexadecimal id": ("0x3,1,1,30,30,1721260800002,true", "integers"),
    "negative id": ("-3,1,1,30,30,1721260800002,true", "integers"),
    "negative trade id": ("3,1,1,-1,30,1721260800002,true", "integers"),
    "id without a trade but with a price": ("3,1,0,-1,-1,1721260800002,true", "integers"),
    "quantity with a negative exponent": ("3,1,5.551115123125783e-17,30,30,1721260800002,true", "quantity"),
    "float time": ("3,1,1,30,30,1.7e12,true", "integers"),
    "invalid boolean": ("3,1,1,30,30,1721260800002,yes", "true or false"),
    "trade ids in the wrong order": ("3,1,1,31,30,1721260800002,true", "greater than last_trade_id"),
    "time in nanoseconds": ("3,1,1,30,30,1721260800002000000,true", ""),
    "html": ("<html>", "1 columns"),
    "header in the middle": (",".join(HEADER), "price"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_rejected_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    line, cause = BAD_LINES[name]
    lines = [row.line() for row in VALID]
    path = write_zip(tmp_path, FILE, csv_text([*lines[:3], line, *lines[3:]]))
    (block,) = read_blocks(path)
    assert block.rows.to_pylist() == as_dicts(VALID)
    assert block.lines == len(VALID) + 1
    (bad,) = block.rejected_lines
    assert (bad.number, bad.text) == (5, line)
    assert cause in bad.reason
    assert bad.agg_trade_id == (3 if line.startswith("3,") else None)


NOTATIONS = ["1e-3", "5E+1", "1E1", "+1", ".5", "1.", "1.1000000000", "00000000001.5", " 1", "1 ", "0x1", "-.5", "1_0"]
NOTATIONS += ["-0.5", "0.5", "01.5", "1", "-1"]


@pytest.mark.parametrize("column", HEADER[:-1])
@pytest.mark.parametrize("value", [*NOTATIONS, "-0", "9223372036854775807"])
def test_number_notation_is_checked_independently_of_other_lines(tmp_path: Path, value: str, column: str) -> None:
    values = dict(zip(HEADER, VALID[1].line().split(","), strict=True)) | {column: value}
    lines = [VALID[0].line(), ",".join(values.values())]
    (alone,) = read_blocks(write_zip(tmp_path, FILE, csv_text(lines)))
    (with_bad_line,) = read_blocks(write_zip(tmp_path, FILE, csv_text([*lines, "oops"])))
    assert alone.rows.to_pylist() == with_bad_line.rows.to_pylist()
    assert alone.rejected_lines == with_bad_line.rejected_lines[:-1]


def test_bad_line_number_is_correct_in_a_later_block(tmp_path: Path) -> None:
    rows = [row.line() for row in aggregates(DAY, 200)]
    rows[150] = "oops"
    for header, number in ((True, 152), (False, 151)):
        blocks = list(read_blocks(write_zip(tmp_path, FILE, csv_text(rows, header=header)), block_bytes=500))
        assert [line.number for block in blocks for line in block.rejected_lines] == [number]
        assert sum(block.rows.num_rows for block in blocks) == 199


def test_file_without_an_aggregate_trade_is_rejected_with_its_first_bad_line(tmp_path: Path) -> None:
    path = write_zip(tmp_path, FILE, csv_text(["oops", "again"], header=False).replace("oops", "1"))
    with pytest.raises(ArchiveFormatError, match=r"no line is an aggregate trade; line 1 is '1': 1 columns") as error:
        list(read_blocks(path))
    assert "previously loaded data is unchanged" in str(error.value)


@pytest.mark.parametrize("columns", [HEADER, SPOT_HEADER])
def test_ids_without_a_trade_are_separated_from_trades(tmp_path: Path, columns: tuple[str, ...]) -> None:
    end = ",True" if columns is SPOT_HEADER else ""
    lines = [f"{row.line()}{end}" for row in VALID]
    without = [f"{number},0.00000000,0,-1,-1,1721260800002,true{end}" for number in (7, 8)]
    path = write_zip(tmp_path, FILE, csv_text([lines[0], without[0], *lines[1:], without[1]], header=False))
    (block,) = read_blocks(path, columns=columns)
    assert block.rows.to_pylist() == as_dicts(VALID)
    assert block.without_trade["agg_trade_id"].to_pylist() == [7, 8]
    assert block.without_trade["transact_time"].to_pylist() == [1721260800002000] * 2
    assert (block.lines, block.rejected_lines) == (len(VALID) + 2, ())


@pytest.mark.parametrize("first", ["x,1,1,1,1,1,true", "-7,1,1,-1,-1,5,true", "", "<html>", "NaN" + VALID[0].line()])
def test_bad_first_line_is_rejected(tmp_path: Path, first: str) -> None:
    lines = [row.line() for row in VALID]
    (block,) = read_blocks(write_zip(tmp_path, FILE, csv_text([first, *lines], header=False)))
    assert block.rows.to_pylist() == as_dicts(VALID)
    assert [(bad.number, bad.text) for bad in block.rejected_lines] == ([(1, first)] if first else [])


def test_header_of_another_layout_rejects_the_file(tmp_path: Path) -> None:
    for header in ("id,price", ",".join([*HEADER[:1], *HEADER[2:0:-1], *HEADER[3:]])):
        with pytest.raises(ArchiveFormatError, match="expected the header"):
            read(tmp_path, f"{header}\n{VALID[0].line()}\n")


def test_damaged_zip_and_zip_without_a_csv_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / FILE.name
    path.write_bytes(b"<?xml version='1.0'?><Error/>")
    with pytest.raises(ArchiveFormatError, match="the zip is damaged"):
        list(read_blocks(path))
    content = write_zip(tmp_path, FILE, csv_text(row.line() for row in aggregates(DAY, 5_000))).read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :])
    with pytest.raises(ArchiveFormatError, match="the zip is damaged"):
        list(read_blocks(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ArchiveFormatError, match=r"expected one \.csv"):
        list(read_blocks(path))
