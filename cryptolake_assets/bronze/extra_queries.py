"""Supervise the Bronze queries of the extra streams, those other than the trades.

A query that fails is restarted after a pause, and delays neither the trades queries nor the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

log = structlog.get_logger(__name__)

RESTART_S: Final = 60.0  # minimum time between two attempts to start a query


class ExtraQueries:
    """The extra Bronze queries by name, each with the function that starts it."""

    def __init__(
        self,
        starters: Mapping[str, Callable[[], StreamingQuery]],
        *,
        restart_s: float = RESTART_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._starters = starters
        self._restart_s = restart_s
        self._clock = clock
        self._running: dict[str, StreamingQuery] = {}
        self._not_before = dict.fromkeys(starters, float("-inf"))

    @property
    def running(self) -> list[StreamingQuery]:
        return list(self._running.values())

    def supervise(self) -> None:
        """Start the queries that are not running. Raises server errors, for example if it is unreachable."""
        for name, start in self._starters.items():
            query = self._running.get(name)
            if query is not None:
                if query.isActive:
                    continue
                self._log_failure(name, query.exception())
                del self._running[name]
            if self._clock() >= self._not_before[name]:
                self._start(name, start)

    def stop(self) -> None:
        for query in self._running.values():
            query.stop()

    def _start(self, name: str, start: Callable[[], StreamingQuery]) -> None:
        from pyspark.errors.exceptions.base import PySparkException

        self._not_before[name] = self._clock() + self._restart_s
        try:
            self._running[name] = start()
        except PySparkException as error:
            self._log_failure(name, error)

    def _log_failure(self, name: str, error: Any) -> None:
        cause = (
            str(error).splitlines()[0][:500] if error is not None and str(error) else "the query ended without an error"
        )
        log.error("extra_query_failed", query=name, error=cause, retry_in_s=self._restart_s)
