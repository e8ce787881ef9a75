"""The network between a producer and the simulated exchange: WebSocket openings and REST, with their faults."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from reliability.simulation.oracle import EmittedTrade
from reliability.simulation.simulated_exchange import SimulatedMarket
from reliability.simulation.simulated_socket import SimulatedSocket

HISTORY_LAG_S = 0.3  # REST shows trades this long after they happened
_encode = msgspec.json.Encoder().encode
_HTML = b"<html><head><title>503</title></head><body>Service unavailable</body></html>"


@dataclass
class RestFault:
    """The fault of a market's REST interface until a time."""

    kind: str = ""  # `429`, `418`, `html`, `html_200`, `down`, `slow`, `500`
    until: float = 0.0
    retry_after_s: int = 0


class SimulatedNetwork:
    """Opens the connections of one process."""

    def __init__(
        self,
        markets: Mapping[str, SimulatedMarket],
        rest_faults: Mapping[str, RestFault],
        random: Random,
        loop: asyncio.AbstractEventLoop,
        log: Any,
    ) -> None:
        """`markets` and `rest_faults` are by host name."""
        self._markets = markets
        self._random = random
        self._loop = loop
        self._log = log
        self.sockets: list[SimulatedSocket] = []
        self.transport = SimulatedRest(markets, rest_faults, random, loop, log)

    @asynccontextmanager
    async def open_socket(self, _io: object, url: str, **options: Any) -> AsyncIterator[SimulatedSocket]:
        address = urlsplit(url)
        market = self._markets[(address.hostname or "").partition(".")[0]]
        latency_s = self._random.uniform(0.003, 0.08)
        await asyncio.sleep(2 * latency_s)
        if self._loop.time() < market.rejects_until:
            self._log("connection_rejected", market.venue.market, market.rejects_with)
            if not market.rejects_with:
                await asyncio.sleep(options["open_timeout"])
                raise TimeoutError("timed out during opening handshake")
            headers = Headers(
                {"Retry-After": str(self._random.randrange(1, 30))} if self._random.random() < 0.5 else {}
            )
            raise InvalidStatus(Response(market.rejects_with, "no", headers))
        names = unquote(address.query.removeprefix("streams=")).split("/")
        by_name = {symbol.lower(): symbol for symbol in market.symbols}
        symbols = frozenset(by_name[name.partition("@")[0]] for name in names if name.partition("@")[0] in by_name)
        number = len(self.sockets)
        socket = SimulatedSocket(number, symbols, latency_s, options["close_timeout"], self._forget(market))
        self.sockets.append(socket)
        market.sockets.append(socket)
        self._log("connection_opened", market.venue.market, number, sorted(symbols))
        life_s = self._random.uniform(0.9, 1.1) * market.max_life_s
        self._loop.call_later(life_s, socket.cut, 1001)
        await asyncio.sleep(latency_s)
        try:
            yield socket
        finally:
            await socket.close()

    def _forget(self, market: SimulatedMarket) -> Any:
        def forget(socket: SimulatedSocket) -> None:
            if socket in market.sockets:
                market.sockets.remove(socket)

        return forget

    def vanish(self) -> None:
        """Close all connections at once, as the end of the process does."""
        for socket in self.sockets:
            socket.cut()


class SimulatedRest(httpx.AsyncBaseTransport):
    """The exchange's REST interface."""

    def __init__(
        self,
        markets: Mapping[str, SimulatedMarket],
        faults: Mapping[str, RestFault],
        random: Random,
        loop: asyncio.AbstractEventLoop,
        log: Any,
    ) -> None:
        self._markets = markets
        self._faults = faults
        self._random = random
        self._log = log
        self._loop = loop
        self._used: dict[str, tuple[int, int]] = {}  # by host: minute, weight

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host.partition(".")[0]
        market, fault = self._markets[host], self._faults[host]
        latency_s = self._random.uniform(0.01, 0.15)
        kind = fault.kind if self._loop.time() < fault.until else ""
        self._log("rest", request.url.path, str(request.url.query, "ascii"), kind)
        if kind == "down":
            timeout_s = request.extensions["timeout"]["read"]
            if self._random.random() < 0.5:
                await asyncio.sleep(latency_s)
                raise httpx.ConnectError("connection refused", request=request)
            await asyncio.sleep(timeout_s)
            raise httpx.ReadTimeout("timed out", request=request)
        if kind == "slow":
            latency_s = self._random.uniform(0.5, 4.0)
            if latency_s > request.extensions["timeout"]["read"]:
                await asyncio.sleep(request.extensions["timeout"]["read"])
                raise httpx.ReadTimeout("timed out", request=request)
        await asyncio.sleep(latency_s / 2)
        used, limit = self._weigh(host, market, request)
        if kind in ("429", "418") or used > limit:
            is_banned = kind in ("429", "418")
            seconds = fault.retry_after_s if is_banned else 60 - int(market.clock_ms / 1000) % 60
            status, body = int(kind) if is_banned else 429, b'{"code":-1003,"msg":"banned"}'
            headers = {"Retry-After": str(seconds)}
        elif kind == "html":
            status, headers, body = 503, {"Content-Type": "text/html"}, _HTML
        elif kind == "html_200":
            status, headers, body = 200, {"Content-Type": "text/html"}, _HTML
        elif kind == "500":
            status, headers, body = 500, {}, b'{"code":-1000,"msg":"unknown error"}'
        else:
            status, body = self._respond(market, request)
            headers = {"X-MBX-USED-WEIGHT-1M": str(used)}
        await asyncio.sleep(latency_s / 2)
        return httpx.Response(status, headers=headers, content=body, request=request)

    def _weigh(self, host: str, market: SimulatedMarket, request: httpx.Request) -> tuple[int, int]:
        """Count a request's weight; return the sum of the minute and its limit."""
        weights = market.venue.weights
        minute, used = self._used.get(host, (-1, 0))
        now = int(market.clock_ms // 60_000)
        used = (used if minute == now else 0) + (weights.agg_trades if "aggTrades" in request.url.path else 1)
        self._used[host] = now, used
        return used, weights.per_minute

    def _respond(self, market: SimulatedMarket, request: httpx.Request) -> tuple[int, bytes]:
        path, params = request.url.path.rpartition("/")[2], request.url.params
        if path == "time":
            return 200, b'{"serverTime":%d}' % market.clock_ms
        if path == "exchangeInfo":
            listed = [
                {"symbol": symbol.name, "status": "TRADING", "quoteAsset": "USDT"}
                for symbol in market.symbols.values()
                if symbol.is_listed
            ]
            return 200, _encode({"serverTime": market.clock_ms, "symbols": listed})
        symbol = market.symbols.get(params["symbol"])
        if symbol is None or not symbol.is_listed:
            return 400, b'{"code":-1121,"msg":"Invalid symbol."}'
        first = max(0, int(params["fromId"]) - symbol.first_id)
        end = bisect_right(symbol.made_at, self._loop.time() - HISTORY_LAG_S)
        trades = symbol.trades[first : min(end, first + int(params["limit"]))]
        # Only trades that the topic has: a malformed row of a missing one would be a rejected trade.
        return 200, _encode(
            [
                _malformed(trade) if trade.trade_id in symbol.malformed and trade.offset is not None else _row(trade)
                for trade in trades
            ]
        )


def _malformed(trade: EmittedTrade) -> Any:
    row = _row(trade)
    return (None, {}, {**row, "p": None}, {**row, "q": "many"})[trade.trade_id % 4]


def _row(trade: EmittedTrade) -> dict[str, Any]:
    return {
        "a": trade.trade_id,
        "p": trade.price,
        "q": trade.qty,
        "f": trade.first_id,
        "l": trade.last_id,
        "T": trade.time_ms,
        "m": trade.side == "sell",
    }
