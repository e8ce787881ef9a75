"""Bars as they change, over a real socket."""

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
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import FIRST_DAY, bar, put, serving, starts

WAIT_S = 20


async def test_the_present_bars_come_first_and_then_what_changed(bars: Settings) -> None:
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


async def test_events_are_the_same_messages(bars: Settings) -> None:
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


async def test_a_client_that_does_not_read_is_cut_and_the_other_gets_everything(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "QUEUE", 3)
    monkeypatch.setattr(live, "PATIENCE_S", 0.2)
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    slow, quick = await hub.join(["BTCUSDT"]), await hub.join(["BTCUSDT"])
    got = []
    for number in range(5):
        put(bars, [bar("BTCUSDT", starts()[0], close=Decimal(700 + number))])
        reader.table_cache.refresh()
        await hub.table_changed()
        while not quick.queue.empty():
            got.append(json.loads(quick.queue.get_nowait() or b""))
    assert slow.cut.is_set()
    assert not quick.cut.is_set()
    assert [item["bars"][0]["close"] for item in got[1:]] == [f"{700 + number}.00000000" for number in range(5)]


async def test_a_change_of_many_bars_comes_whole_in_bounded_messages(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More bars than are read at once, and more messages than a queue holds; the next change is not repeated."""
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
            got: list[tuple[str, str]] = []
            while len(got) < len(symbols) * len(minutes):
                part = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["bars"]
                assert 0 < len(part) <= 500
                got += [(item["symbol"], item["window_start"]) for item in part]
            assert len(got) == len(set(got)) == 11_520
            put(bars, [bar(symbols[0], minutes[5], close=Decimal("78"))])
            (last,) = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["bars"]
            assert (last["symbol"], last["close"]) == (symbols[0], "78.00000000")


async def test_who_takes_nothing_of_a_long_change_is_cut_and_the_other_gets_it_whole(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"QUEUE": 2, "MESSAGE_BARS": 1, "READ_ROWS": 1, "PATIENCE_S": 0.1}.items():
        monkeypatch.setattr(live, name, value)
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    slow, quick = await hub.join(["BTCUSDT"]), await hub.join(["BTCUSDT"])
    put(bars, [bar("BTCUSDT", start, close=Decimal("77")) for start in starts()[:4]])
    reader.table_cache.refresh()
    sending = asyncio.create_task(hub.table_changed())
    async with asyncio.timeout(WAIT_S):
        said = [json.loads(await quick.queue.get() or b"") for _ in range(5)]
    await asyncio.wait_for(sending, WAIT_S)
    assert [len(item["bars"]) for item in said[1:]] == [1, 1, 1, 1]
    assert (slow.cut.is_set(), quick.cut.is_set(), hub.clients) == (True, False, 1)


async def test_a_cut_client_is_told_to_try_again_later(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.Hub, "_offer", lambda _hub, client, _message: client.cut.set())
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), WAIT_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == live.TRY_AGAIN_LATER


async def test_there_is_a_most_number_of_clients(bars: Settings) -> None:
    with serving(bars, api_clients=1) as api:
        socket_url = f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT"
        async with connect(socket_url) as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            async with connect(socket_url) as refused:
                with pytest.raises(ConnectionClosed) as closed:
                    await asyncio.wait_for(refused.recv(), WAIT_S)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == live.TRY_AGAIN_LATER


async def test_a_commit_while_a_client_joins_is_not_missed(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
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
    joining = asyncio.create_task(hub.join(["BTCUSDT"]))
    await asyncio.to_thread(committed.wait, WAIT_S)
    await hub.table_changed()
    client = await joining
    await hub.table_changed()
    said = [json.loads(client.queue.get_nowait() or b"") for _ in range(client.queue.qsize())]
    assert [item["bars"][-1]["close"] for item in said][-1] == "77.00000000"


async def test_a_change_that_could_not_be_read_is_sent_with_the_next_look(
    bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            failed: list[bool] = []

            def fails_once(*given: Any) -> Any:
                if not failed:
                    failed.append(True)
                    raise OSError("the disk is away")
                return pages.read_page(*given)

            monkeypatch.setattr("cryptolake_assets.api.live.read_page", fails_once)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            changed = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
            assert (failed, changed["bars"][0]["close"]) == ([True], "77.00000000")


async def test_a_look_by_someone_else_takes_no_message_away(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            api.look()
            assert json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["type"] == "bars"


async def test_what_a_client_says_is_of_no_matter(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05) as api:
        async with connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            for said in ("hello", b"\x00\xff", ""):
                await socket.send(said)
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
            assert json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))["type"] == "bars"


async def test_an_unknown_symbol_and_a_missing_table_are_told(bars: Settings) -> None:
    with serving(bars) as api:
        assert api.get("/sse/ohlcv?symbols=BTCUSDT,NOPE").status_code == 404
        assert await _closed(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT,NOPE") == (1008, "Unknown symbol")
        get_catalog(bars).drop_table(SILVER_OHLCV.identifier)
        api.look()
        assert api.get("/sse/ohlcv?symbols=BTCUSDT").status_code == 503
        assert await _closed(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") == (live.TRY_AGAIN_LATER, "Table missing")


async def _closed(url: str) -> tuple[int, str]:
    async with connect(url) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), WAIT_S)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_an_event_stream_whose_client_left_early_leaves_its_place(bars: Settings) -> None:
    reader = Reader(bars)
    reader.table_cache.refresh()
    hub = live.Hub(reader, ApiMetrics())
    stream = live._EventStream(hub, await hub.join(["BTCUSDT"]))

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def nowhere(_: Any) -> None:
        await asyncio.Event().wait()

    await asyncio.wait_for(stream({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, nowhere), WAIT_S)
    assert not hub._clients
