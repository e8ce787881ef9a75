"""Asks a batch source over HTTP: within its rate limit, again after what may pass; whatever comes back is handed on.

Nothing is judged here but the status: an answer that was refused is as much a record as a good one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_attempt
from tenacity.wait import wait_random_exponential

from cryptolake_assets.http.source_request import SourceRequest

log = structlog.get_logger(__name__)

MAX_BYTES = 16 * 1024 * 1024
"""Of a body; the longest that is known, the whole history of the index, has a fifth of a megabyte."""


@dataclass(frozen=True)
class SourceResponse:
    """What came back. `status` is None where nothing did; `failure` says what is wrong with it before its body is
    looked at, None for a 200. `retry_after_s` is what the source asked for."""

    request: SourceRequest
    fetched_at: datetime
    url: str
    status: int | None = None
    etag: str | None = None
    body: bytes = b""
    failure: str | None = None
    retry_after_s: float | None = None

    @property
    def may_pass(self) -> bool:
        """Whether it is worth asking again."""
        status = self.status
        return self.failure is not None and (
            status is None or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or status >= 500
        )


@dataclass(frozen=True)
class SourceRetryPolicy:
    """How often a request is made, how long is waited between two, and the longest `Retry-After` that is waited for."""

    attempts: int = 4
    max_backoff_s: float = 20.0
    max_retry_after_s: float = 90.0

    def is_over(self, state: RetryCallState) -> bool:
        """A source that asks for a longer pause is left alone."""
        answer = _answer_of(state)
        asked_s = answer.retry_after_s if answer is not None else None
        return stop_after_attempt(self.attempts)(state) or (asked_s or 0.0) > self.max_retry_after_s

    def wait_s(self, state: RetryCallState) -> float:
        """What the source asked for, and on top of it a full-jitter exponential backoff."""
        answer = _answer_of(state)
        asked_s = answer.retry_after_s if answer is not None and answer.retry_after_s else 0.0
        return asked_s + wait_random_exponential(multiplier=0.2, max=self.max_backoff_s)(state)


class SourceClient:
    """A client of one source. `get` never raises for what the source does."""

    def __init__(
        self,
        base_url: str,
        headers: dict[str, str],
        calls_a_minute: int,
        retry_policy: SourceRetryPolicy | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._base_url = base_url
        self._retry_policy = retry_policy or SourceRetryPolicy()
        self._limit = RateLimitItemPerMinute(calls_a_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._client = httpx.Client(
            headers={"Accept": "application/json", **headers}, timeout=timeout_s, follow_redirects=False
        )

    def get(self, request: SourceRequest) -> SourceResponse:
        """The last answer: a good one, one that asking again does not mend, or that of the last attempt."""
        retrying = Retrying(
            retry=retry_if_result(lambda answer: answer.may_pass),
            stop=self._retry_policy.is_over,
            wait=self._retry_policy.wait_s,
            before_sleep=_log_retry,
            retry_error_callback=_answer_of,
        )
        answer: SourceResponse = retrying(self._once, request)
        return answer

    def close(self) -> None:
        self._client.close()

    def _once(self, request: SourceRequest) -> SourceResponse:
        self._wait_for_turn()
        asked = self._client.build_request("GET", self._base_url + request.path, params=dict(request.params))
        url, now = str(asked.url), datetime.now(UTC)
        try:
            response = self._client.send(asked, stream=True)
            try:
                body = _read(response)
            finally:
                response.close()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return SourceResponse(request, now, url, failure=f"no answer: {type(error).__name__} {error}".strip())
        status, etag = response.status_code, response.headers.get("ETag")
        if len(body) > MAX_BYTES:
            return SourceResponse(request, now, url, status, etag, body[:1024], f"body of more than {MAX_BYTES} bytes")
        failure = None if status == httpx.codes.OK else f"status {status}"
        return SourceResponse(request, now, url, status, etag, body, failure, _retry_after_s(response))

    def _wait_for_turn(self) -> None:
        while not self._limiter.hit(self._limit):
            reset_at = self._limiter.get_window_stats(self._limit).reset_time
            time.sleep(max(0.05, reset_at - time.time()))


@contextmanager
def open_source_client(
    base_url: str, headers: dict[str, str], calls_a_minute: int, retry_policy: SourceRetryPolicy | None = None
) -> Iterator[SourceClient]:
    client = SourceClient(base_url, headers, calls_a_minute, retry_policy)
    try:
        yield client
    finally:
        client.close()


def _read(response: httpx.Response) -> bytes:
    """The body, and no more of it than one chunk over the bound."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            break
    return b"".join(parts)


def _retry_after_s(response: httpx.Response) -> float | None:
    """The header's seconds, whether it says them or a date; None without one that can be read."""
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        wanted: datetime = parsedate_to_datetime(text)
        return max(0.0, (wanted - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _answer_of(state: RetryCallState) -> SourceResponse | None:
    return state.outcome.result() if state.outcome is not None else None


def _log_retry(state: RetryCallState) -> None:
    answer = _answer_of(state)
    if answer is not None:
        log.warning(
            "source_retry",
            url=answer.url,
            attempt=state.attempt_number,
            wait_s=round(state.upcoming_sleep, 3),
            cause=answer.failure,
        )
