"""A platform that replays the shipped capture: wait for it, kill its parts, compare its bars with the klines."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from typing import Any

import httpx

from cryptolake_assets.binance.rest import ExchangeRest
from cryptolake_assets.bronze.offsets import bronze_lag
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.producer.status_file import ProducerStatus, read_status
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.reconciliation import Verdict, compare
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.silver_runs import rebuild
from cryptolake_tests.support.waiting import wait_for

FRAMES = 24_356
HOURS = (datetime(2024, 7, 18, 23, tzinfo=UTC), datetime(2024, 7, 19, 0, tzinfo=UTC))
SPEED = 16.0
"""The capture's eight minutes take 30 s, long enough for a crash in the middle."""


def replay(settings: Settings) -> dict[str, Any]:
    """Return the status of the replay exchange."""
    response = httpx.get(f"http://127.0.0.1:{settings.exchange_port}/replay/status", timeout=10, trust_env=False)
    return dict(response.json())


def kill(settings: Settings, part: str) -> None:
    """Send SIGKILL to the part's process; wait until the supervisor has restarted it."""
    pid = Supervisor(settings).processes()[part].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: Supervisor(settings).processes()[part].pid not in (None, 0, pid), timeout_s=120)


def produced(settings: Settings) -> ProducerStatus:
    """Return the producer's last written status."""
    status = read_status(settings)
    assert status is not None
    return status


def wait_until_all_is_in_bronze(settings: Settings) -> None:
    wait_for(lambda: replay(settings)["state"] == "finished", timeout_s=120)
    wait_for(lambda: not produced(settings).in_flight and not produced(settings).queued_frames, timeout_s=120)
    end_ms = replay(settings)["last_event_time_ms"]
    wait_for(
        lambda: (
            {row.symbol for row in read_coverage(settings) if row.connected_to_ms >= end_ms} == {"BTCUSDT", "ETHUSDT"}
        ),
        timeout_s=60,
    )
    wait_for(lambda: bronze_lag(settings) == 0, timeout_s=180)


def refreshed_bars(settings: Settings) -> list[dict[str, Any]]:
    candidates = rebuild(settings, DuckDBEngine(settings), HOURS[0], HOURS[-1] + HOUR)
    assert [(candidate.hour, candidate.passed) for candidate in candidates] == [(hour, True) for hour in HOURS]
    rows: list[dict[str, Any]] = run_sql(settings, "SELECT * FROM cryptolake.silver.futures_ohlcv_1m").to_pylist()
    return rows


def verdicts(settings: Settings, bars: list[dict[str, Any]]) -> list[Verdict]:
    """Compare each bar with the official kline of its minute."""
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
