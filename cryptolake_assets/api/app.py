"""Assembles the API: routes, errors, and what every request passes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from cryptolake_assets.api import health, lakeinfo, live, operations, problems, schemas, tables
from cryptolake_assets.api.answers import AnswerMiddleware
from cryptolake_assets.api.guard import GuardMiddleware
from cryptolake_assets.api.observe import ApiMetrics, ObserveMiddleware
from cryptolake_assets.api.reader import Reader
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.lake.tables import SILVER_OHLCV
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The ASGI app. Nothing is opened before it starts."""
    reader, metrics = Reader(settings), ApiMetrics()
    hub = live.Hub(reader, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await _look(reader, hub)
        with suppress(CryptolakeError):
            await reader.run(reader.warm_up)
        task = asyncio.create_task(_follow(reader, hub))
        try:
            yield
        finally:
            task.cancel()
            hub.close()
            with suppress(asyncio.CancelledError):
                await task

    app = FastAPI(
        title="CryptoLake",
        summary="Exact bars, trades and statistics of a crypto market-data lakehouse.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.reader, app.state.metrics, app.state.hub = reader, metrics, hub
    app.state.health = health.new_state()
    app.state.watched = operations.Watched(settings)
    metrics.registry.register(health.collector_of(reader))
    for router in (tables.router, lakeinfo.router, health.router, operations.router, live.router):
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return JSONResponse({"name": "cryptolake", "openapi": "/openapi.json", "health": "/health"})

    problems.install(app)
    _describe_problems(app)
    # The last one added is the first that a request meets.
    app.add_middleware(AnswerMiddleware, cache=reader.cache, heads=reader.heads)
    app.add_middleware(GuardMiddleware, settings=settings)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.api_cors_origins),
            allow_methods=["GET"],
            allow_headers=["Authorization", "X-API-Key", "If-None-Match"],
            expose_headers=["ETag", "X-Snapshot-Id", "X-Next-Cursor"],
        )
    app.add_middleware(ObserveMiddleware, metrics=metrics)
    return app


def _describe_problems(app: FastAPI) -> None:
    """The shape of errors in the OpenAPI document, in place of FastAPI's own."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components["ProblemDetails"] = schemas.ProblemDetails.model_json_schema()
        for path in document["paths"].values():
            for operation in path.values():
                answer = operation["responses"].get("422")
                if answer is not None and "application/json" in answer.get("content", {}):
                    operation["responses"]["422"] = schemas.problem("A parameter is missing or does not parse")
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def _follow(reader: Reader, hub: live.Hub) -> None:
    """Looks at the catalog every so often, for as long as the API runs."""
    while True:
        await asyncio.sleep(reader.settings.api_refresh_s)
        await _look(reader, hub)


async def _look(reader: Reader, hub: live.Hub) -> None:
    try:
        changed = await asyncio.to_thread(reader.heads.refresh)
        if SILVER_OHLCV.identifier in changed:
            await hub.table_changed()
    except Exception as error:
        log.warning("catalog_not_read", cause=repr(error))
