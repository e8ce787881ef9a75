"""Bars as they change, over a real socket."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cryptolake_assets.api import live
from cryptolake_assets.api.observe import ApiMetrics
from cryptolake_assets.api.reader import Reader
from cryptolake_assets.settings import Settings
from cryptolake_tests.api.conftest import bar, put, serving, starts

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
    reader = Reader(bars)
    reader.heads.refresh()
    hub = live.Hub(reader, ApiMetrics())
    slow, quick = await hub.join(["BTCUSDT"]), await hub.join(["BTCUSDT"])
    got = []
    for number in range(5):
        put(bars, [bar("BTCUSDT", starts()[0], close=Decimal(700 + number))])
        reader.heads.refresh()
        await hub.table_changed()
        while not quick.queue.empty():
            got.append(json.loads(quick.queue.get_nowait() or b""))
    assert slow.cut.is_set()
    assert not quick.cut.is_set()
    assert [item["bars"][0]["close"] for item in got[1:]] == [f"{700 + number}.00000000" for number in range(5)]


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
