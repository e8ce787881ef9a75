"""The blocking and the asyncio HTTP client against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from structlog.testing import capture_logs

from cryptolake_assets.http import http_client
from cryptolake_assets.http.http_client import AsyncHttpClient, HttpClient, HttpResponse, RetryPolicy
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_tests.support.scripted_server import ScriptedServer

QUICK = RetryPolicy(attempts=3, max_backoff_s=0.01, max_retry_after_s=2)
REQUEST = HttpRequest("/days", {"limit": 3}, {"X-Key": "secret"}, endpoint="days")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer().running() as running:
        yield running


async def _both(url: str) -> HttpResponse:
    """Return the response of both clients; they are equal except for the time and the error text of the library."""
    with HttpClient(url, 5, QUICK) as client:
        blocking = await asyncio.to_thread(client.get, REQUEST)
    async with AsyncHttpClient(url, 5, QUICK) as other:
        response = await other.get(REQUEST)
    kinds = [(found.failure or "").split()[:3] for found in (blocking, response)]
    assert kinds[0] == kinds[1]
    now, headers, failure = response.fetched_at, response.headers, response.failure
    assert replace(blocking, fetched_at=now, headers=headers, failure=failure) == response
    return response


async def test_success_is_a_response_without_failure(server: ScriptedServer) -> None:
    server.script = [(200, {"ETag": '"a"'}, "text")]
    response = await _both(server.url + "/v1/")
    assert (response.request, response.url) == (REQUEST, f"{server.url}/v1/days?limit=3")
    assert (response.status, response.etag, response.body) == (200, '"a"', b"text")
    assert (response.failure, response.is_transient) == (None, False)


@pytest.mark.parametrize("status", [408, 418, 429, 500, 503])
async def test_transient_failure_is_retried(server: ScriptedServer, status: int) -> None:
    server.script = [(status, {"Retry-After": "0"}, "wait"), (200, {}, "text")]
    with capture_logs() as logs:
        assert (await _both(server.url)).failure is None
    assert server.requests == 2 + 1
    (retried,) = logs
    assert (retried["event"], retried["attempt"]) == ("http_retried", 1)
    assert (retried["cause"], retried["body"]) == (f"status {status}", "wait")


async def test_response_is_that_of_the_last_attempt(server: ScriptedServer) -> None:
    server.script = [(502, {}, "down")]
    response = await _both(server.url)
    assert (response.status, response.failure, response.is_transient) == (502, "status 502", True)
    assert response.body == b"down"
    assert server.requests == 3 + 3


@pytest.mark.parametrize("status", [204, 302, 400, 404])
async def test_permanent_failure_is_not_retried(server: ScriptedServer, status: int) -> None:
    server.script = [(status, {"Location": "/elsewhere"}, "")]
    response = await _both(server.url)
    assert (response.status, response.failure, response.is_transient) == (status, f"status {status}", False)
    assert server.requests == 1 + 1


async def test_requested_pause_above_the_limit_ends_the_retries(server: ScriptedServer) -> None:
    server.script = [(503, {"Retry-After": "3"}, "")]
    assert (await _both(server.url)).retry_after_s == 3
    assert server.requests == 1 + 1


def test_retry_after_is_seconds_or_a_date() -> None:
    response = HttpResponse(REQUEST, "http://x/", datetime.now(UTC), status=429)

    def pause_s(text: str, status: int = 429) -> float:
        return replace(response, status=status, headers={"Retry-After": text}).retry_after_s

    assert pause_s(" 120 ") == 120
    assert 50 < pause_s(format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)) <= 60
    assert pause_s("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    for text in ("", "soon", "-5", "1.5", "٣", "Thu, 01 Jan 1970 00:00:00 -0000"):
        assert (pause_s(text), pause_s(text, 503)) == (1, 0), text


async def test_body_size_is_limited(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MAX_BYTES", 2_000)
    server.script = [(200, {}, "x" * 2_000)]
    assert (await _both(server.url)).failure is None
    server.script = [(200, {}, "x" * 2_001)]
    response = await _both(server.url)
    assert (response.failure, response.is_transient) == ("body larger than 2000 bytes", False)
    assert response.body == b"x" * 1_024


async def test_unreachable_server_returns_a_response() -> None:
    for url, error in (("http://127.0.0.1:9", "ConnectError"), ("nonsense", "UnsupportedProtocol")):
        response = await _both(url)
        assert (response.status, response.body, response.is_transient) == (None, b"", True)
        assert (response.failure or "").startswith(f"no response: {error}")
        assert response.url == f"{url}/days?limit=3"
