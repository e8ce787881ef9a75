"""The client of batch sources against the replay exchange's double, over real sockets."""

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
    with SourceClient(exchange.url, {"x-cg-demo-api-key": "demo-key"}, 1_000, QUICK) as made:
        yield made


def fault(exchange: ExchangeThread, kind: SourceFaultKind, times: int = 1, seconds: int = 1) -> None:
    """Switched over HTTP, as a user would."""
    body = {"source": "fear_greed", "kind": kind.value, "times": times, "seconds": seconds}
    httpx.post(f"{exchange.url}/replay/faults", json=body, trust_env=False).raise_for_status()


def test_the_index_is_told_as_of_the_replayed_clock(client: SourceClient, exchange: ExchangeThread) -> None:
    answer = client.get(INDEX)
    assert (answer.status, answer.failure) == (200, None)
    days = json.loads(answer.body)["data"]
    assert [day["timestamp"] for day in days] == ["1721347200", "1721260800", "1721174400"]
    assert exchange.replay.batch.requests == ["/fng/?limit=3 key=demo-key"]
    assert "demo-key" not in answer.url


def test_a_rate_limit_is_waited_for_and_then_answered(client: SourceClient, exchange: ExchangeThread) -> None:
    fault(exchange, SourceFaultKind.RATE_LIMIT, seconds=1)
    began = time.monotonic()
    assert client.get(INDEX).failure is None
    assert time.monotonic() - began >= 1.0
    assert len(exchange.replay.batch.requests) == 2


def test_a_rate_limit_that_is_too_long_is_left_alone(client: SourceClient, exchange: ExchangeThread) -> None:
    fault(exchange, SourceFaultKind.RATE_LIMIT, times=5, seconds=3_600)
    answer = client.get(INDEX)
    assert (answer.status, answer.failure, answer.retry_after_s) == (429, "status 429", 3_600)
    assert len(exchange.replay.batch.requests) == 1


def test_an_error_of_the_server_is_tried_again_and_an_html_page_is_not(
    client: SourceClient, exchange: ExchangeThread
) -> None:
    fault(exchange, SourceFaultKind.SERVER_ERROR, times=2)
    assert client.get(INDEX).failure is None
    fault(exchange, SourceFaultKind.SERVER_ERROR, times=3)
    assert client.get(INDEX).failure == "status 502"
    before = len(exchange.replay.batch.requests)
    fault(exchange, SourceFaultKind.HTML)
    assert client.get(INDEX).body.startswith(b"<!DOCTYPE html>")
    assert len(exchange.replay.batch.requests) == before + 1


def test_a_slow_source_is_given_up(exchange: ExchangeThread) -> None:
    exchange.replay.control.switch_on(SourceFault("fear_greed", SourceFaultKind.SLOW, times=2, seconds=5))
    policy = RetryPolicy(attempts=2, max_backoff_s=0.01)
    with SourceClient(exchange.url, {}, 1_000, policy, timeout_s=0.2) as client:
        answer = client.get(INDEX)
    assert answer.status is None
    assert "ReadTimeout" in (answer.failure or "")


def test_a_source_that_is_away_is_an_answer_too() -> None:
    with SourceClient("http://127.0.0.1:9", {}, 1_000, QUICK) as client:
        answer = client.get(INDEX)
    assert answer.status is None
    assert (answer.failure or "").startswith("no response: ConnectError")


def test_calls_of_a_minute_are_bounded(exchange: ExchangeThread, monkeypatch: pytest.MonkeyPatch) -> None:
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
