"""kill -9 of the broker, of Spark with the Bronze stream, and of the producer, in the middle of a replay.

Each test has a platform of its own, without Dagster: Silver is refreshed here, once, when all is in Bronze.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cryptolake_assets.exchange.rest import ExchangeRest
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.windows import HOUR
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings
from cryptolake_assets.stream.progress import bronze_lag, read_report
from cryptolake_assets.transform import refresh_silver
from cryptolake_assets.transform.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.ohlcv import epoch_ms
from cryptolake_assets.transform.reconcile import Verdict, compare
from cryptolake_tests.waiting import wait_for

from .conftest import settings_for, stop_spark_session

FRAMES = 24_356
HOURS = (datetime(2024, 7, 18, 23, tzinfo=UTC), datetime(2024, 7, 19, 0, tzinfo=UTC))
SPEED = 16.0
"""The capture's eight minutes take thirty seconds: room for a crash in the middle."""


@pytest.fixture
def replaying(tmp_path: Path) -> Iterator[Settings]:
    """A platform that replays the shipped capture and is about a third through it."""
    settings = settings_for(
        tmp_path, replay_speed=SPEED, bronze_trigger_s=2.0, coverage_interval_s=1.0, spark_memory_mb=1536
    )
    try:
        # The replay begins with the first subscription: everything else is up by then.
        lifecycle.up(settings, [KAFKA, SPARK, EXCHANGE, BRONZE])
        lifecycle.up(settings, [KAFKA, SPARK, EXCHANGE, BRONZE, PRODUCER])
        wait_for(lambda: replay(settings)["frames_sent"] > FRAMES / 3, timeout_s=120)
        yield settings
    finally:
        stop_spark_session()
        lifecycle.down(settings)


def replay(settings: Settings) -> dict[str, Any]:
    answer = httpx.get(f"http://127.0.0.1:{settings.exchange_port}/replay/status", timeout=10, trust_env=False)
    return dict(answer.json())


def kill(settings: Settings, part: str) -> None:
    """kill -9 of the part's process, as the supervisor knows it."""
    pid = Supervisor(settings).processes()[part].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: Supervisor(settings).processes()[part].pid not in (None, 0, pid), timeout_s=120)


def produced(settings: Settings) -> dict[str, Any]:
    return dict(json.loads((settings.run_dir / "producer.json").read_text()))


def wait_until_all_is_in_bronze(settings: Settings) -> None:
    wait_for(lambda: replay(settings)["state"] == "finished", timeout_s=120)
    wait_for(lambda: not produced(settings)["in_flight"] and not produced(settings)["queued_frames"], timeout_s=120)
    end_ms = replay(settings)["last_event_time_ms"]
    wait_for(
        lambda: (
            {row.symbol for row in read_coverage(settings) if row.connected_to_ms >= end_ms} == {"BTCUSDT", "ETHUSDT"}
        ),
        timeout_s=60,
    )
    wait_for(lambda: bronze_lag(settings) == 0, timeout_s=180)


def refreshed_bars(settings: Settings) -> list[dict[str, Any]]:
    for candidate in refresh_silver.rebuild(settings, DuckDBEngine(settings), HOURS[0], HOURS[-1] + HOUR, "test"):
        assert candidate.passed
    rows: list[dict[str, Any]] = run_sql(settings, "SELECT * FROM cryptolake.silver.futures_ohlcv_1m").to_pylist()
    return rows


def verdicts(settings: Settings, bars: list[dict[str, Any]]) -> list[Verdict]:
    """Each bar beside the official kline of its minute."""
    found = []
    with ExchangeRest(settings.rest_url) as exchange:
        for bar in bars:
            open_ms = epoch_ms(bar["window_start"])
            (kline,) = exchange.klines(bar["symbol"], "1m", open_ms, open_ms)
            found.append(compare(bar, kline).verdict)
    return found


def distinct_trades(settings: Settings) -> int:
    rows = run_sql(settings, "SELECT DISTINCT exchange, symbol, stream, trade_id FROM cryptolake.bronze.futures_trades")
    return int(rows.num_rows)


def test_the_broker_and_the_bronze_stream_are_killed_and_nothing_is_lost_and_no_bar_changes(
    replaying: Settings,
) -> None:
    kill(replaying, KAFKA)
    kill(replaying, BRONZE)
    wait_for(lambda: replay(replaying)["frames_sent"] > FRAMES / 2, timeout_s=120)
    # Without its server the stream has to notice, end, and come back by itself.
    kill(replaying, SPARK)
    wait_until_all_is_in_bronze(replaying)
    assert distinct_trades(replaying) == FRAMES
    report = read_report(replaying)
    assert report is not None
    assert report["state"] == "running"
    bars = refreshed_bars(replaying)
    found = verdicts(replaying, bars)
    assert found.count(Verdict.EQUAL) == 14
    assert found.count(Verdict.INCOMPLETE) == len(bars) - 14 == 4


def test_the_producer_is_killed_and_what_was_sent_meanwhile_is_visible_as_missing(replaying: Settings) -> None:
    kill(replaying, PRODUCER)
    wait_until_all_is_in_bronze(replaying)
    bars = refreshed_bars(replaying)
    found = verdicts(replaying, bars)
    assert distinct_trades(replaying) < FRAMES
    assert Verdict.DIFFERS not in found
    equal = found.count(Verdict.EQUAL)
    assert 6 <= equal < 14, "the minutes of the crash are incomplete, the others are exact"
    assert len({(bar["symbol"], bar["window_start"]) for bar in bars}) == len(bars)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        rows = [row for row in read_coverage(replaying) if row.symbol == symbol]
        before, after = sorted((row.connected_from_ms, row.connected_to_ms) for row in rows)
        assert before[1] < after[0], "the hole between the two connections is to be seen"
