"""Compaction on the real Spark server: rows stay, files are merged and sorted, and followers see no new data.

Each test uses its own day in the shared table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from cryptolake_assets.lake.bronze_files import BronzeFile, added_files, current_sequence, files_between, local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.maintenance import compaction, manifests
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.compacting import compact

_days = count(1)
KEY = ("exchange", "symbol", "event_time", "trade_id")
MARKETS = {"BTCUSDT": "binance_futures", "ADAUSD_PERP": "binance_futures_coin"}

pytestmark = pytest.mark.filterwarnings("ignore:Parquet writer option:UserWarning")


@pytest.fixture
def hour() -> datetime:
    """An hour of a day that no other test uses."""
    return datetime(2025, 3, 1, 10, tzinfo=UTC) + timedelta(days=next(_days))


@pytest.fixture(scope="module")
def spark(platform: Settings) -> Iterator[SparkSession]:
    session = connect(platform)
    yield session
    session.stop()


def arrivals(hour: datetime, seed: int) -> list[dict[str, Any]]:
    """Return 300 trades of a symbol of each market in random order, 20 of them twice."""
    source = random.Random(seed)  # noqa: S311  not for secrets
    trades = [
        trade(
            hour + timedelta(milliseconds=source.randrange(3_600_000)),
            number,
            symbol=(symbol := source.choice(list(MARKETS))),
            exchange=MARKETS[symbol],
            price=f"{source.randrange(1, 10**9)}.{source.randrange(10**8):08d}",
            kafka_offset=number,
        )
        for number in range(300)
    ]
    trades += source.sample(trades, 20)
    source.shuffle(trades)
    return trades


def append_in_batches(settings: Settings, trades: list[dict[str, Any]], batches: int = 5) -> int:
    """Append the trades in one commit per batch; return the last sequence number."""
    return [append(settings, trades[number::batches]) for number in range(batches)][-1]


def files(settings: Settings, hour: datetime) -> list[BronzeFile]:
    table = load_table(settings, FUTURES.trades)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return files_between(table, snapshot.snapshot_id, hour, hour + HOUR)


def rows(settings: Settings, hour: datetime) -> list[dict[str, Any]]:
    """Return all columns of the hour's rows, including duplicates, in a fixed order."""
    end = hour + HOUR
    found = run_sql(
        settings,
        "SELECT * FROM cryptolake.bronze.futures_trades "
        f"WHERE event_time >= '{hour.isoformat()}' AND event_time < '{end.isoformat()}' ORDER BY ALL",
    )
    return list(found.to_pylist())


def test_hour_is_compacted_into_one_sorted_file_and_neighbours_stay(
    platform: Settings, spark: SparkSession, hour: datetime
) -> None:
    trades = arrivals(hour, 1)
    for start in (hour - HOUR, hour, hour + HOUR):
        append_in_batches(platform, [{**row, "event_time": row["event_time"] - hour + start} for row in trades])
    before = rows(platform, hour)
    neighbours = [files(platform, start) for start in (hour - HOUR, hour + HOUR)]
    assert [len(found) for found in neighbours] == [5, 5]

    result = compact(platform, spark, hour, hour + HOUR)

    assert (result.files_before, result.files_after, result.rows) == (5, 1, 320)
    assert 0 < result.bytes_after < result.bytes_before
    assert rows(platform, hour) == before
    (file,) = files(platform, hour)
    assert [files(platform, start) for start in (hour - HOUR, hour + HOUR)] == neighbours
    keys = [tuple(row[name] for name in KEY) for row in pq.read_table(local_path(file.path)).to_pylist()]
    assert all(earlier <= later for earlier, later in pairwise(keys))
    assert len(keys) == 320


def test_follower_sees_a_compacted_hour_only_if_it_had_not_read_it(
    platform: Settings, spark: SparkSession, hour: datetime
) -> None:
    cursor = append_in_batches(platform, arrivals(hour, 2))
    compact(platform, spark, hour, hour + HOUR)
    table = load_table(platform, FUTURES.trades)
    assert current_sequence(table) > cursor
    assert added_files(table, cursor) == []
    assert {file.hour for file in added_files(table, cursor - 1)} == {hour}
    late = append(platform, [trade(hour, 900)])
    table = load_table(platform, FUTURES.trades)
    assert [(file.hour, file.rows, file.sequence) for file in added_files(table, cursor)] == [(hour, 1, late)]


def test_second_compaction_changes_nothing_until_a_late_file_arrives(
    platform: Settings, spark: SparkSession, hour: datetime
) -> None:
    append_in_batches(platform, arrivals(hour, 3))
    compact(platform, spark, hour, hour + HOUR)
    (first,) = files(platform, hour)
    head = current_sequence(load_table(platform, FUTURES.trades))
    again = compact(platform, spark, hour, hour + HOUR)
    assert (again.files_before, again.files_after) == (1, 1)
    assert files(platform, hour) == [first]
    assert current_sequence(load_table(platform, FUTURES.trades)) == head
    append(platform, [trade(hour, 901)])
    third = compact(platform, spark, hour, hour + HOUR)
    assert (third.files_before, third.files_after, third.rows) == (2, 1, 321)


def test_old_snapshots_stay_readable(platform: Settings, spark: SparkSession, hour: datetime) -> None:
    append_in_batches(platform, arrivals(hour, 4))
    table = load_table(platform, FUTURES.trades)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    compact(platform, spark, hour, hour + HOUR)
    old = spark.sql(
        f"SELECT count(*) AS number FROM {FUTURES.trades.full_name} VERSION AS OF {snapshot.snapshot_id} "
        f"WHERE event_time >= '{hour.isoformat()}' AND event_time < '{(hour + HOUR).isoformat()}'"
    ).collect()
    assert old[0]["number"] == 320


def test_large_hour_has_several_row_groups_that_every_reader_reads(
    platform: Settings, spark: SparkSession, hour: datetime
) -> None:
    number = 2 * compaction.ROW_GROUP_ROWS + 10
    start = int(hour.timestamp()) * 1_000_000
    ids = pa.array(range(number))
    # Nearly all prices differ, so Parquet cannot use a dictionary.
    source = random.Random(5)  # noqa: S311
    digits = [f"{source.randrange(1, 10**6)}.{source.randrange(10**8):08d}" for _ in range(number)]
    prices = pa.array(digits).cast(pa.decimal128(18, 8))
    times = pa.array([start + index * 16_000 for index in range(number)]).cast(pa.timestamp("us", "UTC"))
    constant = trade(hour, 1)
    columns = {name: pa.repeat(pa.scalar(constant[name]), number) for name in FUTURES.trades.column_names}
    columns |= {"event_time": times, "price": prices, "trade_id": ids, "first_trade_id": ids, "last_trade_id": ids}
    columns |= {"qty": prices}
    table = pa.table(columns).cast(FUTURES.trades.arrow_schema())
    bronze = load_table(platform, FUTURES.trades)
    for part in (table.slice(0, number // 2), table.slice(number // 2)):
        bronze.append(part)
    compact(platform, spark, hour, hour + HOUR)
    (file,) = files(platform, hour)
    metadata = pq.ParquetFile(local_path(file.path)).metadata
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [compaction.ROW_GROUP_ROWS, compaction.ROW_GROUP_ROWS, 10]
    totals = "count(*) AS number, sum(price) AS price, max(qty) AS qty, sum(last_trade_id) AS ids, "
    totals += "max(event_time) AS latest, max(kafka_timestamp) AS kafka, min(side) AS side"
    sql = (
        f"SELECT {totals} FROM cryptolake.bronze.futures_trades "
        f"WHERE event_time >= '{hour.isoformat()}' AND event_time < '{(hour + HOUR).isoformat()}'"
    )
    expected = {
        "number": number,
        "price": pa.compute.sum(prices.cast(pa.decimal128(38, 8))).as_py(),
        "qty": pa.compute.max(prices).as_py(),
        "ids": number * (number - 1) // 2,
        "latest": hour + timedelta(milliseconds=16 * (number - 1)),
        "kafka": hour,
        "side": "buy",
    }
    assert run_sql(platform, sql).to_pylist() == [expected]
    assert run_sql(platform, sql, "spark").to_pylist() == [expected]


def test_manifests_are_merged_without_new_files_for_the_follower(
    platform: Settings, spark: SparkSession, hour: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 3)
    # One file in each of many hours: nothing to compact, one manifest each.
    cursor = max(append(platform, [trade(hour - number * HOUR, number)]) for number in range(8))
    before = rows(platform, hour)
    compact(platform, spark, hour, hour + HOUR)
    table = load_table(platform, FUTURES.trades)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert len(snapshot.manifests(table.io)) <= 3
    assert added_files(table, cursor) == []
    assert rows(platform, hour) == before
