"""The archive's client against the replay exchange: verified, resumed, and what it says when something is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest

from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile, parse_checksum, sha256_of
from cryptolake_assets.errors import ArchiveChecksumError, ArchiveMissingError, ExchangeError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import load_settings
from cryptolake_tests.support.archives import aggregates, recorded_klines, write_day, write_klines
from cryptolake_tests.support.served import BrokenLine, ServedExchange
from cryptolake_tests.support.sockets import numbered_capture

DAY = date(2024, 7, 18)
FILE = ArchiveFile("BTCUSDT", DAY)
COIN = ArchiveFile("BTCUSD_PERP", DAY)
KLINES = ArchiveFile("BTCUSDT", DAY, "1m")
QUICK = RetryPolicy(attempts=3, max_backoff_s=0.01, max_retry_after_s=1)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A capture with a day of USD-M and one of COIN-M beside it."""
    directory = numbered_capture(tmp_path / "capture", 3, 10)
    write_day(directory, FILE, aggregates(DAY, 3_000))
    write_day(directory, COIN, aggregates(DAY, 10))
    write_klines(directory, KLINES, recorded_klines("BTCUSDT", DAY))
    return directory


@pytest.fixture
def url(capture: Path) -> Iterator[str]:
    with ServedExchange(capture) as served:
        yield served


def test_paths_and_exchanges() -> None:
    assert FILE.path == "/data/futures/um/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-07-18.zip"
    assert COIN.path == "/data/futures/cm/daily/aggTrades/BTCUSD_PERP/BTCUSD_PERP-aggTrades-2024-07-18.zip"
    klines = ArchiveFile("BTCUSDT", DAY, "1m"), ArchiveFile("BTCUSD_PERP", DAY, "1m")
    assert [file.path for file in klines] == [
        "/data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-07-18.zip",
        "/data/futures/cm/daily/klines/BTCUSD_PERP/1m/BTCUSD_PERP-1m-2024-07-18.zip",
    ]
    spot = ArchiveFile("BTCUSDT", DAY, family=Family.SPOT), ArchiveFile("BTCUSDT", DAY, "1m", Family.SPOT)
    assert [file.path for file in spot] == [
        "/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-07-18.zip",
        "/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-07-18.zip",
    ]
    found = [file.venue.exchange for file in (FILE, COIN, spot[0])]
    assert found == ["binance_futures", "binance_futures_coin", "binance_spot"]


def test_where_the_archive_is() -> None:
    assert load_settings(exchange_port=1234).archive_url == "http://127.0.0.1:1234"
    assert load_settings(source="binance").archive_url == "https://data.binance.vision"
    assert load_settings(archive_base_url="http://mirror/x/").archive_url == "http://mirror/x"


def test_a_checksum_file_names_its_file() -> None:
    assert parse_checksum(f"{'AB' * 32}  {FILE.name}\n", FILE.name) == "ab" * 32
    for text in ("", "ab" * 32, f"{'ab' * 31}  {FILE.name}", f"{'ab' * 32}  other.zip", "<Error/>"):
        with pytest.raises(ArchiveChecksumError, match="does not state the sha256"):
            parse_checksum(text, FILE.name)


def test_what_is_fetched_is_what_was_recorded_and_progress_is_told(url: str, capture: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    with ArchiveClient(url, policy=QUICK) as client:
        for file in (FILE, COIN, KLINES):
            path = client.fetch(file, client.checksum(file), tmp_path / "out", lambda *say: told.append(say))
            assert path.read_bytes() == (capture / file.name).read_bytes()
    size = (capture / FILE.name).stat().st_size
    assert told[0] == (0, size)
    assert (size, size) in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([FILE.name, COIN.name, KLINES.name])


def test_the_checksum_of_a_zip_without_one_is_its_own(url: str, capture: Path) -> None:
    (capture / f"{COIN.name}.CHECKSUM").unlink()
    with ArchiveClient(url, policy=QUICK) as client:
        assert client.checksum(COIN) == sha256_of(capture / COIN.name)


def test_a_tree_as_the_archive_has_it_is_served_too(url: str, capture: Path, tmp_path: Path) -> None:
    nested = capture / FILE.path.lstrip("/")
    nested.parent.mkdir(parents=True)
    for suffix in ("", ".CHECKSUM"):
        (capture / f"{FILE.name}{suffix}").rename(f"{nested}{suffix}")
    with ArchiveClient(url, policy=QUICK) as client:
        assert client.fetch(FILE, client.checksum(FILE), tmp_path).read_bytes() == nested.read_bytes()


def test_a_day_that_is_not_there_is_said_as_such(url: str) -> None:
    absent = ArchiveFile("BTCUSDT", date(2024, 7, 19))
    with ArchiveClient(url, policy=QUICK) as client:
        for call in (lambda: client.checksum(absent), lambda: client.fetch(absent, "0" * 64, Path("out"))):
            with pytest.raises(ArchiveMissingError, match="published some hours after it has ended"):
                call()


@pytest.mark.parametrize(
    "path",
    [
        FILE.path.replace("/um/", "/cm/"),
        COIN.path.replace("/cm/", "/um/"),
        FILE.path.replace("/BTCUSDT/", "/ETHUSDT/"),
        FILE.path.replace("aggTrades/BTCUSDT/", "trades/BTCUSDT/"),
        FILE.path.replace(FILE.name, "BTCUSDT.ndjson"),
        FILE.path.replace(FILE.name, "..%2FBTCUSDT.ndjson"),
    ],
)
def test_other_paths_are_no_files(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 404


def test_ranges_and_tags(url: str, capture: Path) -> None:
    whole = (capture / FILE.name).read_bytes()
    answer = httpx.get(url + FILE.path, headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.content) == (206, whole[100:])
    assert answer.headers["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    assert answer.headers["Last-Modified"]
    assert httpx.head(url + FILE.path).headers["ETag"] == answer.headers["ETag"]
    assert httpx.get(url + FILE.path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_a_download_that_breaks_goes_on_where_it_was(url: str, capture: Path, tmp_path: Path) -> None:
    size = (capture / FILE.name).stat().st_size
    with BrokenLine(url, [size // 3, size // 3, size // 4]) as line, ArchiveClient(line.url, policy=QUICK) as client:
        path = client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
        assert path.read_bytes() == (capture / FILE.name).read_bytes()
        ranges = [text.partition("Range: bytes=")[2].partition("-")[0] for text in line.sent if "Range: " in text]
    assert len(ranges) == 3
    assert ranges == sorted(ranges, key=int)


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next_call(url: str, capture: Path, tmp_path: Path) -> None:
    size = (capture / FILE.name).stat().st_size
    with (
        BrokenLine(url, [size // 2, 1, 1, 1, 1]) as line,
        ArchiveClient(line.url, policy=QUICK) as client,
        pytest.raises(ExchangeError, match="the next call goes on"),
    ):
        client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    there = (tmp_path / "out" / f"{FILE.name}.part").stat().st_size
    assert 0 < there < size
    told: list[tuple[int, int | None]] = []
    with ArchiveClient(url, policy=QUICK) as client:
        path = client.fetch(FILE, client.checksum(FILE), tmp_path / "out", lambda *say: told.append(say))
    assert told[0] == (there, size)
    assert path.read_bytes() == (capture / FILE.name).read_bytes()


def test_a_re_issued_file_is_not_glued_to_a_part_of_the_earlier_one(url: str, capture: Path, tmp_path: Path) -> None:
    size = (capture / FILE.name).stat().st_size
    with (
        BrokenLine(url, [size // 2, 1, 1, 1, 1]) as line,
        ArchiveClient(line.url, policy=QUICK) as client,
        pytest.raises(ExchangeError, match="the next call goes on"),
    ):
        client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    assert (tmp_path / "out" / f"{FILE.name}.part").stat().st_size > 0
    write_day(capture, FILE, aggregates(DAY, 3_000, step_ms=6_000))
    os.utime(capture / FILE.name, (1, 1))
    with ArchiveClient(url, policy=QUICK) as client:
        path = client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    assert path.read_bytes() == (capture / FILE.name).read_bytes()


def test_content_that_does_not_fit_is_rejected_and_deleted(url: str, capture: Path, tmp_path: Path) -> None:
    path = capture / FILE.name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with (
        ArchiveClient(url, policy=QUICK) as client,
        pytest.raises(ArchiveChecksumError, match="It is refused and what was loaded before stays"),
    ):
        client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_re_issue_between_checksum_and_file_is_no_mismatch(url: str, capture: Path, tmp_path: Path) -> None:
    with ArchiveClient(url, policy=QUICK) as client:
        stated = client.checksum(FILE)
        write_day(capture, FILE, aggregates(DAY, 100))
        path = client.fetch(FILE, stated, tmp_path / "out")
        assert sha256_of(path) == client.checksum(FILE) != stated


def test_an_archive_that_cannot_be_reached(tmp_path: Path) -> None:
    with ArchiveClient("http://127.0.0.1:9", policy=QUICK) as client:
        with pytest.raises(ExchangeError, match="CRYPTOLAKE_ARCHIVE_URL"):
            client.checksum(FILE)
        with pytest.raises(ExchangeError, match="could not be fetched"):
            client.fetch(FILE, "0" * 64, tmp_path)
