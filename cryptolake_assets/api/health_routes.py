"""Routes for operators: health of each dependency, and metrics for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily
from pydantic import BaseModel
from starlette.responses import Response

from cryptolake_assets.api import schemas
from cryptolake_assets.api.page_reader import Reader
from cryptolake_assets.api.present import CachedValue, of_the_present
from cryptolake_assets.bronze.offsets import bronze_lags, report_age_s
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.platform import probes
from cryptolake_assets.producer.status_file import read_status, rejecting_problem, status_path, waiting_problem
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

router = APIRouter()
log = structlog.get_logger(__name__)

CACHE_S = 2.0  # how long the state of the dependencies is cached


class DependencyHealth(BaseModel):
    name: str
    state: str
    detail: str


class Health(BaseModel):
    status: str
    dependencies: list[DependencyHealth] | None = None


@dataclass(frozen=True)
class Dependency:
    """`problem` returns a text, or None if the dependency works. Without a `required` one the API serves no data."""

    name: str
    problem: Callable[[Settings, Reader], str | None]
    required: bool = False


def _catalog(settings: Settings, reader: Reader) -> str | None:
    at = reader.table_cache.refreshed_at
    unreachable_s = None if at is None else time.monotonic() - at
    if unreachable_s is None or unreachable_s > 10 * settings.api_refresh_s + 10:
        return "does not respond" if unreachable_s is None else f"has not responded for {unreachable_s:.0f} s"
    return None


def _tables(_settings: Settings, reader: Reader) -> str | None:
    try:
        for settings in reader.settings.each_family:
            reader.table_cache.table(settings.tables.bars.identifier)
    except CryptolakeError as error:
        return str(error)
    return None


def _kafka(settings: Settings, _reader: Reader) -> str | None:
    from cryptolake_assets.kafka.topics import access_problem

    problem = access_problem(settings)
    return None if problem is None else f"{settings.bootstrap_servers}: {problem}"


def _producer(settings: Settings, _reader: Reader) -> str | None:
    if not probes.reporting(status_path(settings), 0):
        return "has not reported its status for a minute"
    return waiting_problem(settings) or rejecting_problem(settings)


def _bronze(settings: Settings, _reader: Reader) -> str | None:
    age_s = report_age_s(settings)
    if age_s is None:
        return "has never reported its progress"
    return None if age_s < settings.stream_stall_s else f"has not reported its progress for {age_s:.0f} s"


def _live(_settings: Settings, reader: Reader) -> str | None:
    """Without a tail Silver alone answers: complete, but later."""
    problems = [] if reader.live is None else [f"{family}: {why}" for family, why in reader.live.problems().items()]
    return None if not problems else f"bars are of Silver alone: {'; '.join(problems)}"


def _dagster(settings: Settings, _reader: Reader) -> str | None:
    return None if probes.webserver_serves(settings.dagster_address) else "the webserver does not respond"


DEPENDENCIES = (
    Dependency("catalog", _catalog, required=True),
    Dependency("tables", _tables, required=True),
    Dependency("kafka", _kafka),
    Dependency("producer", _producer),
    Dependency("bronze", _bronze),
    Dependency("dagster", _dagster),
    Dependency("live", _live),
)

DependencyProblems = list[tuple[Dependency, str | None]]  # each dependency with its problem


def health_of(reader: Reader) -> CachedValue[DependencyProblems]:
    """Return the value of `app.state.health`: the problems, read at most every `CACHE_S` seconds."""
    return CachedValue(lambda: [(each, each.problem(reader.settings, reader)) for each in DEPENDENCIES], CACHE_S)


@router.get(
    "/health",
    response_model=Health,
    responses={503: {"model": Health, "description": "No data is available"}},
    dependencies=[Depends(of_the_present)],
)
async def health(request: Request) -> Response:
    """Report `ok`, `degraded` (a part of the pipeline is down, data is served) or `down` (503, no data is available).

    The states of the dependencies are included if the request has a key, or if no key is required.
    """
    cached: CachedValue[DependencyProblems] = request.app.state.health
    found = await asyncio.to_thread(cached.get)
    failing = [item for item in found if item[1] is not None]
    down = any(dependency.required for dependency, _ in failing)
    body: dict[str, Any] = {"status": "down" if down else "degraded" if failing else "ok"}
    if not request.scope.get("cryptolake.anonymous"):
        body["dependencies"] = [
            {"name": dependency.name, "state": "down" if problem else "ok", "detail": problem or ""}
            for dependency, problem in found
        ]
    return Response(orjson.dumps(body), 503 if down else 200, media_type="application/json")


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **schemas.error_responses()}
)
async def metrics(request: Request) -> Response:
    """Return Prometheus metrics.

    Requests and latency by route, snapshot age and rows of the tables, event-time lag of the symbols, lag of the Bronze
    stream, and the response cache.
    """
    body = await asyncio.to_thread(generate_latest, request.app.state.metrics.registry)
    return Response(body, media_type=CONTENT_TYPE_LATEST)


class LakeCollector:
    """Prometheus metrics of the lake, read at each scrape."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterable[Any]:
        """Yield the available metrics: while a part is down, only its own metrics are missing."""
        for collector in (self._tables, self._event_time_lag, self._stream_lag, self._tail, self._cache):
            try:
                yield from collector()
            except (CryptolakeError, OSError) as error:
                log.info("metrics_missing", collector=collector.__name__, cause=str(error))

    def _tables(self) -> Iterable[Any]:
        age = GaugeMetricFamily(
            "cryptolake_table_snapshot_age_seconds", "Seconds since the table's last commit.", labels=("table",)
        )
        rows = GaugeMetricFamily("cryptolake_table_rows", "Rows of the table.", labels=("table",))
        for settings in self._reader.settings.each_family:
            tables = settings.tables
            for spec in (tables.trades, tables.bars, tables.daily):
                snapshot = self._reader.table_cache.table(spec.identifier).current_snapshot()
                if snapshot is None:
                    continue
                age.add_metric([spec.full_name], time.time() - snapshot.timestamp_ms / 1000)
                summary = snapshot.summary.additional_properties if snapshot.summary else {}
                rows.add_metric([spec.full_name], int(summary.get("total-records", 0)))
        return (age, rows)

    def _event_time_lag(self) -> Iterable[Any]:
        status = read_status(self._reader.settings)
        lag = GaugeMetricFamily(
            "cryptolake_event_time_lag_seconds",
            "Seconds from the end of a symbol's newest bar to the exchange's clock.",
            labels=("exchange", "symbol"),
        )
        if status is None:
            return (lag,)
        for (exchange, symbol), span in self._reader.spans().items():
            clock_ms = status.exchange_time_ms(exchange)
            if clock_ms is not None:
                end_s = (span.last + MINUTE).timestamp()
                lag.add_metric([exchange, symbol], max(0.0, clock_ms / 1000 - end_s))
        return (lag,)

    def _stream_lag(self) -> Iterable[Any]:
        lags = [lag for settings in self._reader.settings.each_family for lag in bronze_lags(settings)]
        total = sum(lag.records for lag in lags)
        records = GaugeMetricFamily(
            "cryptolake_stream_lag_records", "Records in Kafka that are not in Bronze yet.", total
        )
        partitions = GaugeMetricFamily(
            "cryptolake_stream_partition_lag_records",
            "Records of a partition of a trade topic that are not in Bronze yet.",
            labels=("topic", "partition"),
        )
        for lag in lags:
            partitions.add_metric([lag.topic, str(lag.partition)], lag.records)
        return (records, partitions)

    def _tail(self) -> Iterable[Any]:
        minutes = GaugeMetricFamily(
            "cryptolake_api_tail_minutes", "Minutes of all symbols in memory that Silver lacks.", labels=("family",)
        )
        rejected = GaugeMetricFamily(
            "cryptolake_api_tail_rejected_records", "Kafka records that are no trades.", labels=("family",)
        )
        for family, follower in () if self._reader.live is None else self._reader.live.followers.items():
            rejected.add_metric([family], follower.records_rejected)
            if follower.tail is not None:
                minutes.add_metric([family], len(follower.tail))
        return (minutes, rejected)

    def _cache(self) -> Iterable[Any]:
        cache = self._reader.cache
        return (
            GaugeMetricFamily("cryptolake_api_cache_bytes", "Size of the response cache in bytes.", cache.size_bytes),
            GaugeMetricFamily("cryptolake_api_cache_answers", "Responses in the response cache.", len(cache)),
        )
