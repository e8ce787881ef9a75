"""Archive klines: real rows in every layout are read with all digits, every other line is rejected."""

from __future__ import annotations

import zipfile
from datetime import date
from pathlib import Path

import pytest

from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.binance.archive_klines_csv import read_kline_zip
from cryptolake_assets.errors import ArchiveFormatError
from cryptolake_assets.model.exchange_records import KLINE_HEADER
from cryptolake_tests.support.archives import kline_line, recorded_klines, write_zip

DAY = date(2024, 7, 18)
FILE = ArchiveFile("BTCUSDT", DAY, "1m")
REAL = recorded_klines("BTCUSDT", DAY)
LINES = [kline_line(kline) for kline in REAL]
VALUES = LINES[1].split(",")


def text_of(lines: list[str], *, header: bool = True) -> str:
    return "".join(f"{line}\n" for line in ([",".join(KLINE_HEADER)] if header else []) + lines)


def with_value(column: str, value: str) -> str:
    """Return the second line with another value."""
    at = KLINE_HEADER.index(column)
    return ",".join([*VALUES[:at], value, *VALUES[at + 1 :]])


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("time_factor", [1, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_layout_is_read_exactly(tmp_path: Path, header: bool, time_factor: int, newline: str) -> None:
    assert len(REAL) == 4
    text = text_of([kline_line(kline, time_factor) for kline in REAL], header=header).replace("\n", newline)
    for content in (text, text.removesuffix(newline), "\ufeff" + text):
        assert read_kline_zip(write_zip(tmp_path, FILE, content), FILE) == (REAL, [])


def test_coin_m_has_the_same_layout(tmp_path: Path) -> None:
    file = ArchiveFile("BTCUSD_PERP", DAY, "1m")
    line = "1721347140000,63910.1,63920.0,63910.1,63919.9,1250,1721347199999,1.95567832,41,900,1.40801111,0"
    ((kline,), _) = read_kline_zip(write_zip(tmp_path, file, text_of([line])), file)
    assert (kline.volume, kline.quote_volume, kline.taker_buy_quote_volume) == ("1250", "1.95567832", "1.40801111")


BAD_LINES = {
    "one column too few": (",".join(VALUES[:-1]), "11 columns"),
    "price with nine decimals": (with_value("low", "1.123456789"), "low"),
    "price with an exponent": (with_value("open", "1E5"), "open"),
    "negative volume": (with_value("volume", "-1"), "volume"),
    "count not an integer": (with_value("count", "1.0"), "count"),
    "empty value": (with_value("quote_volume", ""), "quote_volume"),
    "other day": (",".join(["1721347200000", *VALUES[1:6], "1721347259999", *VALUES[7:]]), "not in 2024-07-18"),
    "open time not at a minute": (with_value("open_time", "1721347020001"), "bounds of a minute"),
    "wrong close time": (with_value("close_time", "1721347080000"), "bounds of a minute"),
    "high below the open": (with_value("high", "1"), "between low and high"),
    "open time within a minute": (",".join(["1721347034789", *VALUES[1:]]), "bounds of a minute"),
    "header in the middle": (",".join(KLINE_HEADER), "open_time"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_rejected_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    line, cause = BAD_LINES[name]
    path = write_zip(tmp_path, FILE, text_of([LINES[0], line, *LINES[2:]]))
    klines, (bad,) = read_kline_zip(path, FILE)
    assert klines == [REAL[0], *REAL[2:]]
    assert (bad.number, bad.text) == (3, line)
    assert cause in bad.reason


def test_bad_first_line_is_rejected(tmp_path: Path) -> None:
    path = write_zip(tmp_path, FILE, text_of(["NaN" + LINES[0], *LINES[1:]], header=False))
    klines, (bad,) = read_kline_zip(path, FILE)
    assert klines == REAL[1:]
    assert (bad.number, bad.text) == (1, "NaN" + LINES[0])


def test_order_and_duplicates_of_lines_do_not_matter(tmp_path: Path) -> None:
    path = write_zip(tmp_path, FILE, text_of([*reversed(LINES), LINES[1]]))
    assert read_kline_zip(path, FILE) == (REAL, [])


def test_different_klines_of_one_minute_are_all_rejected(tmp_path: Path) -> None:
    other = with_value("volume", "7.5")
    path = write_zip(tmp_path, FILE, text_of([*LINES, other, LINES[0], LINES[1]]))
    klines, rejected_lines = read_kline_zip(path, FILE)
    assert klines == [REAL[0], *REAL[2:]], "the duplicate of the first minute is equal"
    assert [(bad.number, bad.text) for bad in rejected_lines] == [(3, LINES[1]), (6, other), (8, LINES[1])]
    assert {bad.reason for bad in rejected_lines} == {"the minute has different klines"}


def test_file_without_klines_is_rejected(tmp_path: Path) -> None:
    for text, cause in (
        ("", "no klines"),
        (text_of([]), "no klines"),
        (text_of(["1,2"]), "line 2: 2 columns"),
        ("<html>\n", "line 1: 1 columns"),
        (text_of(LINES, header=False).replace(LINES[0], "open_time,close"), "expected the header"),
    ):
        with pytest.raises(ArchiveFormatError, match=cause):
            read_kline_zip(write_zip(tmp_path, FILE, text), FILE)
    path = tmp_path / FILE.name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ArchiveFormatError, match="damaged"):
        read_kline_zip(path, FILE)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(ArchiveFormatError, match=r"expected one \.csv"):
        read_kline_zip(path, FILE)
