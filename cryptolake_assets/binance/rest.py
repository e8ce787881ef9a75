"""Clients of the exchange's REST interface, blocking and asyncio.

Both clients share how a response is judged and parsed; they differ only in who waits.
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
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, Kline, OddRow
from cryptolake_assets.model.intervals import INTERVALS_MS, MINUTE_MS
from cryptolake_assets.model.markets import USD_M, Venue

AGG_TRADES_PAGE = 1_000
HISTORICAL_TRADES_PAGE = 500
_KEY_HEADER = "X-MBX-APIKEY"
_USED_HEADER = "X-MBX-USED-WEIGHT-1M"
_INVALID_SYMBOL = -1121
_NO_RIGHT = (401, 403)
_TIME = HttpRequest("/time")


class _ErrorBody(msgspec.Struct):
    code: int = 0
    msg: str = ""


# Requests, and how a response is judged: pure.


def exchange_info_request(venue: Venue) -> HttpRequest:
    return HttpRequest("/exchangeInfo", weight=venue.weights.exchange_info)


def volumes_request(venue: Venue) -> HttpRequest:
    return HttpRequest("/ticker/24hr", weight=venue.weights.tickers)


def klines_request(venue: Venue, symbol: str, interval: str, start_ms: int, end_ms: int) -> HttpRequest:
    """Klines whose open time is in [start_ms, end_ms], a page of them."""
    params: dict[str, str | int] = {"symbol": symbol, "interval": interval, "startTime": start_ms, "endTime": end_ms}
    limit = venue.max_klines
    return HttpRequest("/klines", params | {"limit": limit}, weight=venue.weights.of_klines(limit))


def agg_trades_request(venue: Venue, symbol: str, **window: int) -> HttpRequest:
    """`window`: either `fromId`, or `startTime` and `endTime`."""
    params: dict[str, str | int] = {"symbol": symbol, **window, "limit": AGG_TRADES_PAGE}
    return HttpRequest("/aggTrades", params, weight=venue.weights.agg_trades)


def historical_trades_request(venue: Venue, symbol: str, first_id: int, api_key: str) -> HttpRequest:
    """Trades of the order book from `first_id` on."""
    params: dict[str, str | int] = {"symbol": symbol, "fromId": first_id, "limit": HISTORICAL_TRADES_PAGE}
    headers = {_KEY_HEADER: api_key}
    return HttpRequest("/historicalTrades", params, headers, weight=venue.weights.historical_trades)


def judge(response: HttpResponse, policy: RetryPolicy) -> bytes:
    """Return the body of a good final response; raise `UnknownSymbolError` or `ExchangeError` for another."""
    request, failure = response.request, response.failure
    if failure is None:
        return response.body
    try:
        error = msgspec.json.decode(response.body, type=_ErrorBody)
    except msgspec.MsgspecError:
        error = _ErrorBody(0, response.body[:200].decode(errors="replace"))
    cause = " ".join(f"{failure.removeprefix('status ')} {error.code or ''} {error.msg}".split())
    if error.code == _INVALID_SYMBOL:
        raise UnknownSymbolError(
            f"exchange: {request.params.get('symbol')} is not listed at {httpx.URL(response.url).host}. "
            "Correct CRYPTOLAKE_SYMBOLS or CRYPTOLAKE_MARKET; exchangeInfo lists what there is."
        )
    if response.retry_after_s > policy.max_retry_after_s:
        raise ExchangeError(
            f"exchange: {request.path} is rate limited ({cause}) for {response.retry_after_s:.0f} s. Wait that long "
            "before the next request; trying earlier lengthens the ban."
        )
    if response.may_pass:
        raise ExchangeError(
            f"exchange: {response.url} did not answer after {policy.attempts} attempts ({cause}). "
            "Check that the exchange is reachable; `cryptolake status` shows whether the replay exchange is up."
        )
    keyed = _KEY_HEADER in request.headers and response.status in _NO_RIGHT
    advice = "Correct CRYPTOLAKE_BINANCE_API_KEY." if keyed else "Correct the request."
    raise ExchangeError(f"exchange: {request.path} was refused ({cause}); query {request.params}. {advice}")


class ExchangeRest(HttpClient):
    """The blocking client. Every method raises `ExchangeError` when the exchange does not answer in time or refuses,
    and `UnknownSymbolError` for a symbol that it does not list."""

    def __init__(
        self, base_url: str, timeout_s: float = 10.0, policy: RetryPolicy | None = None, *, venue: Venue = USD_M
    ) -> None:
        """`venue` says below which path the interface lies and what it allows."""
        super().__init__(base_url.rstrip("/") + venue.rest_path, timeout_s, policy)
        self._venue = venue

    def time_ms(self) -> int:
        """The exchange's time, epoch milliseconds."""
        return parse_time_ms(self._body(_TIME))

    def exchange_info(self) -> ExchangeInfo:
        return parse_exchange_info(self._body(exchange_info_request(self._venue)))

    def klines(self, symbol: str, interval: str, start_ms: int, end_ms: int) -> list[Kline]:
        """All klines whose open time is in [start_ms, end_ms], ascending, page by page."""
        found: list[Kline] = []
        # Not more than a page at a time: markets differ in which end of a longer window they answer.
        step_ms = self._venue.max_klines * INTERVALS_MS.get(interval, MINUTE_MS)
        while start_ms <= end_ms:
            last_ms = min(end_ms, start_ms + step_ms - 1)
            found += parse_klines(self._body(klines_request(self._venue, symbol, interval, start_ms, last_ms)))
            start_ms = last_ms + 1
        return found

    def _body(self, request: HttpRequest) -> bytes:
        return judge(self.get(request), self.policy)


class AsyncExchangeRest(AsyncHttpClient):
    """The asyncio client, with what the producer needs; errors as in `ExchangeRest`."""

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
    ) -> None:
        """`venue` says below which path the interface lies and what it allows. `budget` is shared by the clients of a
        process; requests of one that is not `urgent` wait for their share."""
        super().__init__(base_url.rstrip("/") + venue.rest_path, timeout_s, policy)
        self._venue = venue
        self._api_key = api_key
        self._budget = budget or WeightBudget()
        self._urgent = urgent

    async def time_ms(self) -> int:
        """The exchange's time, epoch milliseconds."""
        return parse_time_ms(await self._body(_TIME))

    async def exchange_info(self) -> ExchangeInfo:
        return parse_exchange_info(await self._body(exchange_info_request(self._venue)))

    async def volumes(self) -> dict[str, Decimal]:
        """Quote volumes of 24 hours by symbol; weighs 40."""
        return parse_volumes(await self._body(volumes_request(self._venue)))

    async def agg_trades_from(self, symbol: str, first_id: int) -> list[AggTrade | OddRow]:
        """A page of aggregate trades from `first_id` on, ascending."""
        return parse_agg_trades(await self._body(agg_trades_request(self._venue, symbol, fromId=first_id)))

    @property
    def has_key(self) -> bool:
        """Whether `historical_trades_from` can be asked."""
        return bool(self._api_key)

    async def historical_trades_from(self, symbol: str, first_id: int) -> list[HistoricalTrade | OddRow]:
        """A page of trades of the order book from `first_id` on, ascending; wants a key."""
        request = historical_trades_request(self._venue, symbol, first_id, self._api_key)
        return parse_historical_trades(await self._body(request))

    async def once(self, request: HttpRequest) -> HttpResponse:
        """Make one attempt once the budget allows it, and note what the response says of the budget."""
        budget, used = self._budget, None
        await budget.take(request.weight, self.policy.max_retry_after_s, urgent=self._urgent)
        try:
            response = await super().once(request)
            used = response.headers.get(_USED_HEADER)
        finally:
            budget.answered(request.weight, used)
        if response.status in RATE_LIMITED:
            budget.block(response.retry_after_s)
        return response

    async def _body(self, request: HttpRequest) -> bytes:
        return judge(await self.get(request), self.policy)
