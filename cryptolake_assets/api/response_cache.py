"""The response cache: finished responses, valid until the snapshot of one of its tables changes.

The key is the raw request (path, query, `Accept`), so that a hit parses nothing. Memory is bounded; the least recently
used response is evicted first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cryptolake_assets.lake.table_cache import Identifier, TableCache
from cryptolake_assets.live.minute import Topic

TailVersion = tuple[Topic, int | None]  # a symbol's version of `live.live_bars.LiveBars`
RequestBytes = tuple[str, bytes, str]
SLOT = "cryptolake.response"  # key in the ASGI scope under which a handler stores its response for the cache
OVERHEAD_BYTES = 2_048  # approximate overhead per entry, in addition to body and key


@dataclass(frozen=True)
class CachedResponse:
    """A finished response with status 200. `current` has its tables' current snapshots at its creation."""

    body: bytes
    etag: str
    route: str
    current: Mapping[Identifier, int | None]
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    tail_version: TailVersion | None = None  # of a response with bars of the tail

    def is_current(self, table_cache: TableCache, version_of: Callable[[Topic], int | None]) -> bool:
        if self.tail_version is not None and version_of(self.tail_version[0]) != self.tail_version[1]:
            return False
        return all(table_cache.is_current(*item) for item in self.current.items())

    async def send(self, send: Send, if_none_match: str | None) -> None:
        """Send the response; send 304 without a body if `if_none_match` matches its ETag."""
        unchanged = if_none_match is not None and _matches(if_none_match, self.etag)
        headers = [
            item for item in self.headers if not unchanged or item[0] not in (b"content-type", b"content-length")
        ]
        await send({"type": "http.response.start", "status": 304 if unchanged else 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if unchanged else self.body})


def _matches(if_none_match: str, etag: str) -> bool:
    return if_none_match == etag or any(
        item.strip().removeprefix("W/") in (etag, "*") for item in if_none_match.split(",")
    )


def if_none_match_of(headers: Headers) -> str | None:
    """Return all `If-None-Match` headers joined as one; None without any."""
    return ", ".join(headers.getlist("if-none-match")) or None


class ResponseCache:
    """Responses by request, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._responses: OrderedDict[RequestBytes, CachedResponse] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: RequestBytes) -> CachedResponse | None:
        response = self._responses.get(key)
        if response is not None:
            self._responses.move_to_end(key)
        return response

    def put(self, key: RequestBytes, response: CachedResponse) -> None:
        """Store the response, unless it is larger than a quarter of the cache."""
        self.drop(key)
        size_bytes = _size(key, response)
        if size_bytes > self._max_bytes // 4:
            return
        self._responses[key] = response
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            old_key, old = self._responses.popitem(last=False)
            self.size_bytes -= _size(old_key, old)

    def drop(self, key: RequestBytes) -> None:
        response = self._responses.pop(key, None)
        if response is not None:
            self.size_bytes -= _size(key, response)

    def __len__(self) -> int:
        return len(self._responses)


def _size(key: RequestBytes, response: CachedResponse) -> int:
    return len(response.body) + len(key[0]) + len(key[1]) + len(key[2]) + OVERHEAD_BYTES


class ResponseCacheMiddleware:
    """Respond from the cache if possible, and store the responses that the app leaves in the scope."""

    def __init__(
        self,
        app: ASGIApp,
        cache: ResponseCache,
        table_cache: TableCache,
        version_of: Callable[[Topic], int | None],
    ) -> None:
        self._app, self._cache, self._table_cache, self._version_of = app, cache, table_cache, version_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = (scope["path"], scope["query_string"], headers.get("accept", ""))
        response = self._cache.get(key)
        if response is not None:
            if response.is_current(self._table_cache, self._version_of):
                scope["cryptolake.route"] = response.route
                await response.send(send, if_none_match_of(headers))
                return
            self._cache.drop(key)
        await self._app(scope, receive, send)
        created = scope.get(SLOT)
        if created is not None:
            self._cache.put(key, created)
