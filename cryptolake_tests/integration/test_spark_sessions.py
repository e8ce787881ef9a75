"""Sessions of the Spark Connect server that nobody holds any more."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from pyspark.sql.connect.client import SparkConnectClient

from cryptolake_assets.lake.spark import connect
from cryptolake_assets.settings import Settings


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
