"""Errors as problem details (RFC 9457) with fixed texts: no exception text reaches a client by accident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cryptolake_assets.errors import (
    CryptolakeError,
    PartError,
    ResponseTooLargeError,
    SnapshotExpiredError,
    TableNotFoundError,
    TableUnreadableError,
)

MEDIA_TYPE = "application/problem+json"
URN = "urn:cryptolake:problem:"

log = structlog.get_logger(__name__)


class Problem(Exception):
    """An error response; clients see `detail`."""

    def __init__(self, status: int, code: str, title: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.code, self.title, self.detail, self.more = status, code, title, detail, more
        self.headers: dict[str, str] = {}

    def body(self) -> bytes:
        return orjson.dumps(
            {"type": URN + self.code, "title": self.title, "status": self.status, "detail": self.detail, **self.more}
        )

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, MEDIA_TYPE)


def unknown_symbol(symbol: str, exchange: str | None, having: Sequence[str]) -> Problem:
    """Return the problem of a symbol that the exchange does not have; `having` are the exchanges that have it."""
    detail = f"The lake has no data of {symbol}"
    detail += f" on {exchange}; it has some on {', '.join(having)}." if having else "."
    return Problem(404, "unknown-symbol", "Unknown symbol", f"{detail} /symbols lists the symbols of each exchange.")


def unknown_cursor() -> Problem:
    return Problem(
        404, "unknown-cursor", "Unknown cursor", "The cursor is not valid for this table. Start without a cursor."
    )


def cursor_of_another_request() -> Problem:
    return Problem(
        400,
        "cursor-of-another-request",
        "Cursor of another request",
        "The cursor belongs to another route, exchange, symbol, order or snapshot. Send it with the parameters of the "
        "page that returned it, or start without a cursor.",
    )


def unknown_host() -> Problem:
    return Problem(
        421,
        "unknown-host",
        "Unknown host",
        "The API listens on loopback and accepts only loopback host names. Add the page's origin to "
        "CRYPTOLAKE_API_CORS_ORIGINS, or set CRYPTOLAKE_API_HOST to another address.",
    )


def unknown_snapshot() -> Problem:
    return Problem(
        404,
        "unknown-snapshot",
        "Unknown snapshot",
        "The table has no such snapshot, or none at that time, or it has expired. /catalog lists the snapshots.",
    )


def unauthorized() -> Problem:
    problem = Problem(
        401,
        "unauthorized",
        "Key required",
        "Send a key as `Authorization: Bearer …`. Create one with `cryptolake keys create`.",
    )
    problem.headers["WWW-Authenticate"] = 'Bearer realm="cryptolake"'
    return problem


def forbidden(scope: str) -> Problem:
    return Problem(403, "forbidden", "Scope missing", f"The key lacks the scope `{scope}`. Use a key that has it.")


def other_origin() -> Problem:
    return Problem(
        403, "forbidden", "Origin not allowed", "Only pages of the origins in CRYPTOLAKE_API_CORS_ORIGINS are allowed."
    )


def too_many_requests(retry_after_s: int) -> Problem:
    problem = Problem(429, "too-many-requests", "Too many requests", f"Try again in {retry_after_s} s.")
    problem.headers["Retry-After"] = str(retry_after_s)
    return problem


def _part_unavailable(error: PartError) -> Problem:
    log.info("part_unavailable", cause=str(error))
    return Problem(503, "unavailable", "Unavailable", "Dagster does not respond. `cryptolake status` shows its state.")


def _invalid_parameter(error: RequestValidationError) -> Problem:
    errors = [
        {"parameter": ".".join(map(str, item["loc"][1:])) or str(item["loc"][0]), "message": item["msg"]}
        for item in error.errors()
    ]
    detail = "A parameter is missing or invalid."
    return Problem(422, "invalid-parameter", "Invalid parameter", detail, errors=errors)


def _of_http(error: HTTPException) -> Problem:
    code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "rejected")
    title = "Request rejected" if code == "rejected" else code.replace("-", " ").capitalize()
    problem = Problem(error.status_code, code, title, "See the routes in /openapi.json.")
    problem.headers |= dict(error.headers or {})
    return problem


# Function that returns the problem of an error, by the error's class.
PROBLEMS: dict[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda problem: problem,
    TableNotFoundError: lambda error: Problem(503, "missing-table", "Table missing", str(error)),
    TableUnreadableError: lambda error: Problem(503, "unreadable-table", "Table unreadable", str(error)),
    ResponseTooLargeError: lambda error: Problem(413, "answer-too-large", "Response too large", str(error)),
    SnapshotExpiredError: lambda _error: unknown_snapshot(),
    PartError: _part_unavailable,
    RequestValidationError: _invalid_parameter,
    HTTPException: _of_http,
}


def install(app: FastAPI) -> None:
    """Register a handler for each class of `PROBLEMS` that responds with the problem."""
    for kind, problem_of in PROBLEMS.items():
        app.add_exception_handler(kind, partial(_respond, problem_of))


async def _respond(problem_of: Callable[[Any], Problem], _request: Request, error: Exception) -> Response:
    return problem_of(error).response()


def unexpected(path: str, error: Exception) -> Problem:
    """Return the problem of an unexpected error: log its details, show the client none of them."""
    log.error("request_failed", path=path, cause=repr(error), exc_info=error)
    if isinstance(error, CryptolakeError):
        return Problem(503, "unavailable", "Unavailable", "The request failed. See the API's log for the cause.")
    return Problem(500, "internal-error", "Internal error", "The request failed. See the API's log for the cause.")
