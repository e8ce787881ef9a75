"""Days of the archive over HTTP into the real catalog: loaded once, replaced, deduplicated with the stream's trades."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import CommitFailedException
from typer.testing import CliRunner

from cryptolake_assets import cli
from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.defs.resources import StreamResource
from cryptolake_assets.errors import ArchiveChecksumError, ArchiveFormatError, ArchiveRangeError, ExchangeError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.ingest import archive_days as archive
from cryptolake_assets.ingest.archive_checks import MAX_GAPS
from cryptolake_assets.ingest.archive_days import LoadedDay, Outcome, load_day
from cryptolake_assets.ingest.archive_klines import kline_file
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import replace_files
from cryptolake_assets.lake.coverage import IcebergCoverageSink, read_coverage
from cryptolake_assets.lake.filters import between
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.coverage_rows import LOADING, CoverageRow, Evidence
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, get_settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.archives import (
    Aggregate,
    aggregates,
    klines_without_trades,
    write_day,
    write_klines,
    write_zip,
)
from cryptolake_tests.support.bronze import append, bars
from cryptolake_tests.support.reference import Trade, reference_bars
from cryptolake_tests.support.run_requests import followed_by_runs, requested_hours, run_silver_request
from cryptolake_tests.support.served import ServedExchange, TruncatingProxy
from cryptolake_tests.support.silver_runs import rebuild

DAY = date(2024, 7, 18)
MIDNIGHT = datetime(2024, 7, 18, tzinfo=UTC)
FILE = ArchiveFile("BTCUSDT", DAY)
COIN = ArchiveFile("BTCUSD_PERP", date(2026, 5, 8))
RECORDED = Path(__file__).parents[1] / "data"
QUICK = RetryPolicy(attempts=3, max_backoff_s=0.01, max_retry_after_s=1)
HOURS = 3
ROWS = aggregates(DAY, 1_500, step_ms=7_001)
"""Nearly three hours from midnight on."""
CHECKS_OF_TRADES = {"checksum", "every_line", "within_the_day", "lines_rejected", "ids_consecutive"}


class World:
    """A lake, a replay exchange that serves archive files from `directory`, and a Dagster instance."""

    def __init__(self, settings: Settings, directory: Path, url: str, instance: dg.DagsterInstance) -> None:
        self.settings, self.directory, self.url, self.instance = settings, directory, url, instance
        self.cursor: str | None = None

    def load(self, file: ArchiveFile = FILE, url: str | None = None, **options: Any) -> LoadedDay:
        with ArchiveClient(url or self.url, policy=QUICK) as client:
            return load_day(self.settings, client, file, "test", **options)

    def bronze(self) -> list[Trade]:
        return list(load_table(self.settings, FUTURES.trades).scan().to_arrow().to_pylist())

    def follow(self, *, every_hour: bool = False) -> set[str]:
        """Run the follower's ticks and the requested Silver runs until no hour is pending; return the runs' hours.

        A day of the archive completes all of its hours. Without `every_hour`, runs of hours without trades are only
        recorded as successful, because each takes half a second.
        """
        job = build_definitions().resolve_implicit_global_asset_job_def()
        traded = {hour_key(MIDNIGHT + timedelta(hours=number)) for number in range(HOURS)}
        requested: set[str] = set()
        while True:
            context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
            result = tick(context, Graph.of(self.settings), followed_by_runs(Family.FUTURES))
            if isinstance(result, dg.SkipReason):
                self.cursor = context.cursor
                assert "0 hours pending" in str(result.skip_message)
                return requested
            self.cursor = result.cursor
            for request in result.run_requests or []:
                hours = set(requested_hours(request))
                requested |= hours
                if every_hour or hours & traded:
                    assert run_silver_request(job, self.instance, request).success
                else:
                    of_partition = {"dagster/partition": request.partition_key} if request.partition_key else {}
                    self.instance.add_run(
                        dg.DagsterRun(
                            job.name,
                            run_id=str(uuid.uuid4()),
                            asset_selection={asset_keys.FUTURES.bars},
                            tags={**request.tags, **of_partition},
                            status=dg.DagsterRunStatus.SUCCESS,
                        )
                    )

    def materialize(self, day: date, **config: Any) -> dg.ExecuteInProcessResult:
        job = build_definitions().resolve_implicit_global_asset_job_def()
        op = asset_keys.FUTURES.archive.to_python_identifier()
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[asset_keys.FUTURES.archive],
            partition_key=day.isoformat(),
            run_config={"ops": {op: {"config": config}}},
            raise_on_error=False,
        )

    def assert_bars(self, trades: list[Trade], *, complete: bool | dict[str, bool]) -> None:
        """Assert that Silver's first hours hold exactly the bars of these trades.

        `complete` applies between the first and the last minute: the start and end of a file are no evidence.
        """
        expected = reference_bars(trades)
        found = bars(self.settings, MIDNIGHT, HOURS)
        assert found.keys() == expected.keys()
        for key, bar in expected.items():
            assert {name: found[key][name] for name in bar} == bar, key
            of_symbol = [start for _, symbol, start in expected if symbol == key[1]]
            is_inside = min(of_symbol) < key[2] < max(of_symbol)
            is_complete = complete if isinstance(complete, bool) else complete[key[1]]
            assert found[key]["is_complete"] is (is_complete and is_inside), key


@pytest.fixture
def world(lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    directory = tmp_path / "served"
    shutil.copytree(DEMO_CAPTURE_DIR, directory)
    with ServedExchange(directory) as url, dg.DagsterInstance.ephemeral() as instance:
        settings = lake.model_copy(
            update={
                "replay_dir": directory,
                "exchange_rest_url": url,
                "archive_base_url": url,
                "silver_interval_s": 0,
                "kafka_bootstrap_servers": "127.0.0.1:9",
            }
        )
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(StreamResource, "lag", lambda *_: None)
        get_settings.cache_clear()
        yield World(settings, directory, url, instance)


def archived(rows: list[Aggregate]) -> list[Trade]:
    """Return their expected Bronze rows, except for the time of receipt."""
    nothing = {"kafka_partition": None, "kafka_offset": None, "kafka_timestamp": None}
    return [{**row.trade("BTCUSDT"), **nothing} for row in rows]


def by_identity(trades: list[Trade]) -> dict[tuple[Any, ...], Trade]:
    """Return the trades by identity, without the time of receipt; assert that each exists once."""
    found = {}
    for trade in trades:
        key = (trade["exchange"], trade["symbol"], trade["stream"], trade["trade_id"], trade["kafka_offset"] is None)
        assert key not in found
        found[key] = {name: value for name, value in trade.items() if name != "ingest_ts"}
    return found


def test_day_is_loaded_once_with_the_archives_exact_values(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    first = world.load()
    assert (first.outcome, first.rows) == (Outcome.LOADED, len(ROWS))
    assert {outcome.name: outcome.passed for outcome in first.outcomes} == dict.fromkeys(CHECKS_OF_TRADES, True)
    assert by_identity(world.bronze()) == by_identity(archived(ROWS))
    snapshot = load_table(world.settings, FUTURES.trades).metadata.current_snapshot_id
    again = world.load()
    assert (again.outcome, again.rows) == (Outcome.UNCHANGED, len(ROWS))
    assert load_table(world.settings, FUTURES.trades).metadata.current_snapshot_id == snapshot
    reloaded = world.load(reload=True)
    assert (reloaded.outcome, reloaded.rows_removed) == (Outcome.REPLACED, len(ROWS))
    assert by_identity(world.bronze()) == by_identity(archived(ROWS))
    (row,) = read_coverage(world.settings)
    assert (row.symbol, row.stream, row.kafka_partition) == ("BTCUSDT", "aggTrade", None)
    assert (row.connected_from_ms, row.connected_to_ms) == (ROWS[0].time_ms + 1, ROWS[-1].time_ms)
    assert (row.first_id, row.last_id) == (ROWS[0].agg_id, ROWS[-1].agg_id)
    assert (row.evidence, row.source.rpartition("=")[2]) == (Evidence.IDS, first.sha256)
    assert [path for path in world.settings.archive_dir.rglob("*") if path.is_file()] == []


def test_load_writes_one_file_per_hour_with_column_statistics(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    world.load()
    table = load_table(world.settings, FUTURES.trades)
    files = [task.file for task in table.scan().plan_files()]
    assert sorted(file.record_count for file in files) == sorted(
        Counter(row.time_ms // 3_600_000 for row in ROWS).values()
    )
    mark = table.schema().find_field("kafka_offset").field_id
    assert all(file.null_value_counts[mark] == file.record_count for file in files)
    assert len(table.metadata.snapshots) == 1


def test_trades_of_stream_and_archive_are_deduplicated(world: World) -> None:
    live = [row.trade("BTCUSDT") for row in ROWS[200:900]]
    append(world.settings, live)
    world.follow()
    assert {key for key, _ in bars(world.settings, MIDNIGHT, HOURS).items()} == reference_bars(live).keys()
    write_day(world.directory, FILE, ROWS)
    world.load()
    assert len(world.bronze()) == len(ROWS) + len(live)
    assert world.follow(every_hour=True) == {hour_key(MIDNIGHT + timedelta(hours=number)) for number in range(24)}
    world.assert_bars(archived(ROWS), complete=True)
    duplicates = run_sql(
        world.settings, "SELECT max(rows_duplicate) AS maximum FROM cryptolake.ops.run_metrics WHERE rows_in > 0"
    )
    assert duplicates.to_pylist()[0]["maximum"] > 0
    assert run_sql(world.settings, "SELECT * FROM cryptolake.silver.futures_trades_quarantine").num_rows == 0
    # A second time no hour is pending, and a reload changes no bar.
    assert world.follow() == set()
    before = bars(world.settings, MIDNIGHT, HOURS)
    world.load(reload=True)
    world.follow()
    assert bars(world.settings, MIDNIGHT, HOURS) == before
    assert len(world.bronze()) == len(ROWS) + len(live)


def test_reissued_file_replaces_only_its_own_day(world: World) -> None:
    live = [row.trade("BTCUSDT") for row in ROWS[:20]]
    single = [
        {**row.trade("ETHUSDT"), "stream": "trade", "last_trade_id": row.agg_id, "first_trade_id": row.agg_id}
        for row in ROWS[:50]
    ]
    append(world.settings, [*live, *single])
    write_day(world.directory, FILE, ROWS)
    world.load()
    world.follow()
    # The reissue has a changed price, no trades in one minute and in the last hour, and one new trade.
    minute = [row for row in ROWS if not 600_000 <= row.time_ms % 86_400_000 < 660_000]
    issued = [row for row in minute if row.time_ms % 86_400_000 < 2 * 3_600_000]
    issued[300] = Aggregate(**{**vars(issued[300]), "price": "99999.12345678"})
    last = issued[-1]
    issued.append(Aggregate(last.agg_id + 1, "1.5", "2", last.last_id + 1, last.last_id + 1, last.time_ms + 1, True))
    write_day(world.directory, FILE, issued, header=False)
    replaced = world.load()
    assert (replaced.outcome, replaced.rows, replaced.rows_removed) == (Outcome.REPLACED, len(issued), len(ROWS))
    assert by_identity(world.bronze()) == by_identity([*archived(issued), *live, *single])
    world.follow()
    world.assert_bars([*archived(issued), *single], complete={"BTCUSDT": True, "ETHUSDT": False})
    highest = max(bar["high"] for bar in bars(world.settings, MIDNIGHT, HOURS).values())
    assert highest == Decimal("99999.12345678")


def test_reissue_after_compaction_replaces_only_archive_rows(world: World) -> None:
    live = [row.trade("BTCUSDT") for row in ROWS[:400]] + [row.trade("ETHUSDT") for row in ROWS[:100]]
    append(world.settings, live)
    write_day(world.directory, FILE, ROWS)
    world.load()
    table = load_table(world.settings, FUTURES.trades)
    for number in range(HOURS):
        hour = MIDNIGHT + timedelta(hours=number)
        window = between("event_time", hour, hour + timedelta(hours=1))
        replace_files(table, window, table.scan(row_filter=window).to_arrow())
        table = table.refresh()
    assert len(list(table.scan().plan_files())) == HOURS
    issued = [Aggregate(**{**vars(row), "qty": "7.5"}) for row in ROWS[:1_200]]
    write_day(world.directory, FILE, issued)
    replaced = world.load()
    assert replaced.rows_removed == len(ROWS)
    assert by_identity(world.bronze()) == by_identity([*archived(issued), *live])


def test_invalid_file_is_rejected_and_loaded_data_stays(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    world.load()
    world.follow()
    before, published = by_identity(world.bronze()), bars(world.settings, MIDNIGHT, HOURS)
    write_zip(world.directory, FILE, "1,1,1,1,1,1721260800000,true\n", checksum="ab" * 32)
    with pytest.raises(ArchiveChecksumError, match="previously loaded data is unchanged"):
        world.load()
    write_zip(world.directory, FILE, "1,1.123456789,1,1,1,1721260800000,true\n")
    with pytest.raises(ArchiveFormatError, match="no line is an aggregate trade; line 1 is"):
        world.load()
    # A file with trades of another day only, and a file without trades.
    write_day(world.directory, FILE, aggregates(date(2024, 7, 19), 3, first_id=90_000))
    rejected = world.load()
    assert (rejected.outcome, rejected.rows) == (Outcome.REJECTED, 0)
    failed = {item.name: item.failing_count for item in rejected.outcomes if not item.passed}
    assert failed["within_the_day"] == 3
    write_day(world.directory, FILE, [])
    assert world.load().outcome is Outcome.REJECTED
    assert by_identity(world.bronze()) == before
    world.follow()
    assert bars(world.settings, MIDNIGHT, HOURS) == published
    warehouse = world.settings.home / "warehouse"
    referenced = {
        Path(task.file.file_path).name for task in load_table(world.settings, FUTURES.trades).scan().plan_files()
    }
    assert {path.name for path in warehouse.glob("bronze/futures_trades/data/**/*.parquet")} == referenced


def test_interrupted_load_resumes(world: World) -> None:
    size = write_day(world.directory, FILE, ROWS).stat().st_size
    with TruncatingProxy(world.url, [size // 2, 1, 1, 1, 1]) as proxy, pytest.raises(ExchangeError, match="resumes"):
        world.load(url=proxy.url)
    assert world.bronze() == []
    with TruncatingProxy(world.url, []) as proxy:
        assert world.load(url=proxy.url).outcome is Outcome.LOADED
        assert [text for text in proxy.sent if "Range: bytes=" in text]
    assert by_identity(world.bronze()) == by_identity(archived(ROWS))


def test_crash_after_the_commit_duplicates_no_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_day(world.directory, FILE, ROWS)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(archive, "write_rejected_lines", crash)
        with pytest.raises(KeyboardInterrupt):
            world.load()
    (row,) = read_coverage(world.settings)
    assert row.kafka_partition == LOADING
    # The trades are stored, but their minutes are not complete yet.
    world.follow()
    world.assert_bars(archived(ROWS), complete=False)
    assert world.load().outcome is Outcome.REPLACED
    assert by_identity(world.bronze()) == by_identity(archived(ROWS))
    world.follow()
    world.assert_bars(archived(ROWS), complete=True)


def test_coverage_of_an_earlier_issue_is_removed_before_its_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_day(world.directory, FILE, ROWS)
    world.load()
    world.follow()
    proven = set(read_coverage(world.settings))
    with_gap = [row for row in ROWS if not 100 <= row.agg_id - ROWS[0].agg_id < 110]
    write_day(world.directory, FILE, with_gap)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    def lose_the_commit(*_: object) -> None:
        raise CommitFailedException("another writer was faster")

    with monkeypatch.context() as patched:
        patched.setattr(archive, "replace_day", lose_the_commit)
        with pytest.raises(CommitFailedException):
            world.load()
    assert set(read_coverage(world.settings)) == proven, (
        "the old rows and their coverage stay until the replacement is committed"
    )
    with monkeypatch.context() as patched:
        patched.setattr(archive, "write_rejected_lines", crash)
        with pytest.raises(KeyboardInterrupt):
            world.load()
    world.follow()
    minutes = {ROWS[index].time_ms // 60_000 * 60_000 for index in range(100, 110)}
    found = bars(world.settings, MIDNIGHT, HOURS)
    affected = [bar for bar in found.values() if round(bar["window_start"].timestamp() * 1000) in minutes]
    assert affected
    assert {bar["is_complete"] for bar in affected} == {False}
    assert world.load().outcome is Outcome.REPLACED


def test_minutes_around_missing_ids_stay_incomplete(world: World) -> None:
    with_gap = [row for row in ROWS if not 100 <= row.agg_id - ROWS[0].agg_id < 110]
    write_day(world.directory, FILE, with_gap)
    loaded = world.load()
    (warned,) = [item for item in loaded.outcomes if not item.passed]
    assert (warned.name, warned.failing_count) == ("ids_consecutive", 10)
    world.follow()
    around = range(99 * 7_001 // 60_000, 110 * 7_001 // 60_000 + 1)
    found = bars(world.settings, MIDNIGHT, HOURS)
    incomplete = {start for (_, _, start), bar in found.items() if not bar["is_complete"]}
    bounds = {min(start for *_, start in found), max(start for *_, start in found)}
    assert incomplete - bounds <= {MIDNIGHT + timedelta(minutes=number) for number in around}
    assert incomplete - bounds


def test_file_with_too_many_gaps_is_loaded_but_completes_no_minute(world: World) -> None:
    with_gap = [replace(row, agg_id=number * 2) for number, row in enumerate(ROWS[: MAX_GAPS + 2])]
    write_day(world.directory, FILE, with_gap)
    loaded = world.load()
    assert [item.name for item in loaded.outcomes if not item.passed] == ["ids_consecutive"]
    world.follow()
    world.assert_bars(archived(with_gap), complete=False)
    assert world.load().outcome is Outcome.UNCHANGED
    write_day(world.directory, FILE, ROWS[:100])
    assert world.load().outcome is Outcome.REPLACED
    world.follow()
    world.assert_bars(archived(ROWS[:100]), complete=True)


def test_single_trades_and_aggregates_are_never_mixed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryptolake_assets.transform.load_inputs.committed_offsets", lambda *_: {0: 10**9})
    single = [
        {**row.trade("BTCUSDT"), "stream": "trade", "trade_id": number, "qty": Decimal("5")}
        for number, row in enumerate(ROWS[:100])
    ]
    append(world.settings, single)
    minute_ms = ROWS[0].time_ms
    IcebergCoverageSink(world.settings).write(
        [CoverageRow("binance_futures", "BTCUSDT", "trade", minute_ms, minute_ms + 62_000, 0, 1, "ws://replay")]
    )
    write_day(world.directory, FILE, ROWS)
    world.load()
    world.follow()
    found = bars(world.settings, MIDNIGHT, HOURS)
    # The minute covered by the stream is made of single trades, the others of archive trades.
    of_archive, of_stream = reference_bars(archived(ROWS)), reference_bars(single)
    first = ("binance_futures", "BTCUSDT", MIDNIGHT)
    assert {(key == first, bar["stream"]) for key, bar in found.items()} == {(True, "trade"), (False, "aggTrade")}
    assert found[first]["volume"] == of_stream[first]["volume"]
    assert {key: bar["volume"] for key, bar in found.items() if key != first} == {
        key: bar["volume"] for key, bar in of_archive.items() if key != first
    }
    incomplete = [start for (_, _, start), bar in found.items() if not bar["is_complete"]]
    assert incomplete == [max(start for *_, start in found)], "the end of a file is no evidence"


def test_coverage_of_producer_and_archive_is_independent(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    world.load()
    row = CoverageRow(
        "binance_futures", "BTCUSDT", "aggTrade", ROWS[0].time_ms, ROWS[0].time_ms + 9_000, 1, 5, "ws://x"
    )
    IcebergCoverageSink(world.settings).write([row])
    assert len(read_coverage(world.settings)) == 2
    world.load(reload=True)
    found = read_coverage(world.settings)
    assert row in found
    assert sum(item.of_archive for item in found) == 1


def test_recorded_coin_m_day_is_loaded_and_aggregated(world: World) -> None:
    for suffix in ("", ".CHECKSUM"):
        shutil.copy(RECORDED / f"{COIN.name}{suffix}", world.directory)
    loaded = world.load(COIN)
    assert (loaded.outcome, loaded.rows) == (Outcome.LOADED, 105_280)
    assert {outcome.name: outcome.passed for outcome in loaded.outcomes} == dict.fromkeys(CHECKS_OF_TRADES, True)
    first = datetime(2026, 5, 8, tzinfo=UTC)
    candidates = rebuild(world.settings, DuckDBEngine(world.settings), first, first + timedelta(days=1))
    assert [candidate.passed for candidate in candidates] == [True] * 24
    found = bars(world.settings, first, 24)
    assert len(found) == 1_437
    incomplete = sorted(start for (_, _, start), bar in found.items() if not bar["is_complete"])
    assert incomplete == [first, first + timedelta(minutes=1_439)], "start and end of a file are no evidence"
    assert sum(bar["trades"] for bar in found.values()) == 240_198
    assert found == {key: {**found[key], **bar} for key, bar in reference_bars(world.bronze()).items()}


def test_day_before_the_start_date_is_rejected(world: World) -> None:
    with pytest.raises(ArchiveRangeError, match="CRYPTOLAKE_START_DATE=2024-07-17"):
        world.load(ArchiveFile("BTCUSDT", date(2024, 7, 17)))


def test_asset_reports_loaded_missing_and_rejected_files(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    write_klines(world.directory, kline_file("BTCUSDT", DAY), klines_without_trades(DAY, 1_440))
    done = world.materialize(DAY)
    assert done.success
    (event,) = done.asset_materializations_for_node(asset_keys.FUTURES.archive.to_python_identifier())
    assert event.partition == DAY.isoformat()
    assert event.metadata["dagster/row_count"].value == len(ROWS)
    assert event.metadata["klines"].value == 1_440
    assert "ETHUSDT-aggTrades-2024-07-18.zip" in str(event.metadata["not_published"].value)
    evaluations = {item.check_name: item for item in done.get_asset_check_evaluations()}
    assert evaluations.keys() == {*CHECKS_OF_TRADES, "klines_of_the_day"}
    assert all(item.passed and item.partition == DAY.isoformat() for item in evaluations.values())

    write_zip(world.directory, FILE, "1,1,1,1,1,1721260800000,true\n", checksum="ab" * 32)
    rejected = world.materialize(DAY, symbols=["btcusdt"])
    assert not rejected.success
    assert rejected.asset_materializations_for_node(asset_keys.FUTURES.archive.to_python_identifier()) == []
    failed = {item.check_name for item in rejected.get_asset_check_evaluations() if not item.passed}
    assert failed == {"checksum"}
    assert by_identity(world.bronze()) == by_identity(archived(ROWS))
    assert not world.materialize(DAY, symbols=["ETHUSDT"]).success


def test_command_loads_a_range_and_prints_a_table(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    following = date(2024, 7, 19)
    write_day(world.directory, ArchiveFile("BTCUSDT", following), aggregates(following, 10, first_id=50_000))
    arguments = ["archive", "--symbol", "BTCUSDT", "--from", "2024-07-18", "--to", "2024-07-19"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("loaded") >= 2
    assert f"{len(ROWS)}" in done.output
    assert CliRunner().invoke(cli.app, arguments).output.count("unchanged") == 2
    missing = CliRunner().invoke(cli.app, [*arguments[:-1], "2024-07-20"])
    assert missing.exit_code == 1
    assert "missing" in missing.output
    assert "published some hours after the day has ended" in missing.output


def test_files_have_the_tables_columns_and_types(world: World) -> None:
    write_day(world.directory, FILE, ROWS)
    world.load()
    tasks = list(load_table(world.settings, FUTURES.trades).scan().plan_files())
    assert len(tasks) == len({row.time_ms // 3_600_000 for row in ROWS}), "one file per hour"
    for task in tasks:
        found = pq.read_schema(Path(local_path(task.file.file_path)))
        # Types as read by DuckDB and Spark; PyIceberg's schema has large strings.
        expected_types = {field.name: str(field.type).removeprefix("large_") for field in FUTURES.trades.arrow_schema()}
        assert {field.name: str(field.type) for field in found} == expected_types
