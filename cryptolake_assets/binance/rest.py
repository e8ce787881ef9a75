"""Clients of the exchange's REST interface, blocking and asyncio.

Both share the checks and parsers of responses.
"""

from __future__ import annotations

from decimal import Decimal

import httpx
import msgspec

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.binance.rest_responses import (
    ExchangeInfo,
    parse_agg_trades,
    parse_exchange_info,
    parse_historical_trades,
    parse_klines,
    parse_time_ms,
    parse_volumes,
)
from cryptolake_assets.errors import ExchangeError, UnknownSymbolError
from cryptolake_assets.http.http_client import RATE_LIMITED, AsyncHttpClient, HttpClient, HttpResponse, RetryPolicy
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, Kline, MalformedRow
from cryptolake_assets.model.intervals import INTERVALS_MS
from cryptolake_assets.model.markets import USD_M, Venue
from cryptolake_assets.model.windows import MINUTE_MS

AGG_TRADES_PAGE = 1_000
HISTORICAL_TRADES_PAGE = 500
_KEY_HEADER = "X-MBX-APIKEY"
_USED_HEADER = "X-MBX-USED-WEIGHT-1M"
INVALID_SYMBOL = -1121
_UNAUTHORIZED = (401, 403)
_TIME = HttpRequest("/time")


class _ErrorBody(msgspec.Struct):
    code: int = 0
    msg: str = ""


# Requests, and the check of responses; without I/O.


def exchange_info_request(venue: Venue) -> HttpRequest:
    return HttpRequest("/exchangeInfo", weight=venue.weights.exchange_info)


def volumes_request(venue: Venue) -> HttpRequest:
    return HttpRequest("/ticker/24hr", weight=venue.weights.tickers)


def klines_request(venue: Venue, symbol: str, interval: str, start_ms: int, end_ms: int) -> HttpRequest:
    """Request a page of klines whose open time is in [start_ms, end_ms]."""
    params: dict[str, str | int] = {"symbol": symbol, "interval": interval, "startTime": start_ms, "endTime": end_ms}
    limit = venue.max_klines
    return HttpRequest("/klines", params | {"limit": limit}, weight=venue.weights.of_klines(limit))


def agg_trades_request(venue: Venue, symbol: str, **window: int) -> HttpRequest:
    """Request a page of aggregate trades. `window` is `fromId`, or `startTime` and `endTime`."""
    params: dict[str, str | int] = {"symbol": symbol, **window, "limit": AGG_TRADES_PAGE}
    return HttpRequest("/aggTrades", params, weight=venue.weights.agg_trades)


def historical_trades_request(venue: Venue, symbol: str, first_id: int, api_key: str) -> HttpRequest:
    """Request a page of order-book trades from `first_id` on."""
    params: dict[str, str | int] = {"symbol": symbol, "fromId": first_id, "limit": HISTORICAL_TRADES_PAGE}
    headers = {_KEY_HEADER: api_key}
    return HttpRequest("/historicalTrades", params, headers, weight=venue.weights.historical_trades)


def depth_request(venue: Venue, symbol: str, limit: int) -> HttpRequest:
    """Request a snapshot of the order book, at most `limit` levels a side."""
    return HttpRequest("/depth", {"symbol": symbol, "limit": limit}, weight=venue.weights.of_depth(limit))


def checked_body(response: HttpResponse, policy: RetryPolicy) -> bytes:
    """Return the body of a successful final response; raise `UnknownSymbolError` or `ExchangeError` otherwise."""
    request, failure = response.request, response.failure
    if failure is None:
        return response.body
    try:
        error = msgspec.json.decode(response.body, type=_ErrorBody)
    except msgspec.MsgspecError:
        error = _ErrorBody(0, response.body[:200].decode(errors="replace"))
    cause = " ".join(f"{failure.removeprefix('status ')} {error.code or ''} {error.msg}".split())
    if error.code == INVALID_SYMBOL:
        raise UnknownSymbolError(
            f"exchange: {request.params.get('symbol')} is not listed at {httpx.URL(response.url).host}. "
            "Correct CRYPTOLAKE_SYMBOLS or CRYPTOLAKE_MARKET; exchangeInfo lists the symbols."
        )
    if response.retry_after_s > policy.max_retry_after_s:
        raise ExchangeError(
            f"exchange: {request.path} is rate limited ({cause}) for {response.retry_after_s:.0f} s. Wait that long "
            "before the next request; earlier requests extend the ban."
        )
    if response.is_transient:
        raise ExchangeError(
            f"exchange: {response.url} failed after {policy.attempts} attempts ({cause}). "
            "Check that the exchange is reachable; `cryptolake status` shows whether the replay exchange is up."
        )
    needs_key = _KEY_HEADER in request.headers and response.status in _UNAUTHORIZED
    advice = "Correct CRYPTOLAKE_BINANCE_API_KEY." if needs_key else "Correct the request."
    raise ExchangeError(f"exchange: {request.path} was rejected ({cause}); parameters: {request.params}. {advice}")


class ExchangeRest(HttpClient):
    """The blocking client.

    Every method raises `ExchangeError` if the exchange rejects the request or does not respond in time, and
    `UnknownSymbolError` for an unlisted symbol.
    """

    def __init__(
        self, base_url: str, timeout_s: float = 10.0, policy: RetryPolicy | None = None, *, venue: Venue = USD_M
    ) -> None:
        """Create a client of the `venue`, which defines the REST path, weights and page sizes."""
        super().__init__(base_url.rstrip("/") + venue.rest_path, timeout_s, policy)
        self._venue = venue

    def time_ms(self) -> int:
        """Return the exchange's time, epoch milliseconds."""
        return parse_time_ms(self._body(_TIME))

    def exchange_info(self) -> ExchangeInfo:
        return parse_exchange_info(self._body(exchange_info_request(self._venue)))

    def klines(self, symbol: str, interval: str, start_ms: int, end_ms: int) -> list[Kline]:
        """Fetch all klines whose open time is in [start_ms, end_ms], ascending, page by page."""
        found: list[Kline] = []
        # Request at most one page per window: for a longer one, some markets return its oldest rows, some its newest.
        step_ms = self._venue.max_klines * INTERVALS_MS.get(interval, MINUTE_MS)
        while start_ms <= end_ms:
            last_ms = min(end_ms, start_ms + step_ms - 1)
            found += parse_klines(self._body(klines_request(self._venue, symbol, interval, start_ms, last_ms)))
            start_ms = last_ms + 1
        return found

    def _body(self, request: HttpRequest) -> bytes:
        return checked_body(self.get(request), self.policy)


class AsyncExchangeRest(AsyncHttpClient):
    """The asyncio client, for the producer. Raises the same errors as `ExchangeRest`."""

    def __init__(
        self,
        base_url: str,
        timeout_s: float = 10.0,
        policy: RetryPolicy | None = None,
        *,
        venue: Venue = USD_M,
        api_key: str = "",
        budget: WeightBudget | None = None,
        urgent: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Create a client of the `venue`, which defines the REST path and weights.

        The clients of a process share the `budget`; a client that is not `urgent` waits for its share. `transport`
        replaces the network.
        """
        super().__init__(base_url.rstrip("/") + venue.rest_path, timeout_s, policy, transport)
        self._venue = venue
        self._api_key = api_key
        self._budget = budget or WeightBudget()
        self._urgent = urgent

    async def time_ms(self) -> int:
        """Return the exchange's time, epoch milliseconds."""
        return parse_time_ms(await self._body(_TIME))

    async def exchange_info(self) -> ExchangeInfo:
        return parse_exchange_info(await self._body(exchange_info_request(self._venue)))

    async def volumes(self) -> dict[str, Decimal]:
        """Fetch 24-hour quote volumes by symbol; request weight 40 on futures, 80 on Spot."""
        return parse_volumes(await self._body(volumes_request(self._venue)))

    async def agg_trades_from(self, symbol: str, first_id: int) -> list[AggTrade | MalformedRow]:
        """Fetch a page of aggregate trades from `first_id` on, ascending."""
        return parse_agg_trades(await self._body(agg_trades_request(self._venue, symbol, fromId=first_id)))

    async def depth(self, symbol: str, limit: int) -> bytes:
        """Fetch the body of a snapshot of the order book, at most `limit` levels a side."""
        return await self._body(depth_request(self._venue, symbol, limit))

    @property
    def has_key(self) -> bool:
        """Return whether there is an API key, which `historical_trades_from` needs."""
        return bool(self._api_key)

    async def historical_trades_from(self, symbol: str, first_id: int) -> list[HistoricalTrade | MalformedRow]:
        """Fetch a page of order-book trades from `first_id` on, ascending; needs an API key."""
        request = historical_trades_request(self._venue, symbol, first_id, self._api_key)
        return parse_historical_trades(await self._body(request))

    async def once(self, request: HttpRequest) -> HttpResponse:
        """Make one attempt when the budget allows it, and update the budget from the response."""
        budget, used = self._budget, None
        await budget.take(request.weight, self.policy.max_retry_after_s, urgent=self._urgent)
        try:
            response = await super().once(request)
            used = response.headers.get(_USED_HEADER)
        finally:
            budget.finish(request.weight, used)
        if response.status in RATE_LIMITED:
            budget.block(response.retry_after_s)
        return response

    async def _body(self, request: HttpRequest) -> bytes:
        return checked_body(await self.get(request), self.policy)
