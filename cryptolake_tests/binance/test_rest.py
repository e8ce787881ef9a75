"""The REST clients, against the replay exchange and against a server with scripted failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.binance.rest import (
    HISTORICAL_TRADES_PAGE,
    AsyncExchangeRest,
    ExchangeRest,
)
from cryptolake_assets.binance.rest_responses import (
    parse_agg_trades,
    parse_exchange_info,
    parse_historical_trades,
    parse_klines,
    parse_volumes,
)
from cryptolake_assets.captures.reader import read_klines
from cryptolake_assets.errors import ExchangeError, UnknownSymbolError
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.model.exchange_records import HistoricalTrade
from cryptolake_assets.model.symbol_selection import parse_selection
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.aggregates_rest import AggregatesRest
from cryptolake_tests.support.captures import write_capture
from cryptolake_tests.support.scripted_server import ScriptedServer
from cryptolake_tests.support.sockets import NOON_MS, numbered_capture, open_socket, until

QUICK = RetryPolicy(attempts=3, max_backoff_s=0.01, max_retry_after_s=2)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer().running() as running:
        yield running


TIME: tuple[int, dict[str, str], str] = (200, {}, '{"serverTime":5}')


async def _both(url: str) -> list[Any]:
    """Return the `time_ms` of both clients; errors are returned, not raised."""
    with ExchangeRest(url, 5, QUICK) as client:
        blocking = (await asyncio.gather(asyncio.to_thread(client.time_ms), return_exceptions=True))[0]
    async with AsyncExchangeRest(url, 5, QUICK) as other:
        return [blocking, (await asyncio.gather(other.time_ms(), return_exceptions=True))[0]]


async def test_both_clients_read_the_exchange() -> None:
    exchange = ReplayExchange(DEMO_CAPTURE_DIR, 0)
    async with exchange.running():
        assert await _both(exchange.url) == [1_721_347_022_711] * 2
        async with AsyncExchangeRest(exchange.url + "/") as client:
            info = await client.exchange_info()
        assert info.symbol_names == ("ETHUSDT", "BTCUSDT")
        assert info.symbols[0].quote_asset == "USDT"
        with ExchangeRest(exchange.url) as blocking:
            assert await asyncio.to_thread(blocking.exchange_info) == info


async def test_klines_equal_the_files_and_unknown_symbols_raise_errors() -> None:
    exchange = ReplayExchange(DEMO_CAPTURE_DIR, 0)
    async with exchange.running():
        async with open_socket(exchange, "/stream?streams=x@y"):
            await until(lambda: exchange.status()["state"] == "finished")
        official = read_klines(DEMO_CAPTURE_DIR, "ETHUSDT", "1m")
        with ExchangeRest(exchange.url) as client:
            span = (official[0].open_time_ms, official[-1].open_time_ms)
            got = await asyncio.to_thread(client.klines, "ETHUSDT", "1m", *span)
            assert got == [k for k in official if k.open_time_ms <= exchange.clock.now_ms()]
            assert got
            with pytest.raises(UnknownSymbolError, match="NOPE is not listed"):
                await asyncio.to_thread(client.klines, "NOPE", "1m", *span)
            with pytest.raises(ExchangeError, match="-1120 Invalid interval"):
                await asyncio.to_thread(client.klines, "ETHUSDT", "7m", *span)


@pytest.fixture
async def paged(tmp_path: Path) -> AsyncIterator[ReplayExchange]:
    """An exchange with 3,200 klines, and 2,499 aggregates over 2 h, of which 1,199 share one millisecond."""
    step_ms, count = 3, 2_500
    span_ms = 3_200 * 60_000
    numbered_capture(tmp_path, 2, span_ms)
    header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,a,b,ignore\n"
    rows = (f"{NOON_MS + i * 60_000},1,1,1,1,1,{NOON_MS + i * 60_000 + 59_999},1,1,1,1,0\n" for i in range(3_200))
    (tmp_path / "BTCUSDT-1m-x.csv").write_text(header + "".join(rows))
    times = (NOON_MS + (0 if i < 1_200 else i * step_ms * 1_000) for i in range(count))
    (tmp_path / "BTCUSDT-aggTrades-x.csv").write_text(
        "".join(f"{i},1.5,2,{i},{i},{time},true\n" for i, time in enumerate(times) if i != 700)
    )
    write_capture(tmp_path / "b.ndjson", [])
    exchange = ReplayExchange(tmp_path, 0)
    async with exchange.running():
        async with open_socket(exchange, "/stream?streams=x@y"):
            await until(lambda: exchange.status()["state"] == "finished")
        yield exchange


async def test_long_ranges_are_fetched_in_pages(paged: ReplayExchange) -> None:
    with AggregatesRest(paged.url) as client:

        async def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            return await asyncio.to_thread(lambda: list(function("BTCUSDT", *arguments)))

        klines = await call(client.klines, "1m", NOON_MS, NOON_MS + 3_199 * 60_000)
        assert [k.open_time_ms for k in klines] == [NOON_MS + i * 60_000 for i in range(3_200)]
        assert await call(client.klines, "1m", 5, 4) == []
        by_id = await call(client.agg_trades, 100, 2_200)
        assert [t.agg_trade_id for t in by_id] == [i for i in range(100, 2_201) if i != 700]
        by_time = await call(client.agg_trades_between, NOON_MS, NOON_MS + 2_499 * 3_000)
        assert [t.agg_trade_id for t in by_time] == [i for i in range(2_500) if i != 700]
        assert (by_time[0].price, by_time[0].qty, by_time[0].is_buyer_maker) == ("1.5", "2", True)


async def test_temporary_failures_are_retried(server: ScriptedServer) -> None:
    server.script = [(503, {}, "down"), (502, {}, ""), TIME]
    assert await _both(server.url) == [5, 5]
    assert server.requests == 3 + 1


async def test_permanent_failures_raise_an_error_after_the_last_attempt(server: ScriptedServer) -> None:
    server.script = [(503, {}, '{"code":-1001,"msg":"Internal error"}')]
    for error in await _both(server.url):
        assert isinstance(error, ExchangeError)
        assert "/fapi/v1/time failed after 3 attempts (503 -1001 Internal error)" in str(error)
    assert server.requests == 6


async def test_client_waits_for_retry_after(server: ScriptedServer) -> None:
    server.script = [(429, {"Retry-After": "1"}, '{"code":-1003,"msg":"Too many requests"}'), TIME]
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with AsyncExchangeRest(server.url, 5, QUICK) as client:
        assert await client.time_ms() == 5
    assert loop.time() - started >= 1
    assert server.requests == 2


async def test_long_ban_is_not_retried(server: ScriptedServer) -> None:
    server.script = [(418, {"Retry-After": "7200"}, '{"code":-1003,"msg":"banned"}')]
    for error in await _both(server.url):
        assert isinstance(error, ExchangeError)
        assert "rate limited (418 -1003 banned) for 7200 s" in str(error)
    assert server.requests == 2


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"serverTime":"5"}', '{"serverTime":1.5}'])
async def test_responses_of_another_format_are_rejected(server: ScriptedServer, text: str) -> None:
    server.script = [(200, {}, text)]
    for error in await _both(server.url):
        assert isinstance(error, ExchangeError)
        assert "has an unknown format" in str(error)


async def test_unreachable_exchange_raises_an_error(server: ScriptedServer) -> None:
    for url in ("http://127.0.0.1:1", "nonsense"):
        for error in await _both(url):
            assert isinstance(error, ExchangeError), error
            assert "failed after 3 attempts" in str(error)


async def test_historical_trades_require_an_api_key(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1_200, 60_000)
    async with ReplayExchange(tmp_path, 0).running() as exchange:
        async with open_socket(exchange, "/stream?streams=btcusdt@trade"):
            await until(lambda: exchange.status()["state"] == "finished")
        async with AsyncExchangeRest(exchange.url, policy=QUICK) as without:
            assert not without.has_key
            with pytest.raises(ExchangeError, match=r"401 -2014 .* Correct CRYPTOLAKE_BINANCE_API_KEY"):
                await without.historical_trades_from("BTCUSDT", 1)
        async with AsyncExchangeRest(exchange.url, policy=QUICK, api_key="secret") as client:
            assert client.has_key
            page = await client.historical_trades_from("BTCUSDT", 100)
            ids = [row.trade_id for row in page if isinstance(row, HistoricalTrade)]
            assert ids == list(range(100, 100 + HISTORICAL_TRADES_PAGE))
            with pytest.raises(UnknownSymbolError, match="NOPE"):
                await client.historical_trades_from("NOPE", 1)


async def test_all_clients_of_a_budget_observe_a_requested_pause(server: ScriptedServer) -> None:
    server.script = [(429, {"Retry-After": "1"}, '{"code":-1003,"msg":"Too many requests"}'), (200, {}, "[]"), TIME]
    budget = WeightBudget()
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with (
        AsyncExchangeRest(server.url, 5, QUICK, budget=budget, urgent=False) as history,
        AsyncExchangeRest(server.url, 5, replace(QUICK, max_retry_after_s=0.5), budget=budget) as clock,
    ):
        waiting = asyncio.create_task(history.agg_trades_from("BTCUSDT", 1))
        await until(lambda: budget.blocked_s > 0)
        with pytest.raises(ExchangeError, match="paused for another 1 s"):
            await clock.time_ms()
        assert server.requests == 1, "no request was sent during the pause"
        assert await waiting == []
        assert loop.time() - started >= 1
        assert await clock.time_ms() == 5


def test_invalid_row_does_not_affect_the_others() -> None:
    kline = [60_000, "1", "1", "1", "1.5", "2", 119_999, "3", 4, "1", "1.5", "0"]
    invalid_klines = [kline[:5], [*kline[:4], 1.5, *kline[5:]], [*kline[:4], "NaN", *kline[5:]], None]
    assert [row.open_time_ms for row in parse_klines(json.dumps([*invalid_klines, kline]).encode())] == [60_000]
    symbols = [
        {"status": "TRADING"},
        None,
        {"symbol": 5},
        {"symbol": "BTCUSDT", "status": None},
        {"symbol": "币安人生USDT"},
    ]
    assert parse_exchange_info(json.dumps({"symbols": symbols}).encode()).symbol_names == ("币安人生USDT",)
    tickers = [{"symbol": "A", "quoteVolume": "x"}, {"symbol": "B", "quoteVolume": "NaN"}, {"quoteVolume": "1"}, 1]
    assert parse_volumes(json.dumps([*tickers, {"symbol": "C", "quoteVolume": "1.5"}]).encode()) == {
        "C": Decimal("1.5")
    }


def test_invalid_symbols_are_not_selected_by_patterns() -> None:
    names = ["BTCUSDT", "", "A/B", "..", "X" * 70, "币安人生USDT"]
    rows = [{"symbol": name, "status": "TRADING", "quoteAsset": "USDT", "quoteVolume": "1"} for name in names]
    listed = parse_exchange_info(json.dumps({"symbols": rows}).encode())
    volumes = parse_volumes(json.dumps(rows).encode())
    symbols = ("BTCUSDT", "币安人生USDT")
    assert (listed.symbol_names, tuple(volumes)) == (symbols, symbols)
    for selection in (["*"], ["TOP:9"]):
        assert set(parse_selection(selection).resolve(listed.symbols, volumes)) == set(symbols)


@pytest.mark.parametrize("parse", [parse_klines, parse_volumes, parse_agg_trades, parse_historical_trades])
def test_response_without_a_valid_row_is_rejected(parse: Callable[[bytes], object]) -> None:
    assert not parse(b"[]")
    with pytest.raises(ExchangeError, match="has an unknown format"):
        parse(b"[1,2]")
