"""Authorization: hosts, origins, keys, scopes and rate limits, checked before anything else of a request."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cryptolake_assets.api import problems
from cryptolake_assets.api.api_keys import ApiKey, KeyRing
from cryptolake_assets.api.api_keys import Scope as KeyScope
from cryptolake_assets.model.hosts import host_name, is_loopback
from cryptolake_assets.settings import Settings

OPEN_PATHS = frozenset({"/health", "/openapi.json", "/"})  # no key needed; without one `/health` omits details
OPERATE_PATHS = frozenset({"/metrics", "/operations/parts", "/operations/assets"})


class GuardMiddleware:
    """Reject unauthorized requests.

    If no key is required, ignore credentials: a browser or proxy may send credentials for something else.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._required = settings.api_keys_required
        self._origins = settings.api_cors_origins
        self._is_loopback_server = is_loopback(settings.api_host)
        self._named_hosts = {host_name(origin.partition("://")[2]) for origin in settings.api_cors_origins}
        self._ring = KeyRing(settings)
        self._limit = RateLimitItemPerMinute(settings.api_rate_per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._names_foreign_host(Headers(scope=scope)):
            await problems.unknown_host().response()(scope, receive, send)
            return
        if scope["type"] == "websocket" and self._has_foreign_origin(Headers(scope=scope)):
            await problems.other_origin().response()(scope, receive, send)
            return
        problem = await self._rejection(scope, _key_text(scope)) if self._required else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)

    def _names_foreign_host(self, headers: Headers) -> bool:
        """Return whether a request to a loopback server names a foreign host, as a page does after DNS rebinding."""
        name = host_name(headers.get("host", ""))
        return self._is_loopback_server and name != "" and not is_loopback(name) and name not in self._named_hosts

    def _has_foreign_origin(self, headers: Headers) -> bool:
        """Return whether a page of a foreign origin opens the WebSocket: browsers do not apply CORS to WebSockets."""
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return False
        return origin.partition("://")[2] != headers.get("host")

    async def _rejection(self, scope: Scope, text: str | None) -> problems.Problem | None:
        path = scope["path"]
        key = self._ring.find(text) if text is not None else None
        if key is None:
            scope["cryptolake.anonymous"] = True
            return None if text is None and path in OPEN_PATHS else problems.unauthorized()
        required_scope = KeyScope.OPERATE if path in OPERATE_PATHS else KeyScope.READ
        if path not in OPEN_PATHS and required_scope not in key.scopes:
            return problems.forbidden(required_scope.value)
        return await self._rate_problem(key)

    async def _rate_problem(self, key: ApiKey) -> problems.Problem | None:
        if await self._limiter.hit(self._limit, key.id):
            return None
        stats = await self._limiter.get_window_stats(self._limit, key.id)
        return problems.too_many_requests(max(1, math.ceil(stats.reset_time - time.time())))


def _key_text(scope: Scope) -> str | None:
    """Return the key of `Authorization: Bearer`, else of `X-API-Key`; ignore other kinds of credentials."""
    headers = Headers(scope=scope)
    kind, _, text = headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else headers.get("x-api-key")
