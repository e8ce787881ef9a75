"""Sessions of the Spark Connect server: unreferenced ones, and errors of their statements."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from pyspark.sql.connect.client import SparkConnectClient

from cryptolake_assets.bronze.stream import _session
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.commands import run_cryptolake


def test_dropped_session_is_not_closed_by_the_garbage_collector(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing waits for workers that may wait for the collecting thread, which caused a hang."""
    closed: list[SparkConnectClient] = []
    monkeypatch.setattr(SparkConnectClient, "close", lambda client: closed.append(client))
    # PySpark itself references the newest session and a default one.
    sessions: list[Any] = [connect(settings) for _ in range(4)]
    dropped = [weakref.ref(thing) for session in sessions for thing in (session, session.client)]
    sessions.clear()
    gc.collect()
    assert [thing() for thing in dropped].count(None) >= 4, (
        "PySpark does not reference the clients until the process ends either"
    )
    assert not closed
    assert connect(settings).sql("SELECT 1").collect()[0][0] == 1


def test_stream_gets_a_new_session_after_its_own_was_closed(settings: Settings) -> None:
    own: Any = _session(settings)
    own.stop()
    another: Any = _session(settings)
    assert another.session_id != own.session_id
    assert another.sql("SELECT 1").collect()[0][0] == 1


def test_sql_error_shows_only_sparks_message(settings: Settings) -> None:
    def error(sql: str) -> str:
        done = run_cryptolake(settings, "sql", "--engine", "spark", sql, timeout_s=120)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr.rstrip()

    syntax = error("SELECT 1\nFORM nowhere")
    assert syntax.startswith("sql: [PARSE_SYNTAX_ERROR] Syntax error at or near 'nowhere'")
    assert syntax.endswith("== SQL ==\nSELECT 1\nFORM nowhere\n-----^^^")
    table = error("SELECT * FROM cryptolake.silver.futures_ohlcv_1")
    assert table.startswith("sql: [TABLE_OR_VIEW_NOT_FOUND] The table or view `cryptolake`.`silver`.`futures_ohlcv_1`")
    assert table.endswith(
        "line 1 pos 14\nDid you mean cryptolake.silver.futures_ohlcv_1m, cryptolake.silver.futures_book_1s "
        "or cryptolake.silver.spot_ohlcv_1m?"
    )
    assert error("SELECT 1 / 0").splitlines()[2:] == ["== SQL (line 1, position 8) ==", "SELECT 1 / 0", "       ^^^^^"]
