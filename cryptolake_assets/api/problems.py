"""Errors as problem details (RFC 9457): what went wrong, in fixed words; never an exception's text by accident."""

from __future__ import annotations

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
    """An answer that is an error; `detail` is for the client's eyes."""

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


def unknown_symbol(symbol: str) -> Problem:
    return Problem(
        404, "unknown-symbol", "Unknown symbol", f"There is no data of {symbol}; /symbols lists what there is."
    )


def unknown_cursor() -> Problem:
    return Problem(
        404, "unknown-cursor", "Unknown cursor", "No page of this table ended there. Begin without a cursor."
    )


def cursor_of_another_request() -> Problem:
    return Problem(
        400,
        "cursor-of-another-request",
        "Cursor of another request",
        "The cursor belongs to another route, symbol, order or snapshot. Send it with the parameters of the page that "
        "gave it, or begin without a cursor.",
    )


def unknown_host() -> Problem:
    return Problem(
        421,
        "unknown-host",
        "Unknown host",
        "The API listens on loopback alone and answers under its names. Name the page's origin in "
        "CRYPTOLAKE_API_CORS_ORIGINS, or let the API listen elsewhere (CRYPTOLAKE_API_HOST).",
    )


def unknown_snapshot() -> Problem:
    return Problem(
        404,
        "unknown-snapshot",
        "Unknown snapshot",
        "The table has no such snapshot, or none at that time (any more); /catalog lists what there is.",
    )


def missing_table(error: TableNotFoundError) -> Problem:
    return Problem(503, "missing-table", "Table missing", str(error))


def too_large(error: ResponseTooLargeError) -> Problem:
    return Problem(413, "answer-too-large", "Answer too large", str(error))


def unauthorized() -> Problem:
    problem = Problem(
        401,
        "unauthorized",
        "Key needed",
        "Send a key as `Authorization: Bearer …`; `cryptolake keys create` makes one.",
    )
    problem.headers["WWW-Authenticate"] = 'Bearer realm="cryptolake"'
    return problem


def forbidden(scope: str) -> Problem:
    return Problem(403, "forbidden", "Not with this key", f"The key lacks the scope `{scope}`.")


def other_origin() -> Problem:
    return Problem(
        403, "forbidden", "Not from this page", "Only pages of the origins in CRYPTOLAKE_API_CORS_ORIGINS may call."
    )


def too_many_requests(retry_after_s: int) -> Problem:
    problem = Problem(429, "too-many-requests", "Too many requests", f"Try again in {retry_after_s} s.")
    problem.headers["Retry-After"] = str(retry_after_s)
    return problem


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem."""

    @app.exception_handler(Problem)
    async def _problem(_request: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(TableNotFoundError)
    async def _missing(_request: Request, error: TableNotFoundError) -> Response:
        return missing_table(error).response()

    @app.exception_handler(TableUnreadableError)
    async def _unreadable(_request: Request, error: TableUnreadableError) -> Response:
        return Problem(503, "unreadable-table", "Table unreadable", str(error)).response()

    @app.exception_handler(PartError)
    async def _part(_request: Request, error: PartError) -> Response:
        log.info("part_unavailable", cause=str(error))
        return Problem(
            503, "unavailable", "Unavailable", "Dagster does not answer; `cryptolake status` says more."
        ).response()

    @app.exception_handler(ResponseTooLargeError)
    async def _too_large(_request: Request, error: ResponseTooLargeError) -> Response:
        return too_large(error).response()

    @app.exception_handler(SnapshotExpiredError)
    async def _expired(_request: Request, _error: SnapshotExpiredError) -> Response:
        return unknown_snapshot().response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"parameter": ".".join(map(str, item["loc"][1:])) or str(item["loc"][0]), "message": item["msg"]}
            for item in error.errors()
        ]
        problem = Problem(
            422, "invalid-parameter", "Invalid parameter", "A parameter is missing or does not parse.", errors=errors
        )
        return problem.response()

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> Response:
        names = {404: "not-found", 405: "method-not-allowed"}
        code = names.get(error.status_code, "refused")
        problem = Problem(error.status_code, code, code.replace("-", " ").capitalize(), "See /openapi.json.")
        problem.headers |= dict(error.headers or {})
        return problem.response()


def unexpected(path: str, error: Exception) -> Problem:
    """For what nobody foresaw: the log says all, the client nothing of it."""
    log.error("request_failed", path=path, cause=repr(error), exc_info=error)
    if isinstance(error, CryptolakeError):
        return Problem(503, "unavailable", "Unavailable", "The request failed; the API's log says why.")
    return Problem(500, "internal-error", "Internal error", "The request failed; the API's log says why.")
