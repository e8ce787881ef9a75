"""Sessions of the Spark Connect server: those that nobody holds any more, and errors of their statements."""

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


def test_a_dropped_session_is_not_closed_by_the_garbage_collector(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait, in whatever thread it runs, for workers that may wait for that thread: seen as a hang."""
    closed: list[SparkConnectClient] = []
    monkeypatch.setattr(SparkConnectClient, "close", lambda client: closed.append(client))
    # PySpark itself holds the newest one, and one as a default.
    sessions: list[Any] = [connect(settings) for _ in range(4)]
    dropped = [weakref.ref(thing) for session in sessions for thing in (session, session.client)]
    sessions.clear()
    gc.collect()
    assert [thing() for thing in dropped].count(None) >= 4, "nor does PySpark hold its client until the process ends"
    assert not closed
    assert connect(settings).sql("SELECT 1").collect()[0][0] == 1


def test_the_stream_gets_another_session_where_its_own_was_closed(settings: Settings) -> None:
    own: Any = _session(settings)
    own.stop()
    another: Any = _session(settings)
    assert another.session_id != own.session_id
    assert another.sql("SELECT 1").collect()[0][0] == 1


def test_an_error_of_sql_is_sparks_message_and_nothing_else(settings: Settings) -> None:
    def error(sql: str) -> str:
        done = run_cryptolake(settings, "sql", "--engine", "spark", sql, timeout_s=120)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr.rstrip()

    syntax = error("SELECT 1\nFORM nowhere")
    assert syntax.startswith("sql: [PARSE_SYNTAX_ERROR] Syntax error at or near 'nowhere'")
    assert syntax.endswith("== SQL ==\nSELECT 1\nFORM nowhere\n-----^^^")
    table = error("SELECT * FROM cryptolake.silver.futures_ohlcv_1")
    assert table.startswith("sql: [TABLE_OR_VIEW_NOT_FOUND] The table or view `cryptolake`.`silver`.`futures_ohlcv_1`")
    assert table.endswith("line 1 pos 14\nDid you mean cryptolake.silver.futures_ohlcv_1m?")
    assert error("SELECT 1 / 0").splitlines()[2:] == ["== SQL (line 1, position 8) ==", "SELECT 1 / 0", "       ^^^^^"]
