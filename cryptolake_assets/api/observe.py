"""Count and time requests for Prometheus, and add the headers of every response."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cryptolake_assets.api import problems
from cryptolake_assets.live.settled_counts import SETTLED_BARS

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
ENDLESS_PREFIX = "/sse/"  # of routes whose responses do not end
NOT_STORED = (b"cache-control", b"no-store")
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ApiMetrics:
    """Metrics of the API in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cryptolake_api_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "cryptolake_api_latency_seconds",
            "Seconds from the request to the end of its response.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.live_clients = Gauge(
            "cryptolake_api_live_clients", "Open WebSockets and event streams.", registry=self.registry
        )
        self.settled_bars = Counter(
            SETTLED_BARS,
            "Settled minutes by how Silver's bar compares with the last provisional one.",
            ("family", "outcome"),
            registry=self.registry,
        )
        self.cut_clients = Counter(
            "cryptolake_api_cut_clients",
            "Live clients disconnected because they were too slow.",
            registry=self.registry,
        )


class ObserveMiddleware:
    """Observe every response, also those of the other middleware, as the outermost middleware."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, started = 500, False
        if scope["method"] == "HEAD" and not scope["path"].startswith(ENDLESS_PREFIX):
            scope = {**scope, "method": "GET"}  # the server omits the body of a HEAD response

        async def observed(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(NOT_STORED)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if started:
                raise
            await problems.unexpected(scope["path"], error).response()(scope, receive, observed)
        finally:
            route = scope.get("cryptolake.route") or getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - began)
