"""Extra queries: a failed query is restarted after a pause and does not affect the others."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.errors.exceptions.base import PySparkException

from cryptolake_assets.bronze.extra_queries import ExtraQueries


class Query:
    """A streaming query as its server reports it."""

    def __init__(self) -> None:
        self.isActive = True
        self.failure: Exception | None = None
        self.stopped = False

    def exception(self) -> Exception | None:
        return self.failure

    def stop(self) -> None:
        self.stopped = True


class Stage:
    """Two queries, a clock that the test sets, and the errors of the next starts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started: dict[str, list[Query]] = {"marks": [], "orders": []}
        self.start_errors: list[Exception] = []
        starters: dict[str, Any] = {name: lambda name=name: self._start(name) for name in self.started}
        self.queries = ExtraQueries(starters, restart_s=60.0, clock=lambda: self.now)

    def _start(self, name: str) -> Query:
        if self.start_errors:
            raise self.start_errors.pop(0)
        self.started[name].append(Query())
        return self.started[name][-1]

    def supervise(self, now: float) -> list[int]:
        """Supervise at this time; return the number of starts of each query so far."""
        self.now = now
        self.queries.supervise()
        return [len(started) for started in self.started.values()]


def test_ended_query_is_restarted_after_a_pause_and_the_other_continues() -> None:
    stage = Stage()
    assert stage.supervise(0.0) == [1, 1]
    assert stage.supervise(1.0) == [1, 1]
    stage.started["marks"][0].isActive = False
    stage.started["marks"][0].failure = ValueError("no such topic\nat ...")
    assert stage.supervise(2.0) == [1, 1]
    assert len(stage.queries.running) == 1
    assert stage.supervise(59.0) == [1, 1]
    assert stage.supervise(60.0) == [2, 1]
    assert len(stage.queries.running) == 2
    stage.queries.stop()
    assert [query.stopped for query in (*stage.started["marks"], *stage.started["orders"])] == [False, True, True]


def test_query_that_cannot_start_does_not_block_the_other() -> None:
    stage = Stage()
    stage.start_errors = [PySparkException("the table does not exist")]
    assert stage.supervise(0.0) == [0, 1]
    assert stage.supervise(61.0) == [1, 1]


def test_server_error_is_raised() -> None:
    stage = Stage()
    stage.start_errors = [ConnectionError("the server is gone")]
    with pytest.raises(ConnectionError, match="the server is gone"):
        stage.supervise(0.0)
