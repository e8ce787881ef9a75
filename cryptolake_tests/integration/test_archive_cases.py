"""Archive days with known problems (gaps, conflicts, dropped trades) through loader, Silver and Gold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
from cryptolake_assets.ingest.archive_days import LoadedDay
from cryptolake_assets.ingest.archive_klines import LoadedKlines, check_klines, kline_file
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import Settings, get_settings, load_settings
from cryptolake_assets.transform.archive_history import ArchiveDay, load_history
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.archives import Aggregate, aggregates, write_day, write_klines, write_zip
from cryptolake_tests.support.bronze import append, bars, trade
from cryptolake_tests.support.captures import trade_frame, write_capture
from cryptolake_tests.support.served import ServedExchange
from cryptolake_tests.support.silver_runs import rebuild, refresh_day

CASES = Path(__file__).parents[1] / "data" / "cases"
Bar = dict[str, Any]


class Lake:
    """A lake of one market, and an exchange that serves a case's files from `served`."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings, self._url = settings, url
        assert settings.replay_dir is not None
        self.served: Path = settings.replay_dir

    def load(self, symbol: str, day: date, *, klines: bool = False, reload: bool = False) -> ArchiveDay:
        with ArchiveClient(self._url) as client:
            return load_history(self.settings, client, symbol, day, "test", klines=klines, reload=reload)

    def trades(self, symbol: str, day: date, **options: bool) -> LoadedDay:
        loaded = self.load(symbol, day, **options).trades
        assert isinstance(loaded, LoadedDay), loaded
        return loaded

    def bars(self, day: date, first_hour: int = 0, hours: int = 24) -> dict[tuple[str, str], Bar]:
        """Rebuild Silver's hours; return the bars by symbol and minute."""
        start = datetime(day.year, day.month, day.day, first_hour, tzinfo=UTC)
        made = rebuild(self.settings, DuckDBEngine(self.settings), start, start + timedelta(hours=hours))
        self.passed = [candidate.passed for candidate in made]
        return {(symbol, f"{at:%H:%M}"): bar for (_, symbol, at), bar in bars(self.settings, start, hours).items()}

    def day(self, day: date) -> dict[str, Bar]:
        """Refresh Gold's day; return its rows by symbol."""
        refresh_day(self.settings, DuckDBEngine(self.settings), day)
        rows = load_table(self.settings, self.settings.tables.daily).scan().to_arrow().to_pylist()
        return {row["symbol"]: row for row in rows if row["trade_date"] == day}


@contextmanager
def lake_of(case: Path, market: Market, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    # The replay exchange requires a frame; it serves archive files from its directory.
    directory = home / "served"
    directory.mkdir()
    write_capture(directory / "a.ndjson", [(1_700_000_000 * 10**9, trade_frame("BTCUSDT", 1, 1_700_000_000_000))])
    (directory / "market").write_text(market)
    for path in case.glob("*.zip*"):
        (directory / path.name).write_bytes(path.read_bytes())
    with ServedExchange(directory) as url:
        settings = load_settings(
            home=home / "lake",
            market=market,
            replay_dir=directory,
            exchange_rest_url=url,
            archive_base_url=url,
            start_date=date(2017, 1, 1),
            kafka_bootstrap_servers="127.0.0.1:9",
        )
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        bootstrap(settings)
        yield Lake(settings, url)


@pytest.fixture
def lake_of_case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    name, market = request.param
    with lake_of(CASES / name, market, tmp_path, monkeypatch) as lake:
        yield lake


def case(name: str, market: Market = Market.USD_M) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lake_of_case", [(name, market)], indirect=True, ids=[name])


@pytest.fixture
def futures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake of USD-M futures whose archive has no files yet."""
    with lake_of(tmp_path / "nothing", Market.USD_M, tmp_path, monkeypatch) as lake:
        yield lake


def aggregates_from_five(day: date, number: int) -> list[Aggregate]:
    """Return `number` aggregates of one trade each from 05:00:10 on, one every 10 s, with ids from 1."""
    first_ms = ArchiveFile("ANY", day).start_ms + 5 * 3_600_000
    return [
        Aggregate(index, "10.5", "1", index, index, first_ms + index * 10_000, True) for index in range(1, number + 1)
    ]


def klines_of(day: date, trades: Sequence[Aggregate]) -> list[Kline]:
    """Return all klines of the day for sell trades at 10.5."""
    price, first_ms = "10.5", ArchiveFile("ANY", day).start_ms
    found = []
    for at in range(first_ms, first_ms + 86_400_000, 60_000):
        of_minute = [Decimal(item.qty) for item in trades if item.time_ms // 60_000 * 60_000 == at]
        volume = sum(of_minute, Decimal(0))
        quote, last_ms = volume * Decimal(price), at + 59_999
        found.append(Kline(at, price, price, price, price, f"{volume}", last_ms, f"{quote}", len(of_minute), "0", "0"))
    return found


def put(lake: Lake, symbol: str, day: date, trades: Sequence[Aggregate], klines: Sequence[Kline] = ()) -> None:
    """Put the day's files into the archive; `klines` defaults to those of the trades."""
    write_day(lake.served, ArchiveFile(symbol, day), trades)
    write_klines(lake.served, kline_file(symbol, day), klines or klines_of(day, trades))


def failed(loaded: LoadedDay) -> dict[str, int]:
    return {outcome.name: outcome.failing_count for outcome in loaded.outcomes if not outcome.passed}


def numbers(bar: Bar, *names: str) -> list[Decimal]:
    return [Decimal(bar[name]) for name in names]


@case("sentinel", Market.SPOT)
def test_ids_without_a_trade_are_stored_but_change_no_bar(lake_of_case: Lake) -> None:
    day = date(2017, 12, 4)
    loaded = lake_of_case.trades("BTCUSDT", day)
    assert (failed(loaded), loaded.rows) == ({}, 3)
    found = lake_of_case.bars(day, 9, 1)
    assert numbers(found["BTCUSDT", "09:06"], "open", "close", "volume", "trades") == [
        Decimal("11500"),
        Decimal("11501.5"),
        Decimal("0.3"),
        2,
    ]
    assert numbers(found["BTCUSDT", "09:07"], "open", "close", "volume", "trades") == [
        Decimal("11502"),
        Decimal("11502"),
        Decimal("0.3"),
        2,
    ]
    assert {bar["trades_dropped"] for bar in found.values()} == {0}


@case("wide", Market.SPOT)
def test_eleven_digit_quantities_are_stored_exactly(lake_of_case: Lake) -> None:
    day = date(2025, 11, 3)
    loaded = lake_of_case.trades("BTTCUSDT", day)
    assert (failed(loaded), loaded.rows) == ({}, 3)
    found = lake_of_case.bars(day, 10, 1)
    assert lake_of_case.passed == [True]
    assert numbers(found["BTTCUSDT", "10:00"], "volume", "quote_volume", "taker_buy_volume", "trades") == [
        Decimal(22_500_000_000),
        Decimal("9225.00000001"),
        Decimal(10_000_000_000),
        5,
    ]
    assert lake_of_case.day(day)["BTTCUSDT"]["total_volume"] == Decimal(22_500_000_000)


@case("truncated", Market.SPOT)
def test_truncated_day_is_incomplete_from_its_last_trade(lake_of_case: Lake) -> None:
    day = date(2021, 12, 14)
    lake_of_case.load("BTCUSDT", day, klines=True)
    lake_of_case.load("BTCUSDT", day + timedelta(days=1))
    found = lake_of_case.bars(day, 0, 10)
    incomplete = [minute for (_, minute), bar in found.items() if not bar["is_complete"]]
    assert incomplete == ["09:29"]
    assert found["BTCUSDT", "09:29"]["trades"] == 1
    assert lake_of_case.day(day)["BTCUSDT"]["is_complete"] is False
    proven_by_klines = [row for row in read_coverage(lake_of_case.settings) if row.evidence is Evidence.KLINES]
    assert proven_by_klines, "the first minute starts before the first trade, but its kline equals the bar"
    assert {(bar["is_complete"], bar["evidence"]) for bar in found.values()} >= {(True, "klines"), (False, None)}
    assert all(bar["is_complete"] == (bar["evidence"] is not None) for bar in found.values())


@case("shuffled")
def test_shuffled_rows_are_sorted_and_gaps_are_counted(lake_of_case: Lake) -> None:
    day = date(2023, 10, 1)
    eth, btc = (lake_of_case.trades(symbol, day) for symbol in ("ETHUSDT", "BTCUSDT"))
    assert failed(eth) == {}
    assert failed(btc) == {"ids_consecutive": 795}
    assert "795 aggregate ids missing in 1 gaps" in {outcome.description for outcome in btc.outcomes}
    found = lake_of_case.bars(day)
    names = ("open", "close", "volume", "quote_volume")
    assert numbers(found["BTCUSDT", "00:00"], *names) == [
        Decimal("26951"),
        Decimal("26947"),
        Decimal("0.015"),
        Decimal("404.235"),
    ]
    assert numbers(found["ETHUSDT", "12:00"], *names) == [
        Decimal("1600.5"),
        Decimal("1609.5"),
        Decimal(10),
        Decimal(16050),
    ]
    assert {bar["is_complete"] for bar in found.values()} == {False}


@case("holes")
def test_end_of_a_day_is_incomplete_until_the_next_day_continues_its_ids(lake_of_case: Lake, tmp_path: Path) -> None:
    day = date(2024, 7, 4)
    loaded = lake_of_case.trades("BTCUSDT", day)
    (gaps_check,) = [outcome for outcome in loaded.outcomes if outcome.name == "ids_consecutive"]
    assert (
        gaps_check.failing_count,
        gaps_check.failing_rows[0]["after_id"],
        gaps_check.failing_rows[0]["before_id"],
    ) == (
        8,
        "2228503271",
        "2228503280",
    )
    found = lake_of_case.bars(day, 1, 1)
    assert {minute: bar["trades"] for (_, minute), bar in found.items()} == {"01:09": 6, "01:11": 1, "01:12": 1}
    assert {bar["is_complete"] for bar in found.values()} == {False}
    following = aggregates(day + timedelta(days=1), 3, first_id=2228503282)
    write_day(tmp_path / "served", ArchiveFile("BTCUSDT", day + timedelta(days=1)), following)
    lake_of_case.trades("BTCUSDT", day + timedelta(days=1))
    assert (2228503281, 2228503282) in {(row.first_id, row.last_id) for row in read_coverage(lake_of_case.settings)}
    assert {minute for (_, minute), bar in lake_of_case.bars(day, 1, 1).items() if bar["is_complete"]} == {"01:12"}
    # A reissue of the next day with a gap at its start removes that coverage for later bars.
    write_day(tmp_path / "served", ArchiveFile("BTCUSDT", day + timedelta(days=1)), following[1:])
    lake_of_case.trades("BTCUSDT", day + timedelta(days=1))
    spans = [(row.first_id, row.last_id) for row in read_coverage(lake_of_case.settings)]
    assert (2228503281, 2228503282) not in spans, "no row joins the days"


@case("zero-qty")
def test_row_with_an_unstorable_quantity_is_rejected_and_the_next_is_stored(lake_of_case: Lake) -> None:
    day = date(2023, 3, 21)
    loaded = lake_of_case.trades("BTCUSDT", day)
    assert (failed(loaded), loaded.rows) == ({"lines_rejected": 1}, 1)
    stored = load_table(lake_of_case.settings, lake_of_case.settings.tables.trades).scan().to_arrow().to_pylist()
    assert [(row["trade_id"], row["qty"]) for row in stored] == [(2, Decimal("0.5"))]
    (letter,) = load_table(lake_of_case.settings, lake_of_case.settings.tables.rejected).scan().to_arrow().to_pylist()
    assert letter["raw"] == b"1,27000.1,5.551115123125783e-17,1,1,1679360400000,true"
    assert "quantity" in letter["reason"]
    assert letter["stream"] == f"archive:{loaded.file.name}"
    lake_of_case.trades("BTCUSDT", day, reload=True)
    assert load_table(lake_of_case.settings, lake_of_case.settings.tables.rejected).scan().count() == 1, (
        "a reload adds no dead letter"
    )
    assert lake_of_case.bars(day, 1, 1)["BTCUSDT", "01:00"]["is_complete"] is False


@case("zero-qty")
def test_minute_with_dropped_trades_is_incomplete(lake_of_case: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    day = date(2023, 5, 1)
    assert failed(lake_of_case.trades("ETHUSDT", day)) == {}
    lake_of_case.bars(day, 0, 1)
    assert lake_of_case.passed == [False], "drop_ratio fails"
    lenient = lake_of_case.settings.model_copy(update={"drop_ratio_limit": 0.9})
    monkeypatch.setattr(lake_of_case, "settings", lenient)
    found = lake_of_case.bars(day, 0, 1)
    assert lake_of_case.passed == [True]
    assert found
    assert {bar["is_complete"] for bar in found.values()} == {False}
    assert [bar["trades_dropped"] for bar in found.values()][1:-1] == [40] * (len(found) - 2)
    stats = lake_of_case.day(day)["ETHUSDT"]
    assert (stats["is_complete"], stats["trades_dropped"]) == (False, 100)


def test_conflicting_copies_of_an_id_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = date(2022, 8, 9)
    # Two trades per minute; one duplicate, and two ids with conflicting rows.
    made = aggregates(day, 20, first_id=700, step_ms=30_000)
    other = [replace(made[5], price="1.5"), replace(made[12], qty="9", time_ms=made[12].time_ms + 1)]
    file = ArchiveFile("SOLUSDT", day)
    with lake_of(tmp_path / "nothing", Market.USD_M, tmp_path, monkeypatch) as lake:
        write_day(tmp_path / "served", file, [*made, made[3], *other])
        loaded = lake.trades("SOLUSDT", day)
        assert failed(loaded) == {"lines_rejected": 4, "ids_consecutive": 2}
        assert loaded.rows == 19, "the duplicate equals its first copy"
        stored = load_table(lake.settings, FUTURES.trades).scan().to_arrow()["trade_id"].to_pylist()
        assert set(stored) == {item.agg_id for item in made} - {705, 712}
        letters = load_table(lake.settings, FUTURES.rejected).scan().to_arrow().to_pylist()
        assert {letter["reason"] for letter in letters} == {
            f"aggregate id {number} occurs more than once, with different values" for number in (705, 712)
        }
        assert len(letters) == 4
        found = lake.bars(day, 0, 1)
        incomplete = [minute for (_, minute), bar in found.items() if not bar["is_complete"]]
        assert incomplete == ["00:00", "00:02", "00:03", "00:05", "00:06", "00:09"]
        # A reissue without conflicts replaces them.
        write_day(tmp_path / "served", file, made)
        assert failed(lake.trades("SOLUSDT", day)) == {}
        found = lake.bars(day, 0, 1)
        assert [minute for (_, minute), bar in found.items() if not bar["is_complete"]] == ["00:00", "00:09"]


def test_midnight_is_complete_between_days_with_consecutive_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, following = date(2024, 3, 5), date(2024, 3, 6)
    first = aggregates(day, 1_440, first_id=50_000, step_ms=60_000)
    second = aggregates(following, 3, first_id=51_440, step_ms=60_000)
    with lake_of(tmp_path / "nothing", Market.USD_M, tmp_path, monkeypatch) as lake:
        write_day(tmp_path / "served", ArchiveFile("BTCUSDT", following), second)
        write_day(tmp_path / "served", ArchiveFile("BTCUSDT", day), first)
        lake.trades("BTCUSDT", following)
        lake.trades("BTCUSDT", day)
        last_hour, next_hour = lake.bars(day, 23, 1), lake.bars(following, 0, 1)
        assert [minute for (_, minute), bar in last_hour.items() if not bar["is_complete"]] == []
        assert {bar["evidence"] for bar in last_hour.values()} == {"ids"}
        assert [minute for (_, minute), bar in next_hour.items() if not bar["is_complete"]] == ["00:02"]


@case("off-minute-klines", Market.SPOT)
def test_misaligned_kline_does_not_block_other_klines(lake_of_case: Lake) -> None:
    day = date(2017, 12, 4)
    loaded = lake_of_case.load("BTCUSDT", day, klines=True).klines
    assert isinstance(loaded, LoadedKlines)
    assert [bad.text.split(",")[0] for bad in loaded.rejected_lines] == ["1512378374789", "1512378434789"]
    outcome = check_klines(loaded)
    assert not outcome.passed
    assert "bounds of a minute" in outcome.description
    stored = (
        load_table(lake_of_case.settings, lake_of_case.settings.tables.klines)
        .scan()
        .to_arrow()["open_time"]
        .to_pylist()
    )
    assert len(stored) == loaded.klines > 0
    assert {moment.second for moment in stored} == {0}


def test_reissue_with_missing_trades_makes_a_complete_day_incomplete(futures: Lake) -> None:
    day = date(2022, 6, 1)
    trades = aggregates_from_five(day, 59)
    put(futures, "LTCUSDT", day, trades)
    futures.load("LTCUSDT", day, klines=True)
    futures.bars(day, 5, 1)
    stats = futures.day(day)["LTCUSDT"]
    assert (stats["is_complete"], stats["total_volume"]) == (True, 59)
    put(futures, "LTCUSDT", day, trades[:10] + trades[20:], klines_of(day, trades))
    futures.load("LTCUSDT", day, klines=True)
    found = futures.bars(day, 5, 1)
    assert [minute for (_, minute), bar in found.items() if not bar["is_complete"]] == ["05:01", "05:03"]
    stats = futures.day(day)["LTCUSDT"]
    assert (stats["is_complete"], stats["total_volume"]) == (False, 49)


@pytest.fixture
def lenient(futures: Lake) -> Lake:
    """The lake of futures with a high limit of dropped trades in Silver."""
    futures.settings = futures.settings.model_copy(update={"drop_ratio_limit": 0.9})
    return futures


def test_dropped_trade_alone_in_its_minute_makes_the_day_incomplete(lenient: Lake) -> None:
    day = date(2022, 7, 1)
    made = aggregates_from_five(day, 100)
    # Ids 90 to 95 are in minute 05:15.
    trades = [replace(item, qty="0") if item.agg_id == 90 else item for item in made if not 90 < item.agg_id < 96]
    trades = [replace(item, agg_id=index, first_id=index, last_id=index) for index, item in enumerate(trades, 1)]
    put(lenient, "DOTUSDT", day, trades)
    lenient.load("DOTUSDT", day, klines=True)
    found = lenient.bars(day, 5, 1)
    assert ("DOTUSDT", "05:15") not in found
    assert {bar["is_complete"] for bar in found.values()} == {True}
    stats = lenient.day(day)["DOTUSDT"]
    assert (stats["is_complete"], stats["trades_dropped"]) == (False, 1)
    # A reissue has a valid row of the trade; the quarantine keeps the invalid one.
    put(lenient, "DOTUSDT", day, [replace(item, qty="1") for item in trades])
    lenient.load("DOTUSDT", day, klines=True)
    lenient.bars(day, 5, 1)
    stats = lenient.day(day)["DOTUSDT"]
    assert (stats["is_complete"], stats["trades_dropped"]) == (True, 0)


def test_dropped_trade_of_the_unused_stream_makes_the_day_incomplete(lenient: Lake) -> None:
    day = date(2022, 7, 2)
    trades = [replace(item, qty="0") if item.agg_id == 31 else item for item in aggregates_from_five(day, 59)]
    put(lenient, "DOTUSDT", day, trades)
    lenient.load("DOTUSDT", day, klines=True)
    at = datetime.fromtimestamp(trades[30].time_ms / 1000, UTC)
    append(lenient.settings, [trade(at, 5, "10.5", "1", symbol="DOTUSDT")])
    bar = lenient.bars(day, 5, 1)["DOTUSDT", "05:05"]
    assert (bar["is_complete"], bar["trades_dropped"], bar["trades"]) == (False, 0, 1)
    stats = lenient.day(day)["DOTUSDT"]
    assert (stats["is_complete"], stats["trades_dropped"]) == (False, 1)


def test_dropped_trade_of_another_stream_leaves_a_complete_bar_complete(lenient: Lake) -> None:
    day = date(2022, 7, 3)
    trades = aggregates_from_five(day, 59)
    put(lenient, "DOTUSDT", day, trades)
    lenient.load("DOTUSDT", day, klines=True)
    at = datetime.fromtimestamp(trades[30].time_ms / 1000, UTC)
    append(lenient.settings, [trade(at, 5, "10.5", "0", symbol="DOTUSDT")])
    assert lenient.bars(day, 5, 1)["DOTUSDT", "05:05"]["evidence"] == "ids"
    stats = lenient.day(day)["DOTUSDT"]
    assert (stats["is_complete"], stats["trades_dropped"]) == (True, 0)


@pytest.mark.parametrize("trades_file", ["unchanged", "missing", "rejected"])
def test_reissued_klines_withdraw_their_evidence(futures: Lake, trades_file: str) -> None:
    day = date(2022, 6, 2)
    trades = aggregates_from_five(day, 59)
    klines = klines_of(day, trades)
    put(futures, "LTCUSDT", day, trades, klines)
    futures.load("LTCUSDT", day, klines=True)
    assert futures.bars(day, 5, 1)["LTCUSDT", "05:00"]["evidence"] == "klines"
    assert futures.day(day)["LTCUSDT"]["is_complete"] is True
    klines[300] = replace(klines[300], trades=99, volume="99", quote_volume="1039.5")
    put(futures, "LTCUSDT", day, trades, klines)
    file = ArchiveFile("LTCUSDT", day)
    if trades_file == "missing":
        (futures.served / file.name).unlink()
        (futures.served / f"{file.name}.CHECKSUM").unlink()
    elif trades_file == "rejected":
        write_zip(futures.served, file, "no trades")
    futures.load("LTCUSDT", day, klines=True)
    found = futures.bars(day, 5, 1)
    assert [minute for (_, minute), bar in found.items() if not bar["is_complete"]] == ["05:00"]
    assert futures.day(day)["LTCUSDT"]["is_complete"] is False


def test_conflicting_klines_of_one_minute_are_no_evidence(futures: Lake) -> None:
    day = date(2022, 6, 3)
    trades = aggregates_from_five(day, 59)
    klines = klines_of(day, trades)
    put(futures, "LTCUSDT", day, trades, [*klines, replace(klines[300], trades=99, volume="99"), klines[301]])
    loaded = futures.load("LTCUSDT", day, klines=True).klines
    assert isinstance(loaded, LoadedKlines)
    assert (loaded.klines, len(loaded.rejected_lines)) == (1_439, 2)
    found = futures.bars(day, 5, 1)
    assert [minute for (_, minute), bar in found.items() if not bar["is_complete"]] == ["05:00"]


def test_malformed_or_foreign_day_copy_of_an_id_conflicts_with_it(futures: Lake) -> None:
    day = date(2022, 4, 1)
    trades = aggregates_from_five(day, 59)
    bad = replace(trades[29], qty="1e-17")
    of_previous_day = replace(trades[44], price="99", time_ms=ArchiveFile("ANY", day).start_ms - 1)
    put(futures, "XRPUSDT", day, [of_previous_day, *trades[:20], bad, *trades[20:]], klines_of(day, trades))
    loaded = futures.trades("XRPUSDT", day)
    assert failed(loaded) == {"within_the_day": 1, "lines_rejected": 4, "ids_consecutive": 2}
    assert loaded.rows == 57
    found = futures.bars(day, 5, 1)
    incomplete = [minute for (_, minute), bar in found.items() if not bar["is_complete"]]
    assert incomplete == ["05:00", "05:04", "05:05", "05:07", "05:09"]


@pytest.mark.parametrize("step_ms", [1, 20_000])
def test_large_quote_volumes_of_one_symbol_do_not_block_others(lenient: Lake, step_ms: int) -> None:
    day = date(2022, 11, 2)
    first_ms = ArchiveFile("ANY", day).start_ms + 5 * 3_600_000
    large = [
        Aggregate(index, "9000000000", "110000", index, index, first_ms + index * step_ms, True)
        for index in range(1, 151)
    ]
    write_day(lenient.served, ArchiveFile("HUGEUSDT", day), large)
    too_large = [replace(item, qty="11000000000") for item in large]
    write_day(lenient.served, ArchiveFile("WIDEUSDT", day), [*too_large, replace(large[-1], agg_id=151)])
    put(lenient, "LTCUSDT", day, aggregates_from_five(day, 59))
    for symbol in ("HUGEUSDT", "WIDEUSDT", "LTCUSDT"):
        lenient.trades(symbol, day)
    found = lenient.bars(day, 5, 1)
    assert lenient.passed == [True]
    assert len([symbol for symbol, _ in found if symbol == "LTCUSDT"]) == 10
    stats = lenient.day(day)
    assert stats["HUGEUSDT"]["total_quote_volume"] == 150 * 990 * 10**12
    assert (stats["WIDEUSDT"]["total_quote_volume"], stats["WIDEUSDT"]["trades_dropped"]) == (990 * 10**12, 150)
