"""Days of klines from the archive over HTTP into the real catalog, and real bars compared with them without REST.

The archive files contain recorded trades, each written as an aggregate of one trade.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from cryptolake_assets import cli
from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.errors import ArchiveMissingError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.ingest.archive_days import Outcome
from cryptolake_assets.ingest.archive_klines import LoadedKlines, kline_file
from cryptolake_assets.ingest.klines import fetch_hour, judge_hour, read_klines
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import USD_M, Family
from cryptolake_assets.quality.bar_checks import OFFICIAL_KLINES
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, get_settings, load_settings
from cryptolake_assets.transform.archive_history import ArchiveDay, load_history
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.load_inputs import load_run_inputs
from cryptolake_tests.support.archives import (
    Aggregate,
    csv_text,
    kline_line,
    klines_without_trades,
    recorded_klines,
    write_day,
    write_klines,
    write_zip,
)
from cryptolake_tests.support.markets import spot_capture
from cryptolake_tests.support.served import ServedExchange, TruncatingProxy
from cryptolake_tests.support.silver_runs import rebuild

DAY = date(2024, 7, 19)
MIDNIGHT = datetime(2024, 7, 19, tzinfo=UTC)
NOWHERE = "http://127.0.0.1:9"
QUICK = RetryPolicy(attempts=2, max_backoff_s=0.01, max_retry_after_s=1)
FULL_MINUTES = 5
"""Number of full recorded minutes from midnight on."""
OFFICIAL = {symbol: recorded_klines(symbol, DAY)[:FULL_MINUTES] for symbol in ("BTCUSDT", "ETHUSDT")}
DIFFERENCES = "SELECT symbol, window_start, field, ours, official FROM cryptolake.silver.futures_kline_differences"


def recorded_aggregates(symbol: str) -> list[Aggregate]:
    """Return the recorded order-book trades of the full minutes, in order, each as an aggregate of one trade."""
    trades = []
    for frame in read_frames(DEMO_CAPTURE_DIR):
        parsed = parse_frame(frame.raw, ingest_time_us=0, exchange=USD_M.exchange)
        if isinstance(parsed, AcceptedFrame) and parsed.event.symbol == symbol and parsed.event.trade_type == "MARKET":
            trades.append(parsed.event)
    last_ms = OFFICIAL[symbol][-1].close_time_ms
    inside = sorted(
        (event for event in trades if kline_file(symbol, DAY).start_ms <= event.event_time // 1000 <= last_ms),
        key=lambda event: event.trade_id,
    )
    return [
        Aggregate(
            number,
            event.price,
            event.qty,
            event.trade_id,
            event.trade_id,
            event.event_time // 1000,
            event.side == "sell",
        )
        for number, event in enumerate(inside, 1)
    ]


class World:
    """A lake whose exchange has no REST, and an archive with the files in `directory`."""

    def __init__(self, settings: Settings, directory: Path, url: str) -> None:
        self.settings, self.directory, self.url = settings, directory, url

    def load(self, symbol: str = "BTCUSDT", *, klines: bool = True, url: str = "") -> ArchiveDay:
        with ArchiveClient(url or self.url, policy=QUICK) as client:
            return load_history(self.settings, client, symbol, DAY, "test", klines=klines)

    def load_klines(self, symbol: str = "BTCUSDT", url: str = "") -> LoadedKlines:
        loaded = self.load(symbol, url=url).klines
        assert isinstance(loaded, LoadedKlines)
        return loaded

    def rows(self) -> dict[tuple[str, datetime], dict[str, object]]:
        found = load_table(self.settings, FUTURES.klines).scan().to_arrow().to_pylist()
        return {(row["symbol"], row["open_time"]): row for row in found}

    def klines(self, symbol: str = "BTCUSDT") -> list[Kline]:
        found = read_klines(self.settings, MIDNIGHT, MIDNIGHT + timedelta(days=1))
        return [kline for (_, name, _), kline in sorted(found.items(), key=lambda item: item[0]) if name == symbol]

    def snapshot(self) -> int | None:
        return load_table(self.settings, FUTURES.klines).metadata.current_snapshot_id


@pytest.fixture
def world(lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    directory = tmp_path / "served"
    shutil.copytree(DEMO_CAPTURE_DIR, directory, ignore=shutil.ignore_patterns("*.csv"))
    with ServedExchange(directory) as url:
        settings = lake.model_copy(
            update={
                "replay_dir": directory,
                "exchange_rest_url": NOWHERE,
                "archive_base_url": url,
                "kafka_bootstrap_servers": "127.0.0.1:9",
            }
        )
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        yield World(settings, directory, url)


def numbers(klines: list[Kline]) -> list[list[Decimal]]:
    """Return the klines as numbers, so that trailing zeros do not matter."""
    return [[Decimal(value) for value in kline.to_rest()] for kline in klines]


def test_day_is_loaded_once_with_the_archives_exact_values(world: World) -> None:
    write_klines(world.directory, kline_file("BTCUSDT", DAY), OFFICIAL["BTCUSDT"])
    first = world.load_klines()
    assert (first.outcome, first.klines, first.changed, first.hours) == (Outcome.LOADED, 5, 5, (MIDNIGHT,))
    assert numbers(world.klines()) == numbers(OFFICIAL["BTCUSDT"])
    assert {row["source"] for row in world.rows().values()} == {"archive"}
    snapshot = world.snapshot()
    assert world.load_klines().outcome is Outcome.UNCHANGED
    assert world.snapshot() == snapshot
    assert [path for path in world.settings.archive_dir.rglob("*") if path.is_file()] == []
    # `klines=False` requests no klines.
    assert world.load(klines=False).klines is None


def test_broken_download_resumes(world: World) -> None:
    size = write_klines(world.directory, kline_file("BTCUSDT", DAY), klines_without_trades(DAY, 1_440)).stat().st_size
    with TruncatingProxy(world.url, [size // 2]) as line:
        assert world.load_klines(url=line.url).klines == 1_440
        assert [text for text in line.sent if "Range: bytes=" in text]


def test_reissue_replaces_the_archives_day_and_fills_gaps_of_rest(world: World) -> None:
    file = kline_file("BTCUSDT", DAY)
    issued = klines_without_trades(DAY, 120)
    write_klines(world.directory, file, issued[:60])
    write_klines(world.directory, kline_file("ETHUSDT", DAY), issued[:3])
    world.load_klines()
    world.load_klines("ETHUSDT")
    others = {key: row for key, row in world.rows().items() if key[0] == "ETHUSDT"}
    # REST provides two minutes of the second hour; one differs from the archive's.
    served = world.directory.parent / "rest"
    shutil.copytree(world.directory, served)
    changed = replace(issued[61], close="60001.00", high="60001.00")
    lines = ["open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"]
    lines[0] += "taker_buy_quote_volume,ignore"
    lines += [",".join(map(str, kline.to_rest())) for kline in (issued[60], changed)]
    (served / "BTCUSDT-1m-2024-07-19.csv").write_text("\n".join(lines) + "\n")
    hour = MIDNIGHT + timedelta(hours=1)
    with ServedExchange(served, round((hour + timedelta(hours=1)).timestamp() * 1000)) as url:
        rest = world.settings.model_copy(update={"exchange_rest_url": url, "symbols": ("BTCUSDT",)})
        fetched = fetch_hour(rest, hour, "test")
    assert (fetched.klines, fetched.of_archive) == (2, 0)
    # The first hour is complete, so REST (unreachable here) is not requested.
    of_archive = fetch_hour(world.settings.model_copy(update={"symbols": ("BTCUSDT",)}), MIDNIGHT, "test")
    assert (of_archive.klines, of_archive.of_archive) == (0, 63)
    reissued = [*issued[:30], replace(issued[30], volume="1.500"), *issued[32:]]
    write_klines(world.directory, file, reissued, header=False)
    loaded = world.load_klines()
    assert (loaded.outcome, loaded.klines, loaded.removed) == (Outcome.REPLACED, 119, 1)
    assert loaded.hours == (MIDNIGHT, hour)
    assert numbers(world.klines()) == numbers(reissued)
    assert {row["source"] for key, row in world.rows().items() if key[0] == "BTCUSDT"} == {"archive"}
    assert {key: row for key, row in world.rows().items() if key[0] == "ETHUSDT"} == others
    assert world.load_klines().outcome is Outcome.UNCHANGED


def test_rejected_or_missing_kline_file_does_not_block_the_trades(world: World) -> None:
    file = kline_file("BTCUSDT", DAY)
    write_klines(world.directory, file, OFFICIAL["BTCUSDT"])
    world.load_klines()
    before = world.rows()
    write_day(world.directory, ArchiveFile("BTCUSDT", DAY), recorded_aggregates("BTCUSDT"))
    write_zip(world.directory, file, "1,2,3\n")
    result = world.load()
    assert result.klines is not None
    assert (result.klines.outcome, result.trades.outcome) == (Outcome.REJECTED, Outcome.LOADED)
    write_klines(world.directory, file, OFFICIAL["BTCUSDT"][:2])
    (world.directory / f"{file.name}.CHECKSUM").write_text(f"{'ab' * 32}  {file.name}\n")
    result = world.load()
    assert result.klines is not None
    assert (result.klines.outcome, result.trades.outcome) == (Outcome.REJECTED, Outcome.UNCHANGED)
    (world.directory / file.name).unlink()
    (world.directory / f"{file.name}.CHECKSUM").unlink()
    result = world.load()
    assert result.klines is not None
    assert result.klines.outcome is Outcome.MISSING
    assert world.rows() == before


def test_archive_bars_equal_archive_klines_and_a_reissue_is_compared_again(world: World) -> None:
    for symbol, klines in OFFICIAL.items():
        write_day(world.directory, ArchiveFile(symbol, DAY), recorded_aggregates(symbol))
        write_klines(world.directory, kline_file(symbol, DAY), klines)
    op = asset_keys.FUTURES.archive.to_python_identifier()
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions().resolve_implicit_global_asset_job_def()

        def load() -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
            done = job.execute_in_process(
                instance=instance,
                asset_selection=[asset_keys.FUTURES.archive],
                partition_key=DAY.isoformat(),
                run_config={"ops": {op: {"config": {"symbols": list(OFFICIAL)}}}},
            )
            return {item.asset_check_key: item for item in done.get_asset_check_evaluations()}

        evaluations = load()
        of_day = evaluations[dg.AssetCheckKey(asset_keys.FUTURES.archive, "klines_of_the_day")]
        assert not of_day.passed
        assert of_day.description is not None
        assert "BTCUSDT-1m-2024-07-19.zip: 5 of 1440 minutes" in of_day.description
        done = job.execute_in_process(
            instance=instance, asset_selection=[asset_keys.FUTURES.bars], partition_key=hour_key(MIDNIGHT)
        )
        (judged,) = (item for item in done.get_asset_check_evaluations() if item.check_name == OFFICIAL_KLINES)
        assert judged.passed
        assert str(judged.description).startswith("6 of 6 complete bars equal the official klines; 4 ")
        assert dg.AssetCheckKey(asset_keys.FUTURES.bars, OFFICIAL_KLINES) not in load()

        # Reissue one kline with unchanged trades: the archive run itself evaluates the check again.
        first, *others = OFFICIAL["ETHUSDT"]
        write_klines(world.directory, kline_file("ETHUSDT", DAY), [replace(first, high="9999.99"), *others])
        compared_again = load()[dg.AssetCheckKey(asset_keys.FUTURES.bars, OFFICIAL_KLINES)]
        assert (compared_again.passed, compared_again.partition) == (False, hour_key(MIDNIGHT))
        assert str(compared_again.description).startswith("6 of 7 ")
    (row,) = run_sql(world.settings, DIFFERENCES).to_pylist()
    assert (row["symbol"], row["window_start"], row["field"]) == ("ETHUSDT", MIDNIGHT, "high")
    agreement = judge_hour(world.settings, MIDNIGHT, load_run_inputs(world.settings).completeness, "test")
    assert len(agreement.differences) == 1


def test_command_loads_klines_unless_disabled(world: World) -> None:
    write_day(world.directory, ArchiveFile("BTCUSDT", DAY), recorded_aggregates("BTCUSDT"))
    write_klines(world.directory, kline_file("BTCUSDT", DAY), OFFICIAL["BTCUSDT"])
    arguments = ["archive", "--symbol", "BTCUSDT", "--from", "2024-07-19"]
    without_klines = CliRunner().invoke(cli.app, [*arguments, "--no-klines"], env={"COLUMNS": "200"})
    assert without_klines.exit_code == 0, without_klines.output
    assert world.rows() == {}
    done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert len(world.rows()) == 5
    write_zip(world.directory, kline_file("BTCUSDT", DAY), "1,2,3\n")
    assert CliRunner().invoke(cli.app, arguments).exit_code == 1


def test_spot_day_is_loaded_from_the_spot_file_layout(tmp_path: Path) -> None:
    directory = tmp_path / "served"
    spot_capture(directory)
    settings = load_settings(home=tmp_path / "home", market="spot", replay_dir=directory, exchange_rest_url=NOWHERE)
    bootstrap(settings)
    trades = recorded_aggregates("BTCUSDT")
    file = ArchiveFile("BTCUSDT", DAY, family=Family.SPOT)
    # Spot files have an eighth column, Python booleans, no header, and times in µs since 2025.
    lines = [f"{row.line(1000).replace('true', 'True').replace('false', 'False')},True" for row in trades]
    write_zip(directory, file, csv_text(lines, header=False))
    lines = [kline_line(kline, 1000) for kline in OFFICIAL["BTCUSDT"]]
    write_zip(directory, kline_file("BTCUSDT", DAY, Family.SPOT), "".join(f"{line}\n" for line in lines))
    with ServedExchange(directory) as url, ArchiveClient(url, policy=QUICK) as client:
        loaded = load_history(settings, client, "BTCUSDT", DAY, "test")
        with pytest.raises(ArchiveMissingError):
            client.checksum(ArchiveFile("BTCUSDT", DAY))
    assert loaded.klines is not None
    assert (loaded.trades.outcome, loaded.klines.outcome) == (Outcome.LOADED, Outcome.LOADED)
    rows = load_table(settings, settings.tables.trades).scan().to_arrow().to_pylist()
    assert {row["exchange"] for row in rows} == {"binance_spot"}
    assert len(rows) == len(trades)
    end = MIDNIGHT + timedelta(hours=1)
    assert [one.passed for one in rebuild(settings, DuckDBEngine(settings), MIDNIGHT, end)] == [True]
    agreement = judge_hour(settings, MIDNIGHT, load_run_inputs(settings).completeness, "test")
    assert str(agreement.outcome.description).startswith("3 of 3 ")
