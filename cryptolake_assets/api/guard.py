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
        self._only_loopback = is_loopback(settings.api_host)
        self._named_hosts = {host_name(origin.partition("://")[2]) for origin in settings.api_cors_origins}
        self._ring = KeyRing(settings)
        self._limit = RateLimitItemPerMinute(settings.api_rate_per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._is_under_another_name(Headers(scope=scope)):
            await problems.unknown_host().response()(scope, receive, send)
            return
        if scope["type"] == "websocket" and self._is_of_another_page(Headers(scope=scope)):
            await problems.other_origin().response()(scope, receive, send)
            return
        problem = await self._rejection(scope, _key_text(scope)) if self._required else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)

    def _is_under_another_name(self, headers: Headers) -> bool:
        """Return whether a request to a loopback server names another host, as a page does after DNS rebinding."""
        name = host_name(headers.get("host", ""))
        return self._only_loopback and name != "" and not is_loopback(name) and name not in self._named_hosts

    def _is_of_another_page(self, headers: Headers) -> bool:
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
        wanted = KeyScope.OPERATE if path in OPERATE_PATHS else KeyScope.READ
        if path not in OPEN_PATHS and wanted not in key.scopes:
            return problems.forbidden(wanted.value)
        return await self._over_the_limit(key)

    async def _over_the_limit(self, key: ApiKey) -> problems.Problem | None:
        if await self._limiter.hit(self._limit, key.id):
            return None
        stats = await self._limiter.get_window_stats(self._limit, key.id)
        return problems.too_many_requests(max(1, math.ceil(stats.reset_time - time.time())))


def _key_text(scope: Scope) -> str | None:
    """Return the key of `Authorization: Bearer`, else of `X-API-Key`; ignore other kinds of credentials."""
    headers = Headers(scope=scope)
    kind, _, text = headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else headers.get("x-api-key")
