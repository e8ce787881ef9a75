"""Assemble the API: routes, error handlers, middleware and background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from cryptolake_assets.api import health_routes, lakeinfo, live, operation_routes, problems, schemas, table_routes
from cryptolake_assets.api.guard import GuardMiddleware
from cryptolake_assets.api.observe import ApiMetrics, ObserveMiddleware
from cryptolake_assets.api.page_reader import Reader
from cryptolake_assets.api.response_cache import ResponseCacheMiddleware
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.live.blocked_hours import blocked_hours
from cryptolake_assets.live.kafka_follower import KafkaFollower, OnSettled
from cryptolake_assets.live.live_bars import LiveBars
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)

BLOCKED_S = 2.0  # between two searches for hours whose candidate was rejected


def create_app(settings: Settings) -> FastAPI:
    """Return the ASGI app. It opens nothing before it starts."""
    reader, metrics = Reader(settings), ApiMetrics()
    hub = live.Hub(reader, metrics)
    followers = followers_of(reader, hub.settle) if settings.api_live else {}
    reader.live = tails = LiveBars(followers)

    async def refresh() -> None:
        await asyncio.to_thread(reader.table_cache.refresh)

    judged: list[int | None] = []  # the snapshot of the run metrics that the blocked hours are of

    async def refresh_blocked_hours() -> None:
        snapshot_id = reader.table_cache.snapshot_id(OPS_RUN_METRICS.identifier)
        if snapshot_id is None or judged != [snapshot_id]:
            tails.blocked_hours = await reader.run(_blocked_hours, reader)
            judged[:] = [snapshot_id]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await _log_errors(refresh)
        with suppress(CryptolakeError):
            await reader.run(reader.warm_up)
        # Two tasks: the hub waits for a read slot, which must not delay the catalog refresh.
        tasks = [asyncio.create_task(_repeat(settings.api_refresh_s, each)) for each in (refresh, hub.table_changed)]
        tasks += [asyncio.create_task(_repeat(live.TICK_S, hub.tail_changed))]
        tasks += [asyncio.create_task(_repeat(BLOCKED_S, refresh_blocked_hours))]
        tasks += [asyncio.create_task(follower.run()) for follower in followers.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            hub.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(
        title="CryptoLake",
        summary="Exact bars, trades and statistics of a crypto market-data lakehouse.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.reader, app.state.metrics, app.state.hub = reader, metrics, hub
    app.state.health = health_routes.health_of(reader)
    app.state.platform_reader = operation_routes.PlatformReader(settings)
    metrics.registry.register(health_routes.LakeCollector(reader))
    for router in (table_routes.router, lakeinfo.router, health_routes.router, operation_routes.router, live.router):
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return JSONResponse({"name": "cryptolake", "openapi": "/openapi.json", "health": "/health"})

    problems.install(app)
    _describe_problems(app)
    # A request passes the middleware in reverse order: the last one added comes first.
    app.add_middleware(
        ResponseCacheMiddleware,
        cache=reader.cache,
        table_cache=reader.table_cache,
        version_of=tails.version,
    )
    app.add_middleware(GuardMiddleware, settings=settings)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.api_cors_origins),
            allow_methods=["GET"],
            allow_headers=["Authorization", "X-API-Key", "If-None-Match"],
            expose_headers=["ETag", "X-Exchange", "X-Snapshot-Id", "X-Next-Cursor"],
        )
    app.add_middleware(ObserveMiddleware, metrics=metrics)
    return app


def _blocked_hours(reader: Reader) -> frozenset[tuple[Family, datetime]]:
    run_metrics, now = reader.table_cache.table(OPS_RUN_METRICS.identifier), datetime.now(UTC)
    return frozenset(
        (family, hour)
        for family in reader.settings.families
        for hour in blocked_hours(run_metrics, FAMILY_TABLES[family].bars, now)
    )


def followers_of(reader: Reader, on_settled: OnSettled) -> dict[Family, KafkaFollower]:
    """Return the followers of the trades of each tracked family."""

    def tables_of(family: Family) -> Callable[[], tuple[Table, Table]]:
        tables, cache = FAMILY_TABLES[family], reader.table_cache
        return lambda: (cache.table(tables.trades.identifier), cache.table(tables.bars.identifier))

    return {
        family: KafkaFollower(reader.settings.of_family(family), tables_of(family), on_settled)
        for family in reader.settings.families
    }


def _describe_problems(app: FastAPI) -> None:
    """Put the problem schema, in place of FastAPI's error schema, and example responses into the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components |= schemas.problem_components()
        for path in document["paths"].values():
            for operation in path.values():
                response = operation["responses"].get("422")
                if response is not None and "application/json" in response.get("content", {}):
                    operation["responses"]["422"] = schemas.error_responses(422)[422]
        for path, example in schemas.examples().items():
            content = document["paths"][path]["get"]["responses"]["200"]["content"]
            content[schemas.example_media_type(content)]["example"] = example
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def _repeat(seconds: float, each: Callable[[], Awaitable[None]]) -> None:
    """Call `each` every `seconds` while the API runs, also after a failed call."""
    while True:
        await asyncio.sleep(seconds)
        await _log_errors(each)


async def _log_errors(each: Callable[[], Awaitable[None]]) -> None:
    try:
        await each()
    except Exception as error:
        log.warning("catalog_poll_failed", cause=repr(error))
