"""The rate-limited HTTP client of a batch source."""

from __future__ import annotations

import time
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from cryptolake_assets.http.http_client import HttpClient, HttpResponse, RetryPolicy
from cryptolake_assets.http.http_request import HttpRequest

# Sources count calls per minute and request pauses of about a minute.
RETRY_POLICY = RetryPolicy(attempts=4, max_backoff_s=20.0, max_retry_after_s=90.0)


class SourceClient(HttpClient):
    """A client of one source; it makes at most `calls_a_minute` attempts per minute."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        calls_a_minute: int,
        policy: RetryPolicy | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(base_url, timeout_s, policy or RETRY_POLICY, {"Accept": "application/json", **headers})
        self._limit = RateLimitItemPerMinute(calls_a_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def once(self, request: HttpRequest) -> HttpResponse:
        while not self._limiter.hit(self._limit):
            reset_at = self._limiter.get_window_stats(self._limit).reset_time
            time.sleep(max(0.05, reset_at - time.time()))
        return super().once(request)
