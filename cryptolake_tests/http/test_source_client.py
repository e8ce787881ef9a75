"""The client of batch sources against the replay exchange, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.http.source_client import SourceClient
from cryptolake_assets.model.replay_faults import SourceFault, SourceFaultKind
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.exchanges import ExchangeThread

AT_MS = 1_721_347_502_000
INDEX = HttpRequest("/fng/", {"limit": 3}, endpoint="days")
QUICK = RetryPolicy(attempts=3, max_backoff_s=0.01, max_retry_after_s=90)


@pytest.fixture
def exchange() -> Iterator[ExchangeThread]:
    with ExchangeThread(DEMO_CAPTURE_DIR, AT_MS) as running:
        yield running


@pytest.fixture
def client(exchange: ExchangeThread) -> Iterator[SourceClient]:
    with SourceClient(exchange.url, {"x-cg-demo-api-key": "demo-key"}, 1_000, QUICK) as client:
        yield client


def switch_on_fault(exchange: ExchangeThread, kind: SourceFaultKind, times: int = 1, seconds: int = 1) -> None:
    """Switch on a fault of the index over HTTP, like a user."""
    body = {"source": "fear_greed", "kind": kind.value, "times": times, "seconds": seconds}
    httpx.post(f"{exchange.url}/replay/faults", json=body, trust_env=False).raise_for_status()


def test_index_ends_at_the_replayed_clock(client: SourceClient, exchange: ExchangeThread) -> None:
    response = client.get(INDEX)
    assert (response.status, response.failure) == (200, None)
    days = json.loads(response.body)["data"]
    assert [day["timestamp"] for day in days] == ["1721347200", "1721260800", "1721174400"]
    assert exchange.replay.batch.requests == ["/fng/?limit=3 key=demo-key"]
    assert "demo-key" not in response.url


def test_rate_limited_request_waits_and_succeeds(client: SourceClient, exchange: ExchangeThread) -> None:
    switch_on_fault(exchange, SourceFaultKind.RATE_LIMIT, seconds=1)
    began = time.monotonic()
    assert client.get(INDEX).failure is None
    assert time.monotonic() - began >= 1.0
    assert len(exchange.replay.batch.requests) == 2


def test_long_rate_limit_ends_the_retries(client: SourceClient, exchange: ExchangeThread) -> None:
    switch_on_fault(exchange, SourceFaultKind.RATE_LIMIT, times=5, seconds=3_600)
    response = client.get(INDEX)
    assert (response.status, response.failure, response.retry_after_s) == (429, "status 429", 3_600)
    assert len(exchange.replay.batch.requests) == 1


def test_server_error_is_retried_and_html_page_is_not(client: SourceClient, exchange: ExchangeThread) -> None:
    switch_on_fault(exchange, SourceFaultKind.SERVER_ERROR, times=2)
    assert client.get(INDEX).failure is None
    switch_on_fault(exchange, SourceFaultKind.SERVER_ERROR, times=3)
    assert client.get(INDEX).failure == "status 502"
    before = len(exchange.replay.batch.requests)
    switch_on_fault(exchange, SourceFaultKind.HTML)
    assert client.get(INDEX).body.startswith(b"<!DOCTYPE html>")
    assert len(exchange.replay.batch.requests) == before + 1


def test_slow_source_times_out(exchange: ExchangeThread) -> None:
    exchange.replay.control.switch_on(SourceFault("fear_greed", SourceFaultKind.SLOW, times=2, seconds=5))
    policy = RetryPolicy(attempts=2, max_backoff_s=0.01)
    with SourceClient(exchange.url, {}, 1_000, policy, timeout_s=0.2) as client:
        response = client.get(INDEX)
    assert response.status is None
    assert "ReadTimeout" in (response.failure or "")


def test_unreachable_source_returns_a_response() -> None:
    with SourceClient("http://127.0.0.1:9", {}, 1_000, QUICK) as client:
        response = client.get(INDEX)
    assert response.status is None
    assert (response.failure or "").startswith("no response: ConnectError")


def test_calls_per_minute_are_limited(exchange: ExchangeThread, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    class MinuteIsOverError(Exception):
        pass

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise MinuteIsOverError

    with SourceClient(exchange.url, {}, 3, QUICK) as client:
        for _ in range(3):
            client.get(INDEX)
        monkeypatch.setattr("cryptolake_assets.http.source_client.time.sleep", sleep)
        with pytest.raises(MinuteIsOverError):
            client.get(INDEX)
    assert 50 < slept[0] <= 60
    assert len(exchange.replay.batch.requests) == 3
