"""Archive rows and Spark: its engine reads them, and compaction merges them with the stream's rows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
from cryptolake_assets.ingest.archive_days import Outcome, load_day
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import change_archive_rows
from cryptolake_assets.lake.filters import between
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import DAY, HOUR
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.engines.spark_engine import SparkEngine
from cryptolake_tests.support.archives import aggregates, write_day
from cryptolake_tests.support.bronze import append
from cryptolake_tests.support.compacting import compact
from cryptolake_tests.support.served import ServedExchange
from cryptolake_tests.support.silver_runs import rebuild
from cryptolake_tests.support.sockets import numbered_capture

FILE = ArchiveFile("BTCUSDT", date(2024, 7, 25))
"""Older than the newest data of other tests on the same lake."""
START = datetime(2024, 7, 25, tzinfo=UTC)
ROWS = aggregates(FILE.day, 1_500)

pytestmark = pytest.mark.filterwarnings("ignore:Parquet writer option:UserWarning")


def test_engines_agree_on_archive_rows_and_a_reload_after_compaction_replaces_only_them(
    settings: Settings, tmp_path: Path
) -> None:
    append(settings, [row.trade("BTCUSDT") for row in ROWS[:300]])
    directory = numbered_capture(tmp_path / "served", 3, 10)
    write_day(directory, FILE, ROWS)
    session = connect(settings)
    try:
        with ServedExchange(directory) as url, ArchiveClient(url) as client:
            assert load_day(settings, client, FILE, "test").outcome is Outcome.LOADED
            hours = [START + number * HOUR for number in range(3)]
            candidates = [
                rebuild(settings, engine, START, START + 3 * HOUR)
                for engine in (DuckDBEngine(settings), SparkEngine(settings, session))
            ]
            assert [[candidate.hour for candidate in made] for made in candidates] == [hours, hours]
            for ours, theirs in zip(*candidates, strict=True):
                assert ours.passed
                assert theirs.passed
                assert ours.bars.num_rows
                assert ours.bars.sort_by("window_start").equals(theirs.bars.sort_by("window_start"))
            done = compact(settings, session, START, START + timedelta(hours=3))
            assert (done.files_after, done.rows) == (3, len(ROWS) + 300)
            write_day(directory, FILE, ROWS[:1_000])
            replaced = load_day(settings, client, FILE, "test")
            assert (replaced.outcome, replaced.rows_removed) == (Outcome.REPLACED, len(ROWS))
    finally:
        session.stop()
        # Followers of Bronze in other tests must not see a loaded day.
        change_archive_rows(settings, FILE.venue.exchange, FILE.symbol, lambda _: [])
    remaining = (
        load_table(settings, FUTURES.trades).scan(row_filter=between("event_time", START, START + DAY)).to_arrow()
    )
    of_archive = [row for row in remaining.to_pylist() if row["kafka_offset"] is None]
    assert (remaining.num_rows, len(of_archive)) == (1_300, 1_000)
    assert {row["trade_id"] for row in of_archive} == {row.agg_id for row in ROWS[:1_000]}
