"""One replay exchange with the captures of three markets: one clock, and each market's protocol."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.model.replay_faults import Drop, RestLimit, parse_faults
from cryptolake_assets.replay.emitted_ledger import emitted_trades
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.sockets import open_socket, take, trade_ids, until
from cryptolake_tests.support.three_markets import (
    FRAMES,
    SYMBOLS,
    THREE_MARKETS,
    TRADES,
    copied,
    recorded_trades,
    trade_data,
)

EXPECTED = {market: (f"{symbol.lower()}@trade",) for market, symbol in SYMBOLS.items()}


def _settings(exchange: ReplayExchange) -> Settings:
    address = f"127.0.0.1:{exchange.port}"
    return load_settings(
        replay_dir=exchange.directory, exchange_ws_url=f"ws://{address}", exchange_rest_url=f"http://{address}"
    )


def _path(view: Settings) -> str:
    """Return path and query of the producer's subscription."""
    url = TRADES_OF_FAMILY[view.venue.family].url(view, resolve_subscriptions(view).symbols, "trade")
    return url.removeprefix(view.exchange_ws_url)


async def _received(exchange: ReplayExchange) -> dict[Market, list[str]]:
    """Return the frames that a producer's connections receive until the end of the capture."""
    async with AsyncExitStack() as stack:
        sockets = {
            view.market: await stack.enter_async_context(open_socket(exchange, _path(view)))
            for view in _settings(exchange).each_market
        }
        received = {market: asyncio.create_task(_until_response(socket)) for market, socket in sockets.items()}
        await until(lambda: exchange.status()["state"] == "finished")
        for socket in sockets.values():
            await socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1}))
        return {market: await frames for market, frames in received.items()}


async def _until_response(socket: ClientConnection) -> list[str]:
    """Return the frames before the response to a request."""
    frames: list[str] = []
    async with asyncio.timeout(60):
        while not (text := str(await socket.recv())).startswith('{"result"'):
            frames.append(text)
    return frames


@pytest.mark.parametrize("speed", [0.0, 600.0])
async def test_each_market_receives_its_own_trades_on_one_clock(speed: float) -> None:
    async with ReplayExchange(THREE_MARKETS, speed, expected_streams=EXPECTED).running() as exchange:
        begin_ms = exchange.clock.now_ms()
        received = await _received(exchange)
        status = exchange.status()
    # The order-book frames have no subscriber, and no socket sends a recorded REST response.
    assert received == {market: recorded_trades(market) for market in TRADES}
    assert status["frames_total"] == status["frames_passed"] == sum(FRAMES.values())
    assert {market: one["frames_total"] for market, one in status["markets"].items()} == FRAMES
    assert {market: one["frames_sent_by_kind"] for market, one in status["markets"].items()} == {
        market: {"trade": number} for market, number in TRADES.items()
    }
    firsts = {market: one["first_event_time_ms"] for market, one in status["markets"].items()}
    assert min(firsts, key=lambda market: firsts[market]) == Market.SPOT, "the capture's first frame is of Spot"
    assert firsts[Market.SPOT] <= begin_ms < firsts[Market.USD_M] < status["clock_ms"]
    assert (
        status["clock_ms"]
        >= status["last_event_time_ms"]
        == max(one["last_event_time_ms"] for one in status["markets"].values())
    )


async def test_replay_starts_when_all_markets_are_subscribed() -> None:
    async with (
        ReplayExchange(THREE_MARKETS, 0, expected_streams=EXPECTED).running() as exchange,
        AsyncExitStack() as on,
    ):
        for number, view in enumerate(_settings(exchange).each_market, 1):
            assert exchange.status()["state"] == "waiting"
            await on.enter_async_context(open_socket(exchange, _path(view)))
            await until(lambda number=number: exchange.status()["clients"] == number)  # type: ignore[misc]
            await asyncio.sleep(0.05)  # ten ticks of the wait for subscriptions
        await until(lambda: exchange.status()["state"] == "finished")


@pytest.mark.parametrize("market", list(Market))
async def test_root_paths_are_those_of_the_default_market(market: Market) -> None:
    path = f"{VENUES[market].ws_path}?streams={EXPECTED[market][0]}"
    async with (
        ReplayExchange(THREE_MARKETS, 0, default_market=market).running() as exchange,
        open_socket(exchange, path) as socket,
    ):
        assert await take(socket, 5) == recorded_trades(market)[:5]
        async with httpx.AsyncClient(base_url=exchange.url) as client:
            for below in ("", "/usdm", "/spot", "/coinm"):
                status = (await client.get(f"{below}/public/stream")).status_code
                is_routed = below == "/usdm" or (not below and market is Market.USD_M)
                assert status == (400 if is_routed else 404), below  # 400: no WebSocket handshake


async def _get(client: httpx.AsyncClient, below: str, used: list[int], name: str, weight: int, **query: Any) -> Any:
    """Return the response to a request; assert that it adds `weight` to the `used` weight of the market."""
    response = await client.get(f"{below}/{name}", params=query)
    assert response.status_code == 200, response.text
    used.append(int(response.headers["X-MBX-USED-WEIGHT-1M"]))
    assert used[-1] in (weight, used[-2] + weight)  # the first one if a new minute has begun
    return response.json()


async def test_rest_answers_under_the_prefix_of_each_market() -> None:
    async with (
        ReplayExchange(THREE_MARKETS, 0, expected_streams=EXPECTED).running() as exchange,
        httpx.AsyncClient(base_url=exchange.url, headers={"X-MBX-APIKEY": "any"}) as client,
    ):
        await _received(exchange)
        for market, symbol in SYMBOLS.items():
            weight, of_symbol = VENUES[market].weights, {"symbol": symbol}
            get = partial(_get, client, VENUES[market].rest_path, [0])
            assert (await get("time", 1))["serverTime"] == exchange.clock.now_ms()
            info = await get("exchangeInfo", weight.exchange_info)
            assert [entry["symbol"] for entry in info["symbols"]] == [symbol]
            assert await get("klines", weight.of_klines(500), interval="1m", **of_symbol) == []
            assert await get("aggTrades", weight.agg_trades, **of_symbol) == []
            recorded = [trade_data(raw) for raw in recorded_trades(market)]
            first = recorded[100]["t"]
            served = await get("historicalTrades", weight.historical_trades, fromId=first, limit=500, **of_symbol)
            in_order_book = [one for one in recorded if one.get("X", "MARKET") == "MARKET" and one["t"] >= first]
            assert [(row["id"], row["price"], row["qty"]) for row in served] == [
                (one["t"], one["p"], one["q"]) for one in in_order_book[:500]
            ]
        unknown = await client.get("/dapi/v1/klines", params={"symbol": "BTCUSDT", "interval": "1m"})
        assert unknown.json()["code"] == -1121, "the symbols of other markets are unknown"


async def test_ledger_lists_the_ids_of_each_market() -> None:
    async with (
        ReplayExchange(THREE_MARKETS, 0, expected_streams=EXPECTED).running() as exchange,
        httpx.AsyncClient(base_url=exchange.url, timeout=30) as client,
    ):
        await _received(exchange)
        emitted = (await client.get("/replay/ledger")).json()["emitted"]
    assert emitted.keys() == set(Market)
    for market in Market:
        ids = sorted(trade_data(raw)["t"] for raw in recorded_trades(market))
        (ranges,) = emitted[market].values()
        assert sum(last - first + 1 for first, last in ranges) == len(ids)
        assert (ranges[0][0], ranges[-1][1]) == (ids[0], ids[-1])
    counts = dict.fromkeys(Market, 0)
    for trade in emitted_trades(THREE_MARKETS):
        counts[next(market for market in Market if VENUES[market].exchange == trade.exchange)] += 1
    assert counts == TRADES


async def test_fault_of_a_market_spares_the_same_symbol_of_another() -> None:
    (fault,) = parse_faults('{"kind": "drop", "share": 1.0, "streams": ["btcusdt@trade"], "market": "spot"}')
    assert isinstance(fault, Drop)
    async with (
        ReplayExchange(THREE_MARKETS, 0, expected_streams=EXPECTED, faults=[fault]).running() as exchange,
        httpx.AsyncClient(base_url=exchange.url) as client,
    ):
        received = await _received(exchange)
        assert {market: len(frames) for market, frames in received.items()} == TRADES | {Market.SPOT: 0}
        exchange.control.switch_on(RestLimit(status=429, market=Market.COIN_M, times=1))
        statuses = [(await client.get(f"{VENUES[market].rest_path}/time")).status_code for market in Market]
        assert dict(zip(Market, statuses, strict=True)) == {Market.USD_M: 200, Market.COIN_M: 429, Market.SPOT: 200}


async def test_archive_files_are_those_of_the_market(tmp_path: Path) -> None:
    copied(tmp_path, Market.USD_M, Market.SPOT)
    name = "BTCUSDT-aggTrades-2024-08-08.zip"
    (tmp_path / "spot" / name).write_bytes(b"spot")
    at_top = tmp_path / "data/futures/cm/daily/aggTrades/BTCUSD_PERP/BTCUSD_PERP-aggTrades-2024-08-08.zip"
    at_top.parent.mkdir(parents=True)
    at_top.write_bytes(b"coinm")
    async with ReplayExchange(tmp_path, 0).running() as exchange, httpx.AsyncClient(base_url=exchange.url) as client:
        below = f"daily/aggTrades/BTCUSDT/{name}"
        assert (await client.get(f"/data/spot/{below}")).content == b"spot"
        checksum = (await client.get(f"/data/spot/{below}.CHECKSUM")).text
        assert checksum == f"{hashlib.sha256(b'spot').hexdigest()}  {name}\n"
        assert (await client.get(f"/data/futures/um/{below}")).status_code == 404
        path = f"/{at_top.relative_to(tmp_path)}"
        assert (await client.get(path)).content == b"coinm"
        assert (await client.get(f"{path}.CHECKSUM")).text.startswith(hashlib.sha256(b"coinm").hexdigest())


async def test_batch_responses_of_a_market_directory_are_served(tmp_path: Path) -> None:
    copied(tmp_path, Market.USD_M, Market.SPOT)
    day = {"value": "20", "value_classification": "Fear", "timestamp": "1722988800"}
    (tmp_path / "usdm" / "fear_greed.json").write_text(json.dumps([day]))
    async with ReplayExchange(tmp_path, 0).running() as exchange, httpx.AsyncClient(base_url=exchange.url) as client:
        assert (await client.get("/fng/", params={"limit": 0})).json()["data"] == [day]


async def test_second_connection_of_a_market_receives_the_same_frames() -> None:
    path = f"/spot/ws/{EXPECTED[Market.SPOT][0]}"
    async with (
        ReplayExchange(THREE_MARKETS, 0, expected_streams=EXPECTED).running() as exchange,
        open_socket(exchange, path, max_queue=None) as raw,
    ):
        received = await _received(exchange)
        frames = await take(raw, len(received[Market.SPOT]))
    assert [json.loads(frame)["t"] for frame in frames] == trade_ids(received[Market.SPOT])
