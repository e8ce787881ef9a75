"""Faults of the replay exchange: their JSON, and their effect on clients over real sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.errors import ExchangeError, SettingsError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.model.hostile_frames import HOSTILE_FRAMES, LARGEST_BYTES
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.replay_faults import (
    ClockSkew,
    Corrupt,
    Cut,
    Drop,
    Duplicate,
    FaultBoard,
    HalfOpen,
    Hostile,
    Reorder,
    RestHtml,
    RestLimit,
    RestReset,
    Rotation,
    Shutdown,
    Silent,
    SourceFault,
    SourceFaultKind,
    Stall,
    parse_faults,
)
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.replay.websocket_client import ClientLimits
from cryptolake_assets.settings import load_settings
from cryptolake_tests.support.sockets import ask, numbered_capture, open_socket, take, trade_ids, until

STREAM = "/market/stream?streams=btcusdt@trade"


def test_faults_are_parsed_from_json() -> None:
    assert parse_faults(" ") == ()
    assert parse_faults('{"kind": "cut", "every_frames": 10, "times": 2}') == (Cut(every_frames=10, times=2),)
    document = [
        {"kind": "drop", "ids": [[1, 2]], "streams": ["btcusdt@trade"], "seed": 3},
        {"kind": "rest_limit", "status": 418, "retry_after_s": 60, "for_s": 5, "paths": ["/fapi/v1/aggTrades"]},
        {"kind": "html", "source": "coingecko", "times": 3},
    ]
    assert parse_faults(json.dumps(document)) == (
        Drop(ids=((1, 2),), streams=("btcusdt@trade",), seed=3),
        RestLimit(status=418, retry_after_s=60, for_s=5.0, paths=("/fapi/v1/aggTrades",)),
        SourceFault("coingecko", SourceFaultKind.HTML, times=3),
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("drop", "malformed"),
        ('{"kind": "dance"}', "dance"),
        ('{"kind": "drop"}', "`share` or `ids`"),
        ('{"kind": "cut"}', "`every_frames` or `every_s`"),
        ('{"kind": "drop", "share": 1.5}', "<= 1"),
        ('{"kind": "drop", "share": 0.5, "shar": 1}', "shar"),
        ('{"kind": "stall", "every_frames": 5}', "for_s"),
        ('{"kind": "html", "source": "nobody"}', "nobody"),
        ('{"kind": "rest_limit", "status": 500}', "500"),
        ('{"kind": "hostile", "share": 1, "frames": ["kind"]}', "`frames` must be some of html, empty"),
        ("[1]", "object"),
    ],
)
def test_invalid_fault_raises_an_error(text: str, cause: str) -> None:
    with pytest.raises(SettingsError, match=cause):
        parse_faults(text)
    with pytest.raises(SettingsError, match=r"CRYPTOLAKE_REPLAY_FAULTS: .*not a fault switch"):
        load_settings(replay_faults=text)


def test_rest_limit_applies_to_its_paths_for_a_number_of_requests_or_seconds() -> None:
    board = FaultBoard()
    board.switch_on([RestLimit(times=2, paths=("/fapi/v1/aggTrades",)), RestLimit(status=418, for_s=10.0)])
    statuses = [
        fault.status if isinstance(fault := board.rest_fault(Market.USD_M, path, now_s), RestLimit) else None
        for path, now_s in [
            ("/fapi/v1/aggTrades", 100.0),
            ("/fapi/v1/time", 100.0),
            ("/fapi/v1/aggTrades", 109.0),
            ("/fapi/v1/aggTrades", 109.9),
            ("/fapi/v1/aggTrades", 110.0),
        ]
    ]
    assert statuses == [429, 418, 429, 418, None]


async def received(exchange: ReplayExchange, path: str = STREAM) -> list[str]:
    """Return the frames that one connection receives until the end of the capture."""
    async with open_socket(exchange, path) as socket:
        await until(lambda: exchange.status()["state"] == "finished")
        await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        texts: list[str] = []
        async with asyncio.timeout(10):
            while '"id":1' not in (text := str(await socket.recv())):
                texts.append(text)
        return texts


async def test_frames_are_dropped_duplicated_reordered_and_corrupted(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 500, 1)
    faults = (Drop(ids=((100, 149),)), Duplicate(share=0.1), Reorder(share=0.1), Corrupt(share=0.05, seed=7))
    async with ReplayExchange(tmp_path, 0, faults=faults).running() as exchange:
        texts = await received(exchange)
        async with httpx.AsyncClient(base_url=exchange.url) as client:
            happened = {
                fault["kind"]: fault["happened"] for fault in (await client.get("/replay/faults")).json()["faults"]
            }
            ledger = (await client.get("/replay/ledger")).json()
    intact = [text for text in texts if not text.endswith("\x1a")]
    ids = trade_ids(intact)
    assert happened["drop"] == 50
    assert (
        0
        < happened["corrupt"]
        == len(texts) - len(intact) - sum(texts.count(text) - 1 for text in set(texts) - set(intact))
    )
    assert len(set(ids)) == 450 - happened["corrupt"]
    assert set(ids).isdisjoint(range(100, 150))
    assert len(texts) == 450 + happened["duplicate"]
    assert ids != sorted(ids)
    assert ledger["emitted"] == {"usdm": {"btcusdt@trade": [[0, 499]]}}, "the ledger includes dropped frames"


async def test_delayed_frames_are_sent_before_a_response(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 20, 1)
    async with (
        ReplayExchange(tmp_path, 0, faults=[Reorder(share=1.0, window=1_000)]).running() as exchange,
        open_socket(exchange, STREAM) as socket,
    ):
        texts = await take(socket, 20)
        assert sorted(trade_ids(texts)) == list(range(20))
        assert (await ask(socket, method="LIST_SUBSCRIPTIONS", id=1))["id"] == 1


async def test_cut_aborts_the_connection_and_the_client_may_reconnect(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 600, 1)
    async with ReplayExchange(tmp_path, 0, faults=[Cut(every_frames=100, times=2)]).running() as exchange:
        for _ in range(2):
            async with open_socket(exchange, STREAM) as socket:
                with pytest.raises(ConnectionClosed) as closed:
                    await take(socket, 600)
                assert closed.value.rcvd is None, "no closing handshake"
        texts = await received(exchange)
    assert trade_ids(texts) == list(range(512, 600)), "a batch is queued at once, and a cut discards the rest of it"


async def test_stalled_connection_stays_open_and_resumes(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 300, 1)
    async with (
        ReplayExchange(tmp_path, 0, faults=[Stall(every_frames=50, for_s=1.0, times=1)]).running() as exchange,
        open_socket(exchange, STREAM) as socket,
    ):
        await take(socket, 50)
        pong = asyncio.ensure_future(await socket.ping())
        await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await socket.recv()
        assert not pong.done()
        texts = await take(socket, 251)
        ids = [json.loads(text)["data"]["t"] for text in texts if '"id":1' not in text]
        assert ids == list(range(50, 300))
        assert not pong.done()
        async with asyncio.timeout(5):
            await (await socket.ping())


async def test_silent_stream_sends_no_frames(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 100, 1)
    numbered_capture(tmp_path, 100, 1, symbol="ETHUSDT")
    silent = Silent(streams=("btcusdt@trade",))
    async with ReplayExchange(tmp_path, 0, faults=[silent]).running() as exchange:
        texts = await received(exchange, "/market/stream?streams=btcusdt@trade/ethusdt@trade")
    assert {json.loads(text)["stream"] for text in texts} == {"ethusdt@trade"}
    assert trade_ids(texts) == list(range(100))


async def test_connection_closes_at_the_end_of_its_life(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    limits = ClientLimits(connection_life_s=0.2)
    exchange = ReplayExchange(tmp_path, 1.0, limits=limits)
    async with exchange.running(), open_socket(exchange, "/stream") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await take(socket, 1)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_rotation_is_switched_on_and_off_at_run_time(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange, httpx.AsyncClient(base_url=exchange.url) as client:
        async with open_socket(exchange, "/stream") as socket:
            await ask(socket, method="LIST_SUBSCRIPTIONS", id=1)
            body = {"kind": "rotation", "connection_life_s": 0.1, "times": 1}
            response = await client.post("/replay/faults", json=body)
            assert response.json() == {"faults": [body | {"seed": 0, "market": None, "happened": 0}]}
            with pytest.raises(ConnectionClosed) as closed:
                await take(socket, 1)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert (await client.get("/replay/faults")).json()["faults"][0]["happened"] == 1
        assert (await client.delete("/replay/faults")).json() == {"faults": []}
        rejected = await client.post("/replay/faults", json={})
        assert rejected.status_code == 400
        assert "not a fault switch" in rejected.text
        async with open_socket(exchange, "/stream") as socket:
            assert (await ask(socket, method="LIST_SUBSCRIPTIONS", id=1))["id"] == 1


@pytest.mark.parametrize(("status", "text"), [(429, "Too many requests"), (418, "IP banned until")])
async def test_rest_is_rate_limited_and_the_client_waits_for_retry_after(
    tmp_path: Path, status: Any, text: str
) -> None:
    numbered_capture(tmp_path, 1, 1)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange:
        exchange.control.switch_on(RestLimit(status=status, retry_after_s=30, times=1))
        async with httpx.AsyncClient(base_url=exchange.url) as client:
            rejected = await client.get("/fapi/v1/time")
            assert (rejected.status_code, rejected.headers["Retry-After"]) == (status, "30")
            assert rejected.json()["code"] == -1003
            assert text in rejected.json()["msg"]
            assert (await client.get("/fapi/v1/time")).status_code == 200
        exchange.control.switch_on(RestLimit(status=status, retry_after_s=1, times=1))
        async with AsyncExchangeRest(exchange.url) as rest:
            began = asyncio.get_running_loop().time()
            await rest.time_ms()
            assert asyncio.get_running_loop().time() - began >= 1.0
        exchange.control.switch_on(RestLimit(status=status, retry_after_s=3_600, times=1))
        async with AsyncExchangeRest(exchange.url, policy=RetryPolicy()) as rest:
            with pytest.raises(ExchangeError, match="rate limited"):
                await rest.time_ms()


async def test_hostile_frames_follow_the_trades_and_are_sent_as_they_are(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 3 * len(HOSTILE_FRAMES), 1)
    sendable = tuple(name for name in HOSTILE_FRAMES if name != "too_large")
    fault = Hostile(share=0.5, frames=sendable, times=len(sendable))
    async with (
        ReplayExchange(tmp_path, 0, faults=[fault]).running() as exchange,
        open_socket(exchange, STREAM) as socket,
    ):
        await until(lambda: exchange.status()["state"] == "finished")
        await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":31}')
        frames: list[bytes] = []
        while b'"id":31}' not in (raw := await socket.recv(decode=False)):
            frames.append(raw)
        assert len(frames) - len(sendable) == 3 * len(HOSTILE_FRAMES), "each once"
        assert b"\xff\xfe@aggTrade" in b"".join(frames)
        assert max(map(len, frames)) == LARGEST_BYTES


async def test_too_large_frame_ends_the_connection_and_the_next_hostile_frame_is_another(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 400, 5)
    fault = Hostile(share=0.2, frames=("too_large", "html"))
    async with ReplayExchange(tmp_path, 1.0, faults=[fault]).running() as exchange:
        async with open_socket(exchange, STREAM) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await take(socket, 400)
            assert closed.value.sent is not None
            assert closed.value.sent.code == 1009
        async with open_socket(exchange, STREAM) as socket:
            async with asyncio.timeout(10):
                while not str(await socket.recv()).startswith("<html>"):
                    pass


async def test_half_open_connection_neither_answers_nor_closes(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 2_000, 5)
    limits = ClientLimits(ping_interval_s=0.2, pong_timeout_s=1.0)
    fault = HalfOpen(every_frames=10, times=1)
    async with ReplayExchange(tmp_path, 1.0, faults=[fault], limits=limits).running() as exchange:
        async with open_socket(exchange, STREAM, ping_interval=None) as socket:
            assert trade_ids(await take(socket, 10)) == [*range(10)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await (await socket.ping())
            await socket.close()
            assert exchange.status()["clients"] == 1, "it has not noticed the close"
        async with open_socket(exchange, STREAM) as socket:
            assert min(trade_ids(await take(socket, 1))) > 10
            await until(lambda: exchange.status()["clients"] == 1)


async def test_rest_answers_with_html_or_resets_its_connections(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    quick = RetryPolicy(attempts=1)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange:
        async with httpx.AsyncClient(base_url=exchange.url) as client:
            exchange.control.switch_on(RestHtml(status=403, times=1), RestReset(times=1))
            page = await client.get("/fapi/v1/time")
            assert (page.status_code, page.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
            with pytest.raises(httpx.ReadError):
                await client.get("/fapi/v1/time")
        async with AsyncExchangeRest(exchange.url, policy=quick) as rest:
            for fault in (RestHtml(times=1), RestHtml(status=403, times=1), RestReset(times=1)):
                exchange.control.switch_off()
                exchange.control.switch_on(fault)
                with pytest.raises(ExchangeError):
                    await rest.time_ms()
                assert await rest.time_ms() == exchange.clock.now_ms()


async def test_skewed_clock_is_read_by_rest_only(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    async with ReplayExchange(tmp_path, 0).running() as exchange, AsyncExchangeRest(exchange.url) as rest:
        now_ms = exchange.clock.now_ms()
        exchange.control.switch_on(ClockSkew(offset_s=-600, market=Market.USD_M))
        assert await rest.time_ms() == (await rest.exchange_info()).server_time == now_ms - 600_000
        assert exchange.status()["clock_ms"] == now_ms
        exchange.control.switch_off()
        assert await rest.time_ms() == now_ms


async def test_faults_of_one_kind_are_switched_off(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    async with ReplayExchange(tmp_path, 0).running() as exchange, httpx.AsyncClient(base_url=exchange.url) as client:
        exchange.control.switch_on(Drop(share=0.5), Corrupt(share=0.5), Drop(share=0.1))
        left = (await client.delete("/replay/faults?kind=drop")).json()["faults"]
        assert [fault["kind"] for fault in left] == ["corrupt"]


async def test_ledger_follows_the_clock(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 300, 1)
    async with ReplayExchange(tmp_path, 0).running() as exchange, httpx.AsyncClient(base_url=exchange.url) as client:
        assert (await client.get("/replay/ledger")).json()["emitted"] == {}
        await received(exchange)
        ledger = (await client.get("/replay/ledger")).json()
        assert ledger == {
            "clock_ms": exchange.clock.now_ms(),
            "frames_passed": 300,
            "emitted": {"usdm": {"btcusdt@trade": [[0, 299]]}},
        }


def test_rotation_counts_the_connections_that_it_closes() -> None:
    board = FaultBoard()
    board.switch_on([Rotation(connection_life_s=5.0, times=1)])
    assert [board.life_is_over(Market.USD_M, lived, 100.0) for lived in (4.9, 5.0, 5.0, 100.0)] == [
        False,
        True,
        False,
        True,
    ]


async def test_frames_continue_between_shutdown_notice_and_close(tmp_path: Path) -> None:
    capture = numbered_capture(tmp_path, 1_000, 5)
    fault = Shutdown(every_frames=20, notice_s=0.2, times=1)
    async with (
        ReplayExchange(capture, 1.0, faults=[fault]).running() as exchange,
        open_socket(exchange, STREAM) as socket,
    ):
        frames: list[dict[str, Any]] = []

        async def receive() -> None:
            while True:
                frames.append(json.loads(await socket.recv()))

        with pytest.raises(ConnectionClosed) as closed:
            await receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        (place,) = [place for place, frame in enumerate(frames) if frame["stream"] == "!serverShutdown"]
        assert frames[place]["data"]["e"] == "serverShutdown"
        assert [frame["data"]["t"] for frame in frames if frame["stream"] == "btcusdt@trade"] == [
            *range(len(frames) - 1)
        ]
        assert place == 20 < len(frames) - 1 < 1_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Origin": "https://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 421),
    ],
)
async def test_faults_are_changed_only_by_json_from_the_same_origin(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    numbered_capture(tmp_path, 3, 1)
    async with (
        ReplayExchange(tmp_path, 0).running() as exchange,
        httpx.AsyncClient(base_url=exchange.url, trust_env=False) as client,
    ):
        response = await client.post("/replay/faults", content='{"kind": "drop", "share": 0.5}', headers=headers)
        assert response.status_code == status
        active = (await client.get("/replay/faults")).json()["faults"]
        assert len(active) == (status == 200)
        own = {"Origin": exchange.url}
        assert (await client.delete("/replay/faults", headers=own)).status_code == 200
