"""HTTP clients, blocking and asyncio, with bounded bodies and one retry policy.

Both share request building, response handling and retries. A failure is returned as a value, not raised, because
callers also record failed responses.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Generic, Self, TypeVar, cast

import httpx
import structlog
from tenacity import AsyncRetrying, Future, RetryCallState, Retrying, retry_if_result, stop_after_attempt
from tenacity.wait import wait_exponential

from cryptolake_assets.http.http_request import HttpRequest

log = structlog.get_logger(__name__)

C = TypeVar("C", httpx.Client, httpx.AsyncClient)

MAX_BYTES = 64 * 1024 * 1024  # maximum body; well above the largest, Spot's exchangeInfo
RATE_LIMITED = (418, 429)  # the exchange responds 418 to clients that continue after a 429


@dataclass(frozen=True)
class HttpResponse:
    """The result of a request.

    `status` is None if there was no response. `failure` is the cause, None for a 200; `is_transient`: a retry may
    succeed.
    """

    request: HttpRequest
    url: str
    fetched_at: datetime
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=httpx.Headers)
    body: bytes = b""
    failure: str | None = None
    is_transient: bool = False

    @property
    def etag(self) -> str | None:
        return self.headers.get("ETag")

    @property
    def retry_after_s(self) -> float:
        """Seconds to wait by `Retry-After` (seconds or a date); without it, 1 for a rate limit, else 0."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        with suppress(ValueError, TypeError):
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
        return 1.0 if self.status in RATE_LIMITED else 0.0

    def with_status(self, stream: httpx.Response) -> HttpResponse:
        """Return the response with the received status and headers."""
        status = stream.status_code
        return replace(
            self,
            url=str(stream.url),
            status=status,
            headers=stream.headers,
            failure=None if status == httpx.codes.OK else f"status {status}",
            is_transient=status in (httpx.codes.REQUEST_TIMEOUT, *RATE_LIMITED) or status >= 500,
        )

    def with_body(self, body: bytearray) -> HttpResponse:
        if len(body) > MAX_BYTES:
            return replace(self, body=bytes(body[:1024]), failure=f"body larger than {MAX_BYTES} bytes")
        return replace(self, body=bytes(body))

    def with_transient_failure(self, failure: str) -> HttpResponse:
        """Return the response with a transient failure."""
        return replace(self, failure=failure, is_transient=True)


@dataclass(frozen=True)
class RetryPolicy:
    """The number of attempts and the wait between them.

    A requested pause above `max_retry_after_s` ends the retries: trying earlier would only lengthen a ban.
    """

    attempts: int = 5
    max_backoff_s: float = 5.0
    max_retry_after_s: float = 60.0
    uniform: Callable[[float, float], float] = random.uniform  # source of the jitter

    def arguments(self, stop: Callable[[RetryCallState], bool] | None = None) -> dict[str, Any]:
        """Return arguments for tenacity's `Retrying` and `AsyncRetrying` of a call that returns an `HttpResponse`.

        `stop` replaces the limit of attempts.
        """
        return {
            "retry": retry_if_result(attrgetter("is_transient")),
            "stop": lambda state: (
                _response_of(state).retry_after_s > self.max_retry_after_s
                or (stop or stop_after_attempt(self.attempts))(state)
            ),
            "wait": self._wait_s,
            "before_sleep": _log_retry,
            "retry_error_callback": _response_of,
        }

    def _wait_s(self, state: RetryCallState) -> float:
        """Return the requested pause plus a full-jitter exponential backoff."""
        backoff_s = wait_exponential(multiplier=0.1, max=self.max_backoff_s)(state)
        return _response_of(state).retry_after_s + self.uniform(0, backoff_s)


def _response_of(state: RetryCallState) -> HttpResponse:
    """Return the response of a finished attempt; attempts that raise are not retried."""
    return cast(HttpResponse, cast(Future, state.outcome).result())


def _log_retry(state: RetryCallState) -> None:
    response = _response_of(state)
    log.warning(
        "http_retried",
        url=response.url,
        attempt=state.attempt_number,
        wait_s=round(state.upcoming_sleep, 3),
        cause=response.failure,
        body=response.body[:200].decode(errors="replace"),
    )


@lru_cache(maxsize=1)
def tls() -> ssl.SSLContext:
    """Return the process-wide TLS context: loading the trusted certificates takes longer than a request."""
    return httpx.create_ssl_context()


class _Client(Generic[C]):
    """Shared parts of both clients."""

    def __init__(self, http: C, policy: RetryPolicy | None) -> None:
        self._http: C = http
        self.policy = policy or RetryPolicy()

    def _build(self, request: HttpRequest) -> tuple[httpx.Request, HttpResponse]:
        """Return the httpx request and an empty response."""
        sent = self._http.build_request("GET", request.path, params=request.params, headers=request.headers)
        return sent, HttpResponse(request, str(sent.url), datetime.now(UTC))


class HttpClient(_Client[httpx.Client]):
    """The blocking client. `get` returns server and network failures instead of raising them."""

    def __init__(
        self,
        base_url: str,
        timeout_s: float,
        policy: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        follow_redirects: bool = False,
    ) -> None:
        http = httpx.Client(
            base_url=base_url, timeout=timeout_s, headers=headers, verify=tls(), follow_redirects=follow_redirects
        )
        super().__init__(http, policy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def get(self, request: HttpRequest) -> HttpResponse:
        """Return the final response: success, a non-retryable error, or the last attempt."""
        return Retrying(**self.policy.arguments())(self.once, request)

    def once(self, request: HttpRequest) -> HttpResponse:
        """Make one attempt."""
        return self.stream(request, _read)

    def stream(
        self, request: HttpRequest, receive: Callable[[HttpResponse, httpx.Response], HttpResponse]
    ) -> HttpResponse:
        """Make one attempt; `receive` reads the body."""
        sent, response = self._build(request)
        try:
            with closing(self._http.send(sent, stream=True)) as stream:
                return receive(response.with_status(stream), stream)
        except httpx.HTTPError as error:
            return response.with_transient_failure(_no_response(error))


class AsyncHttpClient(_Client[httpx.AsyncClient]):
    """The asyncio client. `get` returns server and network failures instead of raising them."""

    def __init__(
        self,
        base_url: str,
        timeout_s: float,
        policy: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` replaces the network."""
        http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s, verify=tls(), transport=transport)
        super().__init__(http, policy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.aclose()

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Return the final response: success, a non-retryable error, or the last attempt."""
        response: HttpResponse = await AsyncRetrying(**self.policy.arguments())(self.once, request)
        return response

    async def once(self, request: HttpRequest) -> HttpResponse:
        """Make one attempt."""
        sent, response = self._build(request)
        body = bytearray()
        try:
            async with aclosing(await self._http.send(sent, stream=True)) as stream:
                async for part in stream.aiter_bytes():
                    body += part
                    if len(body) > MAX_BYTES:
                        break
                return response.with_status(stream).with_body(body)
        except httpx.HTTPError as error:
            return response.with_transient_failure(_no_response(error))


def _read(response: HttpResponse, stream: httpx.Response) -> HttpResponse:
    """Read the body, at most one chunk beyond `MAX_BYTES`."""
    body = bytearray()
    for part in stream.iter_bytes():
        body += part
        if len(body) > MAX_BYTES:
            break
    return response.with_body(body)


def _no_response(error: httpx.HTTPError) -> str:
    return f"no response: {type(error).__name__} {error}".strip()
