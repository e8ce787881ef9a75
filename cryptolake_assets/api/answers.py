"""Finished answers, kept as long as the table they were read from stays as it is.

An answer is found by the request's own bytes (path, query, `Accept`) before anything of it is parsed, and counts while
the table's snapshot is the one that it was made from. Memory is bounded; what was used longest ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cryptolake_assets.lake.table_cache import Heads, Identifier

RequestBytes = tuple[str, bytes, str]
SLOT = "cryptolake.answer"
"""Where in the scope a handler leaves its answer for the cache."""
OVERHEAD_BYTES = 2_048
"""What an entry takes beside its body and query, about."""


@dataclass(frozen=True)
class Answer:
    """A finished answer with status 200. `head` is the table's current snapshot when it was made."""

    body: bytes
    etag: str
    route: str
    identifier: Identifier
    head: int | None
    headers: list[tuple[bytes, bytes]] = field(repr=False)

    def is_current(self, heads: Heads) -> bool:
        return self.head is not None and heads.snapshot_id(self.identifier) == self.head

    async def send(self, send: Send, if_none_match: str | None) -> None:
        """As 304 without a body when the client has it."""
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
    """All lines of that name as one."""
    return ", ".join(headers.getlist("if-none-match")) or None


class AnswerCache:
    """Answers by request, bounded by bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._answers: OrderedDict[RequestBytes, Answer] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: RequestBytes) -> Answer | None:
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: RequestBytes, answer: Answer) -> None:
        """Keeps the answer, if it is not larger than a quarter of everything."""
        self.drop(key)
        size_bytes = _size(key, answer)
        if size_bytes > self._max_bytes // 4:
            return
        self._answers[key] = answer
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            old_key, old = self._answers.popitem(last=False)
            self.size_bytes -= _size(old_key, old)

    def drop(self, key: RequestBytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.size_bytes -= _size(key, answer)

    def __len__(self) -> int:
        return len(self._answers)


def _size(key: RequestBytes, answer: Answer) -> int:
    return len(answer.body) + len(key[0]) + len(key[1]) + len(key[2]) + OVERHEAD_BYTES


class AnswerMiddleware:
    """Answers from the cache where it can, and keeps what the app leaves in the scope."""

    def __init__(self, app: ASGIApp, cache: AnswerCache, heads: Heads) -> None:
        self._app, self._cache, self._heads = app, cache, heads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = (scope["path"], scope["query_string"], headers.get("accept", ""))
        answer = self._cache.get(key)
        if answer is not None:
            if answer.is_current(self._heads):
                scope["cryptolake.route"] = answer.route
                await answer.send(send, if_none_match_of(headers))
                return
            self._cache.drop(key)
        await self._app(scope, receive, send)
        made = scope.get(SLOT)
        if made is not None:
            self._cache.put(key, made)
