"""Queries beside the trades: what fails is started again after a pause, and ends nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.errors.exceptions.base import PySparkException

from cryptolake_assets.bronze.extra_queries import ExtraQueries


class Query:
    """A query as its server tells of it."""

    def __init__(self) -> None:
        self.isActive = True
        self.failure: Exception | None = None
        self.stopped = False

    def exception(self) -> Exception | None:
        return self.failure

    def stop(self) -> None:
        self.stopped = True


class Stage:
    """Two queries, a clock that is set by hand, and what the next start raises."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: dict[str, list[Query]] = {"marks": [], "orders": []}
        self.raises: list[Exception] = []
        starters: dict[str, Any] = {name: lambda name=name: self._start(name) for name in self.made}
        self.queries = ExtraQueries(starters, restart_s=60.0, clock=lambda: self.now)

    def _start(self, name: str) -> Query:
        if self.raises:
            raise self.raises.pop(0)
        self.made[name].append(Query())
        return self.made[name][-1]

    def look(self, now: float) -> list[int]:
        """How many were started of each so far."""
        self.now = now
        self.queries.supervise()
        return [len(found) for found in self.made.values()]


def test_one_that_ends_is_started_again_after_a_pause_and_the_other_goes_on() -> None:
    stage = Stage()
    assert stage.look(0.0) == [1, 1]
    assert stage.look(1.0) == [1, 1]
    stage.made["marks"][0].isActive = False
    stage.made["marks"][0].failure = ValueError("no such topic\nat ...")
    assert stage.look(2.0) == [1, 1]
    assert len(stage.queries.running) == 1
    assert stage.look(59.0) == [1, 1]
    assert stage.look(60.0) == [2, 1]
    assert len(stage.queries.running) == 2
    stage.queries.stop()
    assert [query.stopped for query in (*stage.made["marks"], *stage.made["orders"])] == [False, True, True]


def test_one_that_cannot_be_started_holds_nobody_up() -> None:
    stage = Stage()
    stage.raises = [PySparkException("the table is not there")]
    assert stage.look(0.0) == [0, 1]
    assert stage.look(61.0) == [1, 1]


def test_what_is_no_failure_of_a_query_is_raised() -> None:
    stage = Stage()
    stage.raises = [ConnectionError("the server is gone")]
    with pytest.raises(ConnectionError, match="the server is gone"):
        stage.look(0.0)
