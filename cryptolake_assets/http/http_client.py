"""HTTP clients, blocking and asyncio: bounded bodies, and retries as one policy says.

Both share how a request is built, answered and tried again; they differ only in who waits. The result is a value for
whatever the server does: a rejected request is as much a record as a good response.
"""

from __future__ import annotations

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
from tenacity.wait import wait_random_exponential

from cryptolake_assets.http.http_request import HttpRequest

log = structlog.get_logger(__name__)

C = TypeVar("C", httpx.Client, httpx.AsyncClient)

MAX_BYTES = 64 * 1024 * 1024
"""Of a body; well above the longest, the spot market's exchangeInfo."""
RATE_LIMITED = (418, 429)
"""The exchange answers 418 to those who go on after a 429."""


@dataclass(frozen=True)
class HttpResponse:
    """What became of a request.

    `status` is None where nothing came back. `failure` says what is wrong, None for a 200; `may_pass` whether asking
    again may help.
    """

    request: HttpRequest
    url: str
    fetched_at: datetime
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=httpx.Headers)
    body: bytes = b""
    failure: str | None = None
    may_pass: bool = False

    @property
    def etag(self) -> str | None:
        return self.headers.get("ETag")

    @property
    def retry_after_s(self) -> float:
        """The pause that the server asks for, in seconds or by a date; 1 s for a rate limit that does not say."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        with suppress(ValueError, TypeError):
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
        return 1.0 if self.status in RATE_LIMITED else 0.0

    def begun(self, stream: httpx.Response) -> HttpResponse:
        """Return the response with the status and the headers that came."""
        status = stream.status_code
        return replace(
            self,
            url=str(stream.url),
            status=status,
            headers=stream.headers,
            failure=None if status == httpx.codes.OK else f"status {status}",
            may_pass=status in (httpx.codes.REQUEST_TIMEOUT, *RATE_LIMITED) or status >= 500,
        )

    def with_body(self, body: bytearray) -> HttpResponse:
        if len(body) > MAX_BYTES:
            return replace(self, body=bytes(body[:1024]), failure=f"body of more than {MAX_BYTES} bytes")
        return replace(self, body=bytes(body))

    def passing(self, failure: str) -> HttpResponse:
        """Return the response with a failure that may pass."""
        return replace(self, failure=failure, may_pass=True)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is made and how long is waited between two attempts.

    A pause longer than `max_retry_after_s` ends it at once: trying earlier would only lengthen a ban.
    """

    attempts: int = 5
    max_backoff_s: float = 5.0
    max_retry_after_s: float = 60.0

    def arguments(self, stop: Callable[[RetryCallState], bool] | None = None) -> dict[str, Any]:
        """For tenacity's `Retrying` and `AsyncRetrying` of a call that returns an `HttpResponse`; `stop` is asked
        instead of counting attempts."""
        return {
            "retry": retry_if_result(attrgetter("may_pass")),
            "stop": lambda state: (
                _response_of(state).retry_after_s > self.max_retry_after_s
                or (stop or stop_after_attempt(self.attempts))(state)
            ),
            "wait": self._wait_s,
            "before_sleep": _log_retry,
            "retry_error_callback": _response_of,
        }

    def _wait_s(self, state: RetryCallState) -> float:
        """What the server asked for, and on top of it a full-jitter exponential backoff."""
        backoff_s = wait_random_exponential(multiplier=0.1, max=self.max_backoff_s)(state)
        return _response_of(state).retry_after_s + backoff_s


def _response_of(state: RetryCallState) -> HttpResponse:
    """Return the response of an attempt that has ended and raised nothing: no other is tried again."""
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
    """One for the process: to load the trusted certificates takes longer than a request."""
    return httpx.create_ssl_context()


class _Client(Generic[C]):
    """What both forms share."""

    def __init__(self, http: C, policy: RetryPolicy | None) -> None:
        self._http: C = http
        self.policy = policy or RetryPolicy()

    def _build(self, request: HttpRequest) -> tuple[httpx.Request, HttpResponse]:
        """Return what is to be sent, and the response as long as there is none."""
        sent = self._http.build_request("GET", request.path, params=request.params, headers=request.headers)
        return sent, HttpResponse(request, str(sent.url), datetime.now(UTC))


class HttpClient(_Client[httpx.Client]):
    """The blocking client. `get` never raises for what the server does."""

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
        """Make one attempt, whose body `receive` reads."""
        sent, response = self._build(request)
        try:
            with closing(self._http.send(sent, stream=True)) as stream:
                return receive(response.begun(stream), stream)
        except httpx.HTTPError as error:
            return response.passing(_no_answer(error))


class AsyncHttpClient(_Client[httpx.AsyncClient]):
    """The asyncio client. `get` never raises for what the server does."""

    def __init__(self, base_url: str, timeout_s: float, policy: RetryPolicy | None = None) -> None:
        super().__init__(httpx.AsyncClient(base_url=base_url, timeout=timeout_s, verify=tls()), policy)

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
                return response.begun(stream).with_body(body)
        except httpx.HTTPError as error:
            return response.passing(_no_answer(error))


def _read(response: HttpResponse, stream: httpx.Response) -> HttpResponse:
    """Read the body, no more of it than one chunk over the bound."""
    body = bytearray()
    for part in stream.iter_bytes():
        body += part
        if len(body) > MAX_BYTES:
            break
    return response.with_body(body)


def _no_answer(error: httpx.HTTPError) -> str:
    return f"no answer: {type(error).__name__} {error}".strip()
