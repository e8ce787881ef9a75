"""The archive client against the replay exchange: paths, checksums, resumed downloads, errors."""

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
from cryptolake_tests.support.served import ServedExchange, TruncatingProxy
from cryptolake_tests.support.sockets import numbered_capture

DAY = date(2024, 7, 18)
FILE = ArchiveFile("BTCUSDT", DAY)
COIN = ArchiveFile("BTCUSD_PERP", DAY)
KLINES = ArchiveFile("BTCUSDT", DAY, "1m")
QUICK = RetryPolicy(attempts=3, max_backoff_s=0.01, max_retry_after_s=1)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A capture with archive files: a day of USD-M trades, of COIN-M trades and of klines."""
    directory = numbered_capture(tmp_path / "capture", 3, 10)
    write_day(directory, FILE, aggregates(DAY, 3_000))
    write_day(directory, COIN, aggregates(DAY, 10))
    write_klines(directory, KLINES, recorded_klines("BTCUSDT", DAY))
    return directory


@pytest.fixture
def url(capture: Path) -> Iterator[str]:
    with ServedExchange(capture) as served:
        yield served


def test_paths_and_exchanges_of_each_market() -> None:
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


def test_archive_url_follows_the_settings() -> None:
    assert load_settings(exchange_port=1234).archive_url == "http://127.0.0.1:1234"
    assert load_settings(source="binance").archive_url == "https://data.binance.vision"
    assert load_settings(archive_base_url="http://mirror/x/").archive_url == "http://mirror/x"


def test_checksum_is_parsed_only_for_its_own_file() -> None:
    assert parse_checksum(f"{'AB' * 32}  {FILE.name}\n", FILE.name) == "ab" * 32
    for text in ("", "ab" * 32, f"{'ab' * 31}  {FILE.name}", f"{'ab' * 32}  other.zip", "<Error/>"):
        with pytest.raises(ArchiveChecksumError, match="does not contain the sha256"):
            parse_checksum(text, FILE.name)


def test_fetched_files_equal_the_recorded_ones_and_progress_is_reported(
    url: str, capture: Path, tmp_path: Path
) -> None:
    progress: list[tuple[int, int | None]] = []
    with ArchiveClient(url, policy=QUICK) as client:
        for file in (FILE, COIN, KLINES):
            path = client.fetch(file, client.checksum(file), tmp_path / "out", lambda *step: progress.append(step))
            assert path.read_bytes() == (capture / file.name).read_bytes()
    size = (capture / FILE.name).stat().st_size
    assert progress[0] == (0, size)
    assert (size, size) in progress
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([FILE.name, COIN.name, KLINES.name])


def test_missing_checksum_file_is_computed(url: str, capture: Path) -> None:
    (capture / f"{COIN.name}.CHECKSUM").unlink()
    with ArchiveClient(url, policy=QUICK) as client:
        assert client.checksum(COIN) == sha256_of(capture / COIN.name)


def test_files_in_archive_folders_are_served(url: str, capture: Path, tmp_path: Path) -> None:
    nested = capture / FILE.path.lstrip("/")
    nested.parent.mkdir(parents=True)
    for suffix in ("", ".CHECKSUM"):
        (capture / f"{FILE.name}{suffix}").rename(f"{nested}{suffix}")
    with ArchiveClient(url, policy=QUICK) as client:
        assert client.fetch(FILE, client.checksum(FILE), tmp_path).read_bytes() == nested.read_bytes()


def test_missing_day_raises_an_error(url: str) -> None:
    missing = ArchiveFile("BTCUSDT", date(2024, 7, 19))
    with ArchiveClient(url, policy=QUICK) as client:
        for call in (lambda: client.checksum(missing), lambda: client.fetch(missing, "0" * 64, Path("out"))):
            with pytest.raises(ArchiveMissingError, match="published some hours after the day has ended"):
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
def test_path_outside_the_archive_layout_is_404(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 404


def test_ranges_and_etags_are_served(url: str, capture: Path) -> None:
    content = (capture / FILE.name).read_bytes()
    response = httpx.get(url + FILE.path, headers={"Range": "bytes=100-"})
    assert (response.status_code, response.content) == (206, content[100:])
    assert response.headers["Content-Range"] == f"bytes 100-{len(content) - 1}/{len(content)}"
    assert response.headers["Last-Modified"]
    assert httpx.head(url + FILE.path).headers["ETag"] == response.headers["ETag"]
    assert httpx.get(url + FILE.path, headers={"If-None-Match": response.headers["ETag"]}).status_code == 304


def test_interrupted_download_resumes_where_it_stopped(url: str, capture: Path, tmp_path: Path) -> None:
    size = (capture / FILE.name).stat().st_size
    with (
        TruncatingProxy(url, [size // 3, size // 3, size // 4]) as line,
        ArchiveClient(line.url, policy=QUICK) as client,
    ):
        path = client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
        assert path.read_bytes() == (capture / FILE.name).read_bytes()
        ranges = [text.partition("Range: bytes=")[2].partition("-")[0] for text in line.sent if "Range: " in text]
    assert len(ranges) == 3
    assert ranges == sorted(ranges, key=int)


def test_next_call_resumes_a_failed_download(url: str, capture: Path, tmp_path: Path) -> None:
    size = (capture / FILE.name).stat().st_size
    with (
        TruncatingProxy(url, [size // 2, 1, 1, 1, 1]) as line,
        ArchiveClient(line.url, policy=QUICK) as client,
        pytest.raises(ExchangeError, match="the next call resumes the download"),
    ):
        client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    partial_size = (tmp_path / "out" / f"{FILE.name}.part").stat().st_size
    assert 0 < partial_size < size
    progress: list[tuple[int, int | None]] = []
    with ArchiveClient(url, policy=QUICK) as client:
        path = client.fetch(FILE, client.checksum(FILE), tmp_path / "out", lambda *step: progress.append(step))
    assert progress[0] == (partial_size, size)
    assert path.read_bytes() == (capture / FILE.name).read_bytes()


def test_re_issued_file_is_not_appended_to_an_earlier_partial_file(url: str, capture: Path, tmp_path: Path) -> None:
    size = (capture / FILE.name).stat().st_size
    with (
        TruncatingProxy(url, [size // 2, 1, 1, 1, 1]) as line,
        ArchiveClient(line.url, policy=QUICK) as client,
        pytest.raises(ExchangeError, match="the next call resumes the download"),
    ):
        client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    assert (tmp_path / "out" / f"{FILE.name}.part").stat().st_size > 0
    write_day(capture, FILE, aggregates(DAY, 3_000, step_ms=6_000))
    os.utime(capture / FILE.name, (1, 1))
    with ArchiveClient(url, policy=QUICK) as client:
        path = client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    assert path.read_bytes() == (capture / FILE.name).read_bytes()


def test_content_with_a_wrong_checksum_is_rejected_and_deleted(url: str, capture: Path, tmp_path: Path) -> None:
    path = capture / FILE.name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with (
        ArchiveClient(url, policy=QUICK) as client,
        pytest.raises(ArchiveChecksumError, match="was rejected; previously loaded data is unchanged"),
    ):
        client.fetch(FILE, client.checksum(FILE), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_re_issue_between_checksum_and_file_is_accepted(url: str, capture: Path, tmp_path: Path) -> None:
    with ArchiveClient(url, policy=QUICK) as client:
        published = client.checksum(FILE)
        write_day(capture, FILE, aggregates(DAY, 100))
        path = client.fetch(FILE, published, tmp_path / "out")
        assert sha256_of(path) == client.checksum(FILE) != published


def test_unreachable_archive_raises_an_error(tmp_path: Path) -> None:
    with ArchiveClient("http://127.0.0.1:9", policy=QUICK) as client:
        with pytest.raises(ExchangeError, match="CRYPTOLAKE_ARCHIVE_URL"):
            client.checksum(FILE)
        with pytest.raises(ExchangeError, match="could not be fetched"):
            client.fetch(FILE, "0" * 64, tmp_path)
