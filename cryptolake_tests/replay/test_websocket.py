"""The replay exchange's WebSockets over real sockets: frames, routes, requests, clock, keep-alive, slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as std_socket
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.model.markets import Market
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.replay.websocket_client import ClientLimits, Route
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import HostileFrame, agg_trade_frame, depth_frame, trade_frame, write_capture
from cryptolake_tests.support.sockets import (
    NOON_MS,
    SKEW_MS,
    ask,
    numbered_capture,
    open_socket,
    take,
    trade_ids,
    until,
)

BOTH = "/market/stream?streams=btcusdt@trade/ethusdt@trade"


async def test_shipped_capture_arrives_complete_verbatim_and_in_order() -> None:
    expected = [frame.raw for frame in read_frames(DEMO_CAPTURE_DIR)]
    assert len(expected) == 24_356
    async with ReplayExchange(DEMO_CAPTURE_DIR, 0).running() as exchange, open_socket(exchange, BOTH) as socket:
        assert await take(socket, 24_356) == expected
        await until(lambda: exchange.status()["state"] == "finished")
        status = exchange.status()
        assert (status["frames_total"], status["frames_passed"], status["frames_sent"]) == (24_356, 24_356, 24_356)
        # No frame follows the last one: the next message is the response to this request.
        assert await ask(socket, method="LIST_SUBSCRIPTIONS", id=1) == {
            "result": ["btcusdt@trade", "ethusdt@trade"],
            "id": 1,
        }


async def test_clients_receive_only_their_streams(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 300, 1)
    numbered_capture(tmp_path, 200, 1, symbol="ETHUSDT")
    async with (
        ReplayExchange(tmp_path, 1.0).running() as exchange,
        open_socket(exchange, "/market/stream") as idle,
        open_socket(exchange, "/market/stream?streams=ethusdt@trade") as eth,
        open_socket(exchange, "/stream?streams=btcusdt@trade") as btc,
    ):
        eth_frames = await take(eth, 200)
        assert trade_ids(eth_frames) == list(range(200))
        assert {json.loads(frame)["stream"] for frame in eth_frames} == {"ethusdt@trade"}
        btc_ids = trade_ids(await take(btc, 1))
        assert trade_ids(await take(btc, 299 - btc_ids[0])) == list(range(btc_ids[0] + 1, 300))
        assert await ask(idle, method="LIST_SUBSCRIPTIONS", id=7) == {"result": [], "id": 7}


async def test_raw_streams_send_events_without_envelope() -> None:
    first = [frame.raw for frame in read_frames(DEMO_CAPTURE_DIR) if '"btcusdt@trade"' in frame.raw][:5]
    expected = [raw.removeprefix('{"stream":"btcusdt@trade","data":').removesuffix("}") for raw in first]
    for path in ("/market/ws/btcusdt@trade", "/ws/btcusdt@trade"):
        async with ReplayExchange(DEMO_CAPTURE_DIR, 0).running() as exchange, open_socket(exchange, path) as socket:
            assert await take(socket, 5) == expected


async def test_frames_recorded_from_raw_streams_get_an_envelope(tmp_path: Path) -> None:
    event = json.dumps(json.loads(trade_frame("BTCUSDT", 7, NOON_MS))["data"])
    write_capture(tmp_path / "a.ndjson", [(NOON_MS * 10**6, event)])
    async with ReplayExchange(tmp_path, 0).running() as exchange, open_socket(exchange, BOTH) as socket:
        assert await take(socket, 1) == [f'{{"stream":"btcusdt@trade","data":{event}}}']


@pytest.mark.parametrize(
    ("route", "stream", "served"),
    [
        (Route.MARKET, "btcusdt@trade", True),
        (Route.MARKET, "btcusdt@aggTrade", True),
        (Route.MARKET, "btcusdt@kline_1m", True),
        (Route.MARKET, "btcusdt@depth@100ms", False),
        (Route.PUBLIC, "btcusdt@trade", False),
        (Route.PUBLIC, "btcusdt@depth5", True),
        (Route.PUBLIC, "!bookTicker", True),
        (Route.MARKET, "!markPrice@arr", True),
        (Route.LEGACY, "btcusdt@trade", True),
        (Route.LEGACY, "btcusdt@bookTicker", True),
    ],
)
def test_each_path_serves_its_stream_kinds(route: Route, stream: str, served: bool) -> None:
    assert route.serves(stream) is served


async def test_public_path_acknowledges_trades_and_sends_depth_only(tmp_path: Path) -> None:
    book = json.dumps({"stream": "btcusdt@bookTicker", "data": {"e": "bookTicker", "E": NOON_MS, "s": "BTCUSDT"}})
    raws = [trade_frame("BTCUSDT", 1, NOON_MS), book, agg_trade_frame("BTCUSDT", 1, NOON_MS)]
    write_capture(tmp_path / "a.ndjson", ((NOON_MS * 10**6 + i, raw) for i, raw in enumerate(raws)))
    streams = ["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@aggTrade"]
    for path, expected in (("/public/stream", [book]), ("/market/stream", [raws[0], raws[2]]), ("/stream", raws)):
        async with ReplayExchange(tmp_path, 0).running() as exchange, open_socket(exchange, path) as socket:
            assert await ask(socket, method="SUBSCRIBE", params=streams, id=1) == {"result": None, "id": 1}
            assert await take(socket, len(expected)) == expected
            assert (await ask(socket, method="LIST_SUBSCRIPTIONS", id=2))["id"] == 2


async def test_client_subscribes_and_unsubscribes(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 100, 10)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange, open_socket(exchange, "/market/ws") as socket:
        assert exchange.status()["state"] == "waiting"
        assert await ask(socket, method="SUBSCRIBE", params=["btcusdt@trade", "x@y"], id=0) == {"result": None, "id": 0}
        assert [json.loads(frame)["t"] for frame in await take(socket, 3)] == [0, 1, 2]
        await socket.send(json.dumps({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 5}))
        async with asyncio.timeout(10):
            while json.loads(await socket.recv()) != {"result": None, "id": 5}:
                pass
        passed = exchange.status()["frames_passed"]
        await until(lambda: exchange.status()["frames_passed"] > passed)  # the clock continues
        assert await ask(socket, method="LIST_SUBSCRIPTIONS", id=6) == {"result": ["x@y"], "id": 6}


@pytest.mark.parametrize(
    ("text", "code", "request_id"),
    [
        ("{", 3, None),
        ('{"a":' * 5_000, 3, None),
        ("[]", 2, None),
        ('{"method":"SUBSCRIBE","params":[]}', 2, None),
        ('{"method":"SUBSCRIBE","params":[],"id":"a"}', 2, None),
        ('{"method":"SUBSCRIBE","params":[],"id":-1}', 2, None),
        ('{"method":"SUBSCRIBE","params":"x","id":1}', 2, 1),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, 1),
        ('{"method":"DANCE","id":2}', 2, 2),
        ('{"method":["SUBSCRIBE"],"id":2}', 2, 2),
        ('{"id":3}', 2, 3),
    ],
)
async def test_invalid_requests_get_an_error_response(
    tmp_path: Path, text: str, code: int, request_id: int | None
) -> None:
    numbered_capture(tmp_path, 1, 1)
    async with ReplayExchange(tmp_path, 0).running() as exchange, open_socket(exchange, "/stream") as socket:
        await socket.send(text)
        response = json.loads((await take(socket, 1))[0])
        assert response["error"]["code"] == code
        assert response["error"]["msg"]
        assert response.get("id") == request_id
        assert exchange.status()["state"] == "waiting"


async def test_hostile_frames_are_replayed_verbatim_to_every_subscriber(
    hostile_capture: tuple[Path, list[HostileFrame]],
) -> None:
    directory, hostile = hostile_capture
    inserted = {frame.raw for frame in hostile}
    broken = [frame.raw for frame in hostile if frame.kind in ("truncated_json", "not_json")]
    async with (
        ReplayExchange(directory, 0).running() as exchange,
        open_socket(exchange, BOTH) as both,
    ):
        async with open_socket(exchange, "/market/ws/other@trade") as other:
            received = await take(both, 24_356 + len(hostile))
            assert [raw for raw in received if raw in inserted] == [f.raw for f in hostile]
            assert len(broken) == 2
            assert await take(other, 2) == broken
        await until(lambda: exchange.status()["state"] == "finished")


async def test_clock_starts_with_a_subscription_and_no_frame_precedes_its_event_time(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 60, 10)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange:
        async with open_socket(exchange, "/stream"):
            await until(lambda: exchange.status()["clients"] == 1)
            assert (exchange.status()["state"], exchange.clock.now_ms()) == ("waiting", NOON_MS)
        async with open_socket(exchange, "/stream?streams=btcusdt@trade") as socket:
            for _ in range(60):
                event = json.loads((await take(socket, 1))[0])["data"]
                assert event["E"] <= exchange.clock.now_ms()
        await until(lambda: exchange.status()["state"] == "finished")
        await until(lambda: exchange.clock.now_ms() == NOON_MS + 59 * 10)
        assert exchange.status()["clock_ms"] == exchange.status()["last_event_time_ms"]


async def test_frames_due_without_clients_are_missed(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 100, 10)
    async with ReplayExchange(tmp_path, 2.0).running() as exchange:
        async with open_socket(exchange, "/stream?streams=btcusdt@trade") as socket:
            assert trade_ids(await take(socket, 2)) == [0, 1]
        await until(lambda: exchange.status()["clients"] == 0)
        left_at = exchange.status()["frames_passed"]
        await until(lambda: exchange.status()["frames_passed"] >= left_at + 10)
        async with open_socket(exchange, "/stream?streams=btcusdt@trade") as socket:
            (first,) = trade_ids(await take(socket, 1))
            assert left_at + 10 <= first < 100
            assert trade_ids(await take(socket, 99 - first)) == list(range(first + 1, 100))
        await until(lambda: exchange.status()["state"] == "finished")
        assert exchange.status()["frames_sent"] < exchange.status()["frames_passed"] == 100


async def test_replay_without_speed_pauses_without_clients(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1_500, 1, padding=20_000)
    async with ReplayExchange(tmp_path, 0).running() as exchange:
        async with open_socket(exchange, "/stream?streams=btcusdt@trade") as socket:
            await take(socket, 1)
        await until(lambda: exchange.status()["clients"] == 0)
        status = exchange.status()
        assert 0 < status["frames_passed"] < 1_500
        async with open_socket(exchange, "/stream"):  # a client without a subscription does not start the replay
            await until(lambda: exchange.status()["clients"] == 1)
            assert exchange.status()["frames_passed"] == status["frames_passed"]
            assert exchange.status()["clock_ms"] <= NOON_MS + status["frames_passed"]
        async with open_socket(exchange, "/stream?streams=btcusdt@trade") as socket:
            rest = trade_ids(await take(socket, 1_500 - status["frames_passed"]))
        assert rest == list(range(status["frames_passed"], 1_500))


async def test_receive_time_that_steps_back_does_not_turn_the_clock_back(tmp_path: Path) -> None:
    times = [0, 50, 20, 60]
    frames = [((NOON_MS - SKEW_MS + at) * 10**6, trade_frame("BTCUSDT", i, NOON_MS + at)) for i, at in enumerate(times)]
    write_capture(tmp_path / "a.ndjson", frames)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange, open_socket(exchange, BOTH) as socket:
        assert trade_ids(await take(socket, 4)) == [0, 1, 2, 3]
        await until(lambda: exchange.clock.now_ms() == NOON_MS + 60)


async def test_client_without_pongs_is_disconnected(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    limits = ClientLimits(ping_interval_s=0.05, pong_timeout_s=0.3)
    async with (
        ReplayExchange(tmp_path, 1.0, limits=limits).running() as exchange,
        open_socket(exchange, "/stream") as responsive,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{exchange.url}/stream", autoping=False) as mute,
    ):
        pings = 0
        async with asyncio.timeout(10):
            while (message := await mute.receive()).type is aiohttp.WSMsgType.PING:
                pings += 1
        assert pings >= 2
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)
        await until(lambda: exchange.status()["clients"] == 1)
        assert await ask(responsive, method="LIST_SUBSCRIPTIONS", id=1) == {"result": [], "id": 1}


async def test_exchange_responds_to_pings(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    async with ReplayExchange(tmp_path, 1.0).running() as exchange, open_socket(exchange, "/stream") as socket:
        async with asyncio.timeout(10):
            await (await socket.ping(b"payload"))


async def test_slow_client_is_disconnected_and_does_not_delay_others(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 500, 1, padding=40_000)
    limits = ClientLimits(max_queue_bytes=4 << 20)
    narrow = std_socket.socket()
    narrow.setsockopt(std_socket.SOL_SOCKET, std_socket.SO_RCVBUF, 1 << 16)
    async with ReplayExchange(tmp_path, 0.5, limits=limits).running() as exchange:
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", exchange.port))
        path = "/stream?streams=btcusdt@trade"
        async with (
            open_socket(exchange, path, sock=narrow, max_queue=1) as slow,
            open_socket(exchange, path) as fast,
        ):
            ids = trade_ids(await take(fast, 1))
            ids += trade_ids(await take(fast, 499 - ids[0]))
            assert ids == list(range(ids[0], 500))
            await until(lambda: exchange.status()["clients"] == 1)
            with pytest.raises(ConnectionClosed):
                await take(slow, 500)


async def test_stop_closes_connections_with_code_1001(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 10, 1_000)
    exchange = ReplayExchange(tmp_path, 1.0)
    await exchange.start()
    async with open_socket(exchange, "/stream?streams=btcusdt@trade") as socket:
        await take(socket, 1)
        await exchange.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await take(socket, 10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_replay_starts_when_all_expected_streams_are_subscribed(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 50, 1)
    numbered_capture(tmp_path, 50, 1, symbol="币安人生USDT")
    expected = ("btcusdt@trade", "币安人生usdt@trade")
    async with (
        ReplayExchange(tmp_path, 0, expected_streams={Market.USD_M: expected}).running() as exchange,
        open_socket(exchange, "/market/stream?streams=btcusdt@trade") as first,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await first.recv()
        assert exchange.status()["state"] == "waiting"
        other = "/market/stream?streams=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@trade"
        async with open_socket(exchange, other) as second:
            assert trade_ids(await take(second, 50)) == list(range(50))
            assert trade_ids(await take(first, 50)) == list(range(50))
            await until(lambda: exchange.status()["state"] == "finished")
            assert exchange.status()["frames_sent_by_kind"] == {"trade": 100}


async def test_replay_starts_after_a_timeout_without_an_expected_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryptolake_assets.replay.server.SUBSCRIPTION_WAIT_S", 0.1)
    numbered_capture(tmp_path, 5, 1)
    expected = {Market.USD_M: ("btcusdt@trade", "ethusdt@trade")}
    async with (
        ReplayExchange(tmp_path, 0, expected_streams=expected).running() as exchange,
        open_socket(exchange, "/market/stream?streams=btcusdt@trade") as socket,
    ):
        assert trade_ids(await take(socket, 5)) == list(range(5))


async def test_raw_frames_are_sent_to_the_subscribers_of_their_stream(tmp_path: Path) -> None:
    events = [
        {"e": "trade", "s": "BTCUSDT", "t": 1},
        {"e": "depthUpdate", "s": "BTCUSDT", "U": 1, "u": 2},
        {"e": "markPriceUpdate", "s": "BTCUSDT", "p": "1"},
        {"e": "forceOrder", "o": {"s": "币安人生USDT"}},
        {"e": "24hrTicker", "s": "BTCUSDT", "o": "1.5"},
        {"result": None, "id": 1},
        {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": NOON_MS}},
        {"e": "unheard_of", "s": "BTCUSDT"},
    ]
    write_capture(tmp_path / "a.ndjson", [(NOON_MS * 10**6, json.dumps(event)) for event in events])
    paths = ("btcusdt@trade", "btcusdt@depth", "btcusdt@markPrice@1s", "币安人生usdt@forceOrder")
    async with (
        ReplayExchange(tmp_path, 0, expected_streams={Market.USD_M: paths}).running() as exchange,
        contextlib.AsyncExitStack() as stack,
    ):
        sockets = [
            await stack.enter_async_context(open_socket(exchange, f"/stream?streams={quote(path)}")) for path in paths
        ]
        for socket, event in zip(sockets, events, strict=False):
            own, *to_all = map(json.loads, await take(socket, 4))
            assert own["data"] == event
            assert to_all == events[5:]


async def test_frames_of_streams_without_subscribers_are_not_sent(tmp_path: Path) -> None:
    mini = {"e": "24hrMiniTicker", "E": NOON_MS, "s": "BTCUSDT", "c": "1"}
    mark = {"e": "markPriceUpdate", "E": NOON_MS, "s": "BTCUSDT", "p": "1", "i": "1"}
    candle = {"e": "kline", "E": NOON_MS, "s": "BTCUSDT", "k": {"i": "1m"}}
    pair_candle = {"e": "continuous_kline", "E": NOON_MS, "ps": "BTCUSDT", "ct": "PERPETUAL", "k": {"i": "1m"}}
    raw = [
        candle,
        pair_candle,
        {**pair_candle, "e": "indexPrice_kline"},
        {**pair_candle, "e": "markPrice_kline"},
        mark,
        {"e": "indexPriceUpdate", "E": NOON_MS, "i": "BTCUSD", "p": "1"},
        {"e": "24hrTicker", "E": NOON_MS, "s": "BTCUSDT", "o": "1"},
        {"e": "1dTicker", "E": NOON_MS, "s": "BTCUSDT"},
        {"e": "contractInfo", "E": NOON_MS, "s": "BTCUSDT", "bks": []},
        {"e": "compositeIndex", "E": NOON_MS, "s": "DEFIUSDT", "c": []},
        {"e": "assetIndexUpdate", "E": NOON_MS, "s": "ADAUSD"},
        {"e": "bookTicker", "u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "1", "A": "1"},
        {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "1", "A": "1"},
        [mini, mini],
        [mark],
        [{"e": "assetIndexUpdate", "s": "ADAUSD"}],
    ]
    combined = [
        {"stream": "!miniTicker@arr", "data": [mini]},
        {"stream": "!markPrice@arr@1s", "data": [mark]},
        {"stream": "!contractInfo", "data": {"e": "contractInfo", "s": "BTCUSDT"}},
        {"stream": "btcusdt@depth20", "data": {"lastUpdateId": 1, "bids": [], "asks": []}},
        {"stream": "btcusd_perp@indexPrice", "data": {"e": "indexPriceUpdate", "i": "BTCUSD"}},
    ]
    unrecognized = [[], [mini, {"e": "trade"}], [1], {"e": "trades", "s": "BTCUSDT"}, {"s": "BTCUSDT"}, "text"]
    trade = json.loads(trade_frame("BTCUSDT", 1, NOON_MS))
    write_capture(
        tmp_path / "a.ndjson",
        [(NOON_MS * 10**6, json.dumps(frame)) for frame in [*raw, *combined, *unrecognized, trade]],
    )
    async with ReplayExchange(tmp_path, 0).running() as exchange, open_socket(exchange, BOTH) as socket:
        assert [json.loads(text) for text in await take(socket, len(unrecognized) + 1)] == [*unrecognized, trade]
        await until(lambda: exchange.status()["state"] == "finished")
        assert exchange.status()["frames_sent"] == len(unrecognized) + 1


@pytest.mark.parametrize("recorded", ["depth@0ms", "depth@100ms", "depth"])
async def test_depth_of_any_speed_answers_a_depth_subscription(tmp_path: Path, recorded: str) -> None:
    raws = [depth_frame("BTCUSDT", 100, 109, NOON_MS, 99, recorded), depth_frame("ETHUSDT", 1, 2, NOON_MS, 0, recorded)]
    write_capture(tmp_path / "a.ndjson", ((NOON_MS * 10**6 + i, raw) for i, raw in enumerate(raws)))
    for kind in ("depth", "depth@100ms", "depth@500ms"):
        path = f"/public/stream?streams=btcusdt@{kind}"
        async with ReplayExchange(tmp_path, 0).running() as exchange, open_socket(exchange, path) as socket:
            assert await take(socket, 1) == raws[:1]
            assert await ask(socket, method="LIST_SUBSCRIPTIONS", id=1) == {"result": [f"btcusdt@{kind}"], "id": 1}
