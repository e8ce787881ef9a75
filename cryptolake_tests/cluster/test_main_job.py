"""The main job on a cluster: replay → Kafka → Bronze on S3 by the REST catalog → Silver and Gold on Spark → dbt → API,
with Dagster on PostgreSQL. Meanwhile the Bronze stream is killed and a worker is lost."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import pytest
from pyarrow.fs import FileSelector

from cryptolake_assets.binance.rest import ExchangeRest
from cryptolake_assets.bronze.offsets import bronze_lag
from cryptolake_assets.client import ohlcv
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.files import open_filesystem
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.reconciliation import Verdict, compare
from cryptolake_assets.settings import Engine, Settings
from cryptolake_assets.transform.engines.spark_engine import SparkEngine
from cryptolake_tests.support.commands import cryptolake
from cryptolake_tests.support.natives import Cluster
from cryptolake_tests.support.silver_runs import rebuild
from cryptolake_tests.support.waiting import wait_for

COMMAND_TIMEOUT_S = 560
FRAMES = 24_356  # trades of the shipped capture
OFFICIAL_BARS = 14
HOURS = (datetime(2024, 7, 18, 23, tzinfo=UTC), datetime(2024, 7, 19, 1, tzinfo=UTC))  # of the capture's trades


def frames_sent(settings: Settings) -> int:
    response = httpx.get(f"http://127.0.0.1:{settings.exchange_port}/replay/status", timeout=10, trust_env=False)
    return int(response.json()["frames_sent"])


def kill_bronze(settings: Settings) -> None:
    """Kill the Bronze stream (kill -9) and wait until the supervisor has restarted it."""
    pid = Supervisor(settings).processes()[BRONZE].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: Supervisor(settings).processes()[BRONZE].pid not in (None, 0, pid), timeout_s=120)


@dataclass(frozen=True)
class Outcome:
    """The result of the main job."""

    settings: Settings
    rows_after_crashes: int
    trades_after_crashes: int


@pytest.fixture(scope="module")
def outcome(cluster: Cluster) -> Outcome:
    """Replay while the Bronze stream and a worker are killed; then run `cryptolake demo`, which replays again and waits
    for Silver and Gold, and build the marts."""
    settings = cluster.settings
    # The first subscription starts the replay, so start the parts that are killed first.
    lifecycle.up(settings, [KAFKA, SPARK, EXCHANGE, BRONZE])
    lifecycle.up(settings, [KAFKA, SPARK, EXCHANGE, BRONZE, PRODUCER])
    wait_for(lambda: frames_sent(settings) > FRAMES / 4, timeout_s=120)
    kill_bronze(settings)
    wait_for(lambda: frames_sent(settings) > FRAMES / 2, timeout_s=120)
    cluster.spark.workers[0].kill()
    wait_for(lambda: frames_sent(settings) == FRAMES, timeout_s=180)
    wait_for(lambda: bronze_lag(settings) == 0, timeout_s=240)
    trades = load_table(settings, FUTURES.trades).scan(selected_fields=("symbol", "trade_id")).to_arrow()
    distinct = set(zip(*(column.to_pylist() for column in trades.columns), strict=True))
    cluster.spark.add_worker()
    assert settings.dashboard_url in cryptolake(settings, "demo", timeout_s=COMMAND_TIMEOUT_S)
    cryptolake(settings, "dbt", "build", timeout_s=COMMAND_TIMEOUT_S)
    return Outcome(settings, trades.num_rows, len(distinct))


def test_killed_stream_and_lost_worker_neither_lose_nor_duplicate_trades(outcome: Outcome) -> None:
    assert outcome.trades_after_crashes == FRAMES
    assert outcome.rows_after_crashes == FRAMES


def test_tables_and_checkpoints_are_in_their_buckets(outcome: Outcome) -> None:
    for table in (FUTURES.trades, FUTURES.bars, FUTURES.daily):
        location = load_table(outcome.settings, table).location()
        assert location.startswith(f"s3://{table.namespace}/"), location
    filesystem, path = open_filesystem(outcome.settings, outcome.settings.checkpoint_location)
    assert filesystem.get_file_info(FileSelector(path, recursive=True))


def test_spark_built_silver(outcome: Outcome) -> None:
    assert outcome.settings.engine_in_use is Engine.SPARK


def test_bars_read_through_the_api_equal_the_official_klines(outcome: Outcome) -> None:
    found: list[Verdict] = []
    with ExchangeRest(outcome.settings.rest_url) as exchange:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            for bar in ohlcv(symbol, frame="arrow", url=outcome.settings.api_url).to_pylist():
                open_ms = epoch_ms(bar["window_start"])
                (kline,) = exchange.klines(symbol, "1m", open_ms, open_ms)
                found.append(compare(bar, kline).verdict)
    assert found.count(Verdict.EQUAL) == OFFICIAL_BARS
    assert Verdict.DIFFERS not in found


def test_sql_command_reads_the_store(outcome: Outcome) -> None:
    """In a separate process: this one has configured the store already."""
    query = "SELECT count(DISTINCT (symbol, trade_id)) AS trades FROM cryptolake.bronze.futures_trades"
    output = cryptolake(outcome.settings, "sql", "--format", "csv", query, timeout_s=120)
    assert output.split() == ["trades", str(FRAMES)]


def test_dbt_built_the_marts(outcome: Outcome) -> None:
    fives = ohlcv("BTCUSDT", "5m", frame="arrow", url=outcome.settings.api_url)
    ones = ohlcv("BTCUSDT", frame="arrow", url=outcome.settings.api_url)
    assert sum(fives["trades"].to_pylist()) == sum(ones["trades"].to_pylist())


def test_dagster_stores_its_runs_in_postgresql(outcome: Outcome) -> None:
    import psycopg2

    with psycopg2.connect(outcome.settings.dagster_database.get_secret_value()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM runs WHERE status = 'SUCCESS'")
        ((runs,),) = cursor.fetchall()
    assert runs > 0


def active_tasks(settings: Settings) -> int:
    """Return the number of active tasks of Spark's executors, from Spark's REST API."""
    base = f"http://127.0.0.1:{settings.spark_ui_port}/api/v1/applications"
    ((application, *_),) = [httpx.get(base, timeout=10, trust_env=False).json()]
    executors = httpx.get(f"{base}/{application['id']}/executors", timeout=10, trust_env=False).json()
    return sum(executor["activeTasks"] for executor in executors)


def test_worker_lost_during_a_silver_run_loses_no_bar(outcome: Outcome, cluster: Cluster) -> None:
    settings = outcome.settings
    lifecycle.stop(settings, BRONZE)  # so that the only active tasks are those of the Silver run
    before = silver_bars(settings)

    session = connect(settings)

    def rebuilt() -> bool:
        engine = SparkEngine(settings, session)
        return all(result.passed for result in rebuild(settings, engine, *HOURS))

    with ThreadPoolExecutor(1) as pool:
        wait_for(lambda: active_tasks(settings) == 0)
        run = pool.submit(rebuilt)
        wait_for(lambda: run.done() or active_tasks(settings) > 0, poll_s=0.02)
        cluster.spark.workers[1].kill()
        assert not run.done()
        assert run.result()
    assert silver_bars(settings) == before
    assert len(before) == 18


def silver_bars(settings: Settings) -> list[dict[str, object]]:
    """Return all bars without the columns that differ between runs."""
    rows = run_sql(settings, "SELECT * FROM cryptolake.silver.futures_ohlcv_1m ORDER BY symbol, window_start")
    return [{name: value for name, value in row.items() if name != "updated_at"} for row in rows.to_pylist()]
