"""Assemble the API: routes, error handlers, middleware and background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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
from cryptolake_assets.live.kafka_follower import KafkaFollower, OnSettled
from cryptolake_assets.live.live_bars import LiveBars
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Return the ASGI app. It opens nothing before it starts."""
    reader, metrics = Reader(settings), ApiMetrics()
    hub = live.Hub(reader, metrics)
    followers = followers_of(reader, hub.settle) if settings.api_live else {}
    reader.live = LiveBars(followers)

    async def refresh() -> None:
        await asyncio.to_thread(reader.table_cache.refresh)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await _log_errors(refresh)
        with suppress(CryptolakeError):
            await reader.run(reader.warm_up)
        # Two tasks: the hub waits for a read slot, which must not delay the catalog refresh.
        tasks = [asyncio.create_task(_repeat(settings.api_refresh_s, each)) for each in (refresh, hub.table_changed)]
        tasks += [asyncio.create_task(_repeat(live.TICK_S, hub.tail_changed))]
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
        version_of=reader.live.version,
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
