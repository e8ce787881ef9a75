"""Live bars over a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cryptolake_assets.api import live
from cryptolake_assets.api.observe import ApiMetrics
from cryptolake_assets.api.page_reader import Reader
from cryptolake_assets.lake import pages
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import FIRST_DAY, bar, put, serving, starts

WAIT_S = 20


async def test_websocket_sends_the_newest_bars_and_then_changes(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=btcusdt,ETHUSDT") as socket:
            first = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
            assert first["type"] == "snapshot"
            assert [item["symbol"] for item in first["bars"]] == ["BTCUSDT", "BTCUSDT", "ETHUSDT", "ETHUSDT"]
            assert first["bars"][1]["window_start"] == "2025-02-01T00:03:00Z"
            snapshot_id = put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77")), bar("SOLUSDT", starts()[0])])
            changed = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
            assert (changed["type"], changed["snapshot_id"]) == ("bars", str(snapshot_id))
            assert [(item["symbol"], item["close"]) for item in changed["bars"]] == [("BTCUSDT", "77.00000000")]


async def test_server_sent_events_have_the_same_messages(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http,
            http.stream("GET", f"{api.url}/sse/ohlcv?symbols=ETHUSDT") as stream,
        ):
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            kinds: list[str] = []
            while len(kinds) < 2:
                line = await anext(lines)
                if line.startswith("data: "):
                    kinds.append(json.loads(line.removeprefix("data: "))["type"])
                    if len(kinds) == 1:
                        put(bars, [bar("ETHUSDT", starts()[0], close=Decimal("77"))])
            assert kinds == ["snapshot", "bars"]


async def test_slow_client_is_disconnected_and_the_other_gets_every_change(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "QUEUE", 3)
    monkeypatch.setattr(live, "DRAIN_TIMEOUT_S", 0.2)
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    slow, quick = await hub.join([(None, "BTCUSDT")]), await hub.join([(None, "BTCUSDT")])
    received = []
    for number in range(5):
        put(bars, [bar("BTCUSDT", starts()[0], close=Decimal(700 + number))])
        reader.table_cache.refresh()
        await hub.table_changed()
        while not quick.queue.empty():
            received.append(json.loads(quick.queue.get_nowait() or b""))
    assert slow.cut.is_set()
    assert not quick.cut.is_set()
    assert [item["bars"][0]["close"] for item in received[1:]] == [f"{700 + number}.00000000" for number in range(5)]


async def test_large_change_is_sent_completely_in_bounded_messages(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More bars than one read returns, and more messages than a queue holds; nothing is sent twice."""
    monkeypatch.setattr(live, "QUEUE", 4)
    monkeypatch.setattr(live, "MESSAGE_BARS", 500)
    monkeypatch.setattr(live, "READ_ROWS", 1_000)
    symbols = [f"S{number}USDT" for number in range(8)]
    minutes = [FIRST_DAY + timedelta(minutes=minute) for minute in range(1_440)]
    put(bars, [bar(symbol, minutes[0]) for symbol in symbols])
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols={','.join(symbols)}") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            put(bars, [bar(symbol, minute, close=Decimal("77")) for symbol in symbols for minute in minutes])
            received: list[tuple[str, str]] = []
            while len(received) < len(symbols) * len(minutes):
                part = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["bars"]
                assert 0 < len(part) <= 500
                received += [(item["symbol"], item["window_start"]) for item in part]
            assert len(received) == len(set(received)) == 11_520
            put(bars, [bar(symbols[0], minutes[5], close=Decimal("78"))])
            (last,) = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["bars"]
            assert (last["symbol"], last["close"]) == (symbols[0], "78.00000000")


async def test_client_that_reads_nothing_of_a_large_change_is_disconnected(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"QUEUE": 2, "MESSAGE_BARS": 1, "READ_ROWS": 1, "DRAIN_TIMEOUT_S": 0.1}.items():
        monkeypatch.setattr(live, name, value)
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    slow, quick = await hub.join([(None, "BTCUSDT")]), await hub.join([(None, "BTCUSDT")])
    put(bars, [bar("BTCUSDT", start, close=Decimal("77")) for start in starts()[:4]])
    reader.table_cache.refresh()
    sending = asyncio.create_task(hub.table_changed())
    async with asyncio.timeout(WAIT_S):
        received = [json.loads(await quick.queue.get() or b"") for _ in range(5)]
    await asyncio.wait_for(sending, WAIT_S)
    assert [len(item["bars"]) for item in received[1:]] == [1, 1, 1, 1]
    assert (slow.cut.is_set(), quick.cut.is_set(), hub.clients) == (True, False, 1)


async def test_slow_client_gets_code_try_again_later(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.Hub, "_offer", lambda _hub, client, _message: client.cut.set())
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), WAIT_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == live.TRY_AGAIN_LATER


async def test_number_of_clients_is_limited(bars: Settings) -> None:
    with serving(bars, api_clients=1) as api:
        socket_url = f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT"
        async with connect(socket_url) as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            async with connect(socket_url) as rejected:
                with pytest.raises(ConnectionClosed) as closed:
                    await asyncio.wait_for(rejected.recv(), WAIT_S)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == live.TRY_AGAIN_LATER


async def test_commit_while_a_client_joins_is_sent(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    newest, committed = hub._newest, threading.Event()

    def slow(*given: Any) -> Any:
        found = newest(*given)
        put(bars, [bar("BTCUSDT", starts()[-1], close=Decimal("77"))])  # after the first message was read
        reader.table_cache.refresh()
        committed.set()
        return found

    monkeypatch.setattr(hub, "_newest", slow)
    joining = asyncio.create_task(hub.join([(None, "BTCUSDT")]))
    await asyncio.to_thread(committed.wait, WAIT_S)
    await hub.table_changed()
    client = await joining
    await hub.table_changed()
    received = [json.loads(client.queue.get_nowait() or b"") for _ in range(client.queue.qsize())]
    assert [item["bars"][-1]["close"] for item in received][-1] == "77.00000000"


async def test_change_whose_read_failed_is_sent_with_the_next_poll(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            failed: list[bool] = []

            def fails_once(*given: Any) -> Any:
                if not failed:
                    failed.append(True)
                    raise OSError("disk unavailable")
                return pages.read_page(*given)

            monkeypatch.setattr("cryptolake_assets.api.live.read_page", fails_once)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            changed = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
            assert (failed, changed["bars"][0]["close"]) == ([True], "77.00000000")


async def test_refresh_by_another_caller_does_not_lose_a_message(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            api.refresh()
            assert json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["type"] == "bars"


async def test_messages_of_a_client_are_ignored(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            for message in ("hello", b"\x00\xff", ""):
                await socket.send(message)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            assert json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["type"] == "bars"


async def test_unknown_symbol_and_missing_table_are_reported(bars: Settings) -> None:
    with serving(bars) as api:
        assert api.get("/sse/ohlcv?symbols=BTCUSDT,NOPE").status_code == 404
        assert await _closed(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT,NOPE") == (1008, "Unknown symbol")
        get_catalog(bars).drop_table(FUTURES.bars.identifier)
        api.refresh()
        assert api.get("/sse/ohlcv?symbols=BTCUSDT").status_code == 503
        assert await _closed(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") == (live.TRY_AGAIN_LATER, "Table missing")


async def _closed(url: str) -> tuple[int, str]:
    async with connect(url) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), WAIT_S)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_event_stream_of_a_client_that_left_early_is_removed(bars: Settings) -> None:
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    stream = live._EventStream(hub, await hub.join([(None, "BTCUSDT")]))

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def nowhere(_: Any) -> None:
        await asyncio.Event().wait()

    await asyncio.wait_for(stream({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, nowhere), WAIT_S)
    assert not hub._clients
