"""Writers whose table another process changes meanwhile: they continue on the new state."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem
from pyspark.errors.exceptions.base import PySparkException

from cryptolake_assets.lake import files
from cryptolake_assets.lake.archive_rows import replace_day
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import data_files, set_properties
from cryptolake_assets.lake.files import read_text, write_text
from cryptolake_assets.lake.maintenance.compaction import LAYOUT, _set_layout, call_procedure
from cryptolake_assets.lake.maintenance.expiry import expire, history_of
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.archives import aggregates
from cryptolake_tests.support.bronze import append, trade

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = date(2024, 7, 18)
START = datetime.fromisoformat("2024-07-18T00:00:00+00:00")


def test_properties_are_set_after_a_commit_of_another_writer(lake: Settings) -> None:
    table = load_table(lake, FUTURES.trades)
    append(lake, [trade(START, 1)])
    set_properties(table, {"one": "1"})
    found = load_table(lake, FUTURES.trades)
    assert found.properties["one"] == "1"
    assert found.scan().to_arrow().num_rows == 1


def test_compaction_sets_the_layout_beside_the_stream(lake: Settings) -> None:
    table = load_table(lake, FUTURES.trades)
    append(lake, [trade(START, 1)])
    _set_layout(table)
    assert LAYOUT.items() <= load_table(lake, FUTURES.trades).properties.items()


def test_archive_day_replaces_rows_although_its_first_snapshot_has_expired(lake: Settings) -> None:
    append(lake, [trade(START + timedelta(hours=1), 1)])
    table = load_table(lake, FUTURES.trades)
    append(lake, [trade(START + timedelta(hours=1), 2)])
    current = load_table(lake, FUTURES.trades)
    expire(current, lambda found: [version.snapshot_id for version in history_of(found)[:-1]])
    (line,) = aggregates(DAY, 1)
    rows = [line.trade("BTCUSDT", kafka_partition=None, kafka_offset=None, kafka_timestamp=None)]
    archived = pa.Table.from_pylist(rows, FUTURES.trades.arrow_schema())
    replace_day(table, "binance_futures", "BTCUSDT", DAY, list(data_files(table, archived)), {})
    found = load_table(lake, FUTURES.trades).scan().to_arrow()
    assert sorted(found["trade_id"].to_pylist()) == [1, 2, line.agg_id]


def test_last_of_two_writers_of_a_small_file_wins(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    location = f"{lake.warehouse_location}/_maintenance/x.json"

    class Interrupted:
        """Files whose first move waits until another writer has written the same file."""

        moves = 0

        def __getattr__(self, name: str) -> object:
            return getattr(LocalFileSystem(), name)

        def move(self, source: str, target: str) -> None:
            Interrupted.moves += 1
            if Interrupted.moves == 1:
                write_text(lake, location, "second")
            LocalFileSystem().move(source, target)

    monkeypatch.setattr(files, "open_filesystem", lambda _, place: (Interrupted(), place.removeprefix("file://")))
    write_text(lake, location, "first")
    assert read_text(lake, location) == "first"
    directory = lake.home / "warehouse" / "_maintenance"
    assert [path.name for path in directory.iterdir()] == ["x.json"]


class ExpiringSpark:
    """A session whose first call reads a file that another process deletes."""

    def __init__(self) -> None:
        self.calls = 0

    def sql(self, _: str) -> ExpiringSpark:
        self.calls += 1
        if self.calls == 1:
            raise PySparkException("org.apache.iceberg.exceptions.NotFoundException: Failed to open input stream")
        return self

    def collect(self) -> list[str]:
        return ["row"]


def test_procedure_whose_files_expire_is_called_again() -> None:
    spark = ExpiringSpark()
    assert call_procedure(cast("SparkSession", spark), FUTURES.trades, "CALL remove_orphan_files") == ["row"]
    assert spark.calls == 2
