"""REST routes of the replay exchange: responses from recorded files only, as of the replayed clock."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from cryptolake_assets.captures.published_files import read_exchange_info, read_tickers
from cryptolake_assets.captures.reader import CaptureSummary, read_klines
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.intervals import INTERVALS_MS
from cryptolake_assets.model.markets import VENUES, Market, Venue
from cryptolake_assets.model.replay_faults import FaultBoard, RestHtml, RestLimit, RestReset
from cryptolake_assets.model.symbols import in_capitals
from cryptolake_assets.replay.listing import minimal_exchange_info, minimal_symbol
from cryptolake_assets.replay.recorded_aggregates import AggregateStore
from cryptolake_assets.replay.recorded_books import BookStore
from cryptolake_assets.replay.recorded_trades import TradeStore
from cryptolake_assets.replay.rest_parameters import RestError, check_limit, integer, mandatory, window

log = structlog.get_logger(__name__)

_STATISTICS_PATH = "/futures/data/"  # of USD-M
_PAGE = "<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>Request blocked.</body></html>"
_INTERFACES = (*(f"{venue.rest_path}/" for venue in VENUES.values()), _STATISTICS_PATH)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestRoutes:
    """Route handlers of one market, below its path. They return nothing later than `clock_ms`, the replayed time."""

    def __init__(
        self,
        summary: CaptureSummary,
        clock_ms: Callable[[], int],
        venue: Venue,
        offset_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """Read klines, exchangeInfo and tickers of the capture directory. Raises `CaptureError` for a damaged file.

        `offset_ms` shifts the time that clients read.
        """
        self._clock_ms = clock_ms
        self._offset_ms = offset_ms
        self._venue = venue
        self._klines = _all_klines(summary.directory)
        self._aggregates = AggregateStore(summary.directory)
        self._trades = TradeStore(summary.directory, venue)
        self._books = BookStore(summary.directory)
        aggregate_symbols = {
            path.name.rpartition("-aggTrades-")[0] for path in summary.directory.glob("*-aggTrades-*.csv")
        }
        self._symbols = {*summary.symbols, *(symbol for symbol, _ in self._klines), *aggregate_symbols}
        self._exchange_info = _exchange_info(summary, venue)
        self._tickers = [row for row in read_tickers(summary.directory) if row["symbol"] in self._symbols]
        self._weight = _WeightMeter()

    def routes(self) -> list[web.RouteDef]:
        below = self._venue.rest_path
        return [
            web.get(f"{below}/ping", self._ping),
            web.get(f"{below}/time", self._time),
            web.get(f"{below}/exchangeInfo", self._get_exchange_info),
            web.get(f"{below}/ticker/24hr", self._get_tickers),
            web.get(f"{below}/klines", self._get_klines),
            web.get(f"{below}/depth", self._get_depth),
            web.get(f"{below}/aggTrades", self._get_agg_trades),
            web.get(f"{below}/historicalTrades", self._get_historical_trades),
        ]

    def close(self) -> None:
        self._aggregates.close()
        self._trades.close()
        self._books.close()

    def add_weight(self, weight: int) -> None:
        """Count the weight of a request that another class handles."""
        self._weight.add(weight)

    def owns(self, path: str) -> bool:
        """Return whether the path is one of the market's."""
        is_usd_m = self._venue.market is Market.USD_M
        return path.startswith((f"{self._venue.rest_path}/", *([_STATISTICS_PATH] if is_usd_m else [])))

    async def respond(self, request: web.Request, handler: Handler, faults: FaultBoard) -> web.StreamResponse:
        """Return the response of a request of the market: errors in the exchange's shape, and the used weight."""
        if (fault := faults.rest_fault(self._venue.market, request.path, time.monotonic())) is not None:
            log.info("replay_rest_fault_applied", path=request.path, fault=type(fault).__name__)
            match fault:
                case RestLimit():
                    return _limited(fault, self._venue.weights.per_minute)
                case RestHtml():
                    return web.Response(text=_PAGE, status=fault.status, content_type="text/html")
                case RestReset():
                    return _reset(request)
        try:
            response = await handler(request)
        except RestError as error:
            response = _json(error.body, error.status)
        except web.HTTPNotFound:
            response = _json({"code": -5000, "msg": f"Path {request.path}, Method {request.method} is invalid"}, 404)
        except CaptureError as error:
            log.error("replay_response_failed", path=request.path, error=str(error))
            response = _json({"code": -1000, "msg": str(error)}, 500)
        response.headers["X-MBX-USED-WEIGHT-1M"] = str(self._weight.used())
        return response

    async def _ping(self, _request: web.Request) -> web.Response:
        self._weight.add(1)
        return _json({})

    async def _time(self, _request: web.Request) -> web.Response:
        self._weight.add(1)
        return _json({"serverTime": self._clock_ms() + self._offset_ms()})

    async def _get_exchange_info(self, _request: web.Request) -> web.Response:
        self._weight.add(self._venue.weights.exchange_info)
        return _json(self._exchange_info | {"serverTime": self._clock_ms() + self._offset_ms()})

    async def _get_tickers(self, request: web.Request) -> web.Response:
        self._weight.add(1 if "symbol" in request.query else self._venue.weights.tickers)
        if "symbol" not in request.query:
            return _json(self._tickers)
        symbol = self._symbol(request)
        return _json(next((ticker for ticker in self._tickers if ticker["symbol"] == symbol), {}))

    async def _get_klines(self, request: web.Request) -> web.Response:
        limit = integer(request, "limit", 500)
        self._weight.add(self._venue.weights.of_klines(limit))
        symbol = self._symbol(request)
        interval = mandatory(request, "interval")
        if interval not in INTERVALS_MS:
            raise RestError(-1120, "Invalid interval.")
        start_ms, end_ms = window(request)
        check_limit(limit, self._venue.max_klines)
        until_ms = min(end_ms, self._clock_ms())
        rows = [
            row for row in self._klines.get((symbol, interval), []) if (start_ms or 0) <= row.open_time_ms <= until_ms
        ]
        page = rows[-limit:] if start_ms is None or self._venue.klines_newest_first else rows[:limit]
        return _json([row.to_rest() for row in page])

    async def _get_depth(self, request: web.Request) -> web.Response:
        """Return the newest snapshot of the capture as it was recorded; before the first one, none is available."""
        limit = integer(request, "limit", self._venue.weights.depth[0][0])
        self._weight.add(self._venue.weights.of_depth(limit))
        symbol = self._symbol(request)
        check_limit(limit, self._venue.weights.max_depth)
        body = await asyncio.to_thread(self._books.newest, symbol, self._clock_ms())
        if body is None:
            raise RestError(-1001, "Internal error; unable to process your request. Please try again.", 503)
        return web.Response(text=body, content_type="application/json")

    async def _get_agg_trades(self, request: web.Request) -> web.Response:
        self._weight.add(self._venue.weights.agg_trades)
        symbol = self._symbol(request)
        limit = integer(request, "limit", 500)
        check_limit(limit, 1_000)
        start_ms, end_ms = window(request)
        clock_ms = self._clock_ms()
        until_ms = min(end_ms, clock_ms)
        store = self._aggregates
        if "fromId" in request.query:
            if start_ms is not None or "endTime" in request.query:
                raise RestError(-1128, "Combination of optional parameters invalid.")
            rows = asyncio.to_thread(store.from_id, symbol, integer(request, "fromId", 0), clock_ms, limit)
        elif start_ms is not None:
            if (window_ms := self._venue.agg_trades_window_ms) is not None:
                if "endTime" in request.query and end_ms - start_ms > window_ms:
                    raise RestError(-1127, "More than 1 hours between startTime and endTime.")
                until_ms = min(until_ms, start_ms + window_ms)
            rows = asyncio.to_thread(store.between, symbol, start_ms, until_ms, limit)
        else:
            rows = asyncio.to_thread(store.latest, symbol, until_ms, limit)
        return _json([row.to_rest() for row in await rows])

    async def _get_historical_trades(self, request: web.Request) -> web.Response:
        self._weight.add(self._venue.weights.historical_trades)
        if not request.headers.get("X-MBX-APIKEY", "").strip():
            raise RestError(-2014, "API-key format invalid.", 401)
        symbol = self._symbol(request)
        limit = integer(request, "limit", 100)
        check_limit(limit, 500)
        clock_ms, store = self._clock_ms(), self._trades
        if "fromId" in request.query:
            rows = asyncio.to_thread(store.from_id, symbol, integer(request, "fromId", 0), clock_ms, limit)
        else:
            rows = asyncio.to_thread(store.latest, symbol, clock_ms, limit)
        return _json([row.to_rest() for row in await rows])

    def _symbol(self, request: web.Request) -> str:
        symbol = in_capitals(mandatory(request, "symbol"))
        if symbol not in self._symbols:
            raise RestError(-1121, "Invalid symbol.")
        return symbol


def exchange_middleware(markets: Sequence[RestRoutes], faults: FaultBoard) -> Middleware:
    """Return the middleware of the markets' REST interfaces; a market without captures gets the first one's errors."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(_INTERFACES):
            return await handler(request)
        market = next((one for one in markets if one.owns(request.path)), markets[0])
        return await market.respond(request, handler, faults)

    return middleware


class _WeightMeter:
    """Request weight used in the current wall-clock minute."""

    def __init__(self) -> None:
        self._minute = 0
        self._used = 0

    def add(self, weight: int) -> None:
        self._used = self.used() + weight

    def used(self) -> int:
        minute = int(time.time() // 60)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        return self._used


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")


def _limited(limit: RestLimit, per_minute: int) -> web.Response:
    if limit.status == web.HTTPTooManyRequests.status_code:
        text = f"Too many requests; current limit of IP is {per_minute} requests per minute."
    else:
        until_ms = time.time_ns() // 10**6 + limit.retry_after_s * 1_000
        text = f"Way too many requests; IP banned until {until_ms}."
    response = _json({"code": -1003, "msg": f"{text} Please use the websocket for live updates."}, limit.status)
    response.headers["Retry-After"] = str(limit.retry_after_s)
    return response


def _reset(request: web.Request) -> web.Response:
    """Reset the request's TCP connection; return a response that reaches no one."""
    if request.transport is not None:
        peer = request.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with RST instead of FIN
        request.transport.abort()
    return web.Response()


def _all_klines(directory: Path) -> dict[tuple[str, str], list[Kline]]:
    # A symbol may contain hyphens.
    keys = {
        (path.name.partition(f"-{interval}-")[0], interval)
        for interval in INTERVALS_MS
        for path in directory.glob(f"*-{interval}-*.csv")
    }
    found = {(symbol, interval): read_klines(directory, symbol, interval) for symbol, interval in sorted(keys)}
    return {key: rows for key, rows in found.items() if rows}


def _exchange_info(summary: CaptureSummary, venue: Venue) -> dict[str, Any]:
    """Return the recorded document limited to the capture's symbols, with minimal entries for missing ones."""
    recorded = read_exchange_info(summary.directory)
    if recorded is not None:
        listed = [entry for entry in recorded["symbols"] if entry["symbol"] in summary.symbols]
        missing = set(summary.symbols) - {entry["symbol"] for entry in listed}
        return recorded | {"symbols": listed + [minimal_symbol(symbol, venue) for symbol in sorted(missing)]}
    return minimal_exchange_info(summary.symbols, venue)
