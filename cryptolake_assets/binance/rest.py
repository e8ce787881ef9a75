"""Clients of the exchange's REST interface, blocking and asyncio.

Both clients share how a request is made, judged and parsed; they differ only in who waits.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, Self

import httpx
import msgspec
import structlog
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

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
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, Kline, OddRow
from cryptolake_assets.model.intervals import INTERVALS_MS, MINUTE_MS
from cryptolake_assets.model.markets import USD_M, Venue

log = structlog.get_logger(__name__)

AGG_TRADES_PAGE = 1_000
HISTORICAL_TRADES_PAGE = 500
_KEY_HEADER = "X-MBX-APIKEY"
_USED_HEADER = "X-MBX-USED-WEIGHT-1M"
_INVALID_SYMBOL = -1121
_RATE_LIMITED = (418, 429)
_NO_RIGHT = (401, 403)


class _ErrorBody(msgspec.Struct):
    code: int = 0
    msg: str = ""


@dataclass(frozen=True)
class RestRequest:
    """One GET: its path below the market's own (`/fapi/v1`), its query, its request weight, and whether the exchange
    wants a key with it."""

    path: str
    params: dict[str, str | int] = field(default_factory=dict)
    weight: int = 1
    wants_key: bool = False


class RetryableError(Exception):
    """A failure that may pass; `retry_after_s` is what the exchange asked for, if it did."""

    def __init__(self, cause: str, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is tried again. A rate limit that asks for a longer pause than
    `max_retry_after_s` fails at once: trying earlier would only lengthen it."""

    attempts: int = 5
    max_backoff_s: float = 5.0
    max_retry_after_s: float = 60.0

    def wait_s(self, state: RetryCallState) -> float:
        """What the exchange asked for, and on top of it a full-jitter exponential backoff."""
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s = error.retry_after_s if isinstance(error, RetryableError) and error.retry_after_s else 0.0
        return asked_s + wait_random_exponential(multiplier=0.1, max=self.max_backoff_s)(state)

    def arguments(self) -> dict[str, Any]:
        """For tenacity's `Retrying` and `AsyncRetrying`."""
        return {
            "retry": retry_if_exception_type((RetryableError, httpx.TransportError)),
            "stop": stop_after_attempt(self.attempts),
            "wait": self.wait_s,
            "before_sleep": log_retry,
            "reraise": True,
        }


# Requests, and how an answer is judged: pure.


def time_request() -> RestRequest:
    return RestRequest("/time")


def exchange_info_request(venue: Venue) -> RestRequest:
    return RestRequest("/exchangeInfo", weight=venue.weights.exchange_info)


def volumes_request(venue: Venue) -> RestRequest:
    return RestRequest("/ticker/24hr", weight=venue.weights.tickers)


def klines_request(venue: Venue, symbol: str, interval: str, start_ms: int, end_ms: int) -> RestRequest:
    """Klines whose open time is in [start_ms, end_ms], a page of them."""
    params: dict[str, str | int] = {"symbol": symbol, "interval": interval, "startTime": start_ms, "endTime": end_ms}
    limit = venue.max_klines
    return RestRequest("/klines", params | {"limit": limit}, weight=venue.weights.of_klines(limit))


def agg_trades_request(venue: Venue, symbol: str, **window: int) -> RestRequest:
    """`window`: either `fromId`, or `startTime` and `endTime`."""
    params: dict[str, str | int] = {"symbol": symbol, **window, "limit": AGG_TRADES_PAGE}
    return RestRequest("/aggTrades", params, weight=venue.weights.agg_trades)


def historical_trades_request(venue: Venue, symbol: str, first_id: int) -> RestRequest:
    """Trades of the order book from `first_id` on."""
    params: dict[str, str | int] = {"symbol": symbol, "fromId": first_id, "limit": HISTORICAL_TRADES_PAGE}
    return RestRequest("/historicalTrades", params, weight=venue.weights.historical_trades, wants_key=True)


def judge(request: RestRequest, response: httpx.Response, policy: RetryPolicy) -> bytes:
    """The body of a good answer. Raises `UnknownSymbolError`, `ExchangeError`, or what makes the caller try again."""
    status = response.status_code
    if status == httpx.codes.OK:
        return response.content
    try:
        body = msgspec.json.decode(response.content, type=_ErrorBody)
    except msgspec.MsgspecError:
        body = _ErrorBody(0, response.text[:200])
    cause = f"{status} {body.code} {body.msg}".strip()
    if body.code == _INVALID_SYMBOL:
        raise UnknownSymbolError(
            f"exchange: {request.params.get('symbol')} is not listed at {response.url.host}. "
            "Correct CRYPTOLAKE_SYMBOLS or CRYPTOLAKE_MARKET; exchangeInfo lists what there is."
        )
    if status in _RATE_LIMITED:
        retry_after_s = retry_after_s_of(response)
        if retry_after_s > policy.max_retry_after_s:
            raise ExchangeError(
                f"exchange: {request.path} is rate limited ({cause}) for {retry_after_s:.0f} s. Wait that long before "
                "the next request; trying earlier lengthens the ban."
            )
        raise RetryableError(cause, retry_after_s)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise RetryableError(cause)
    advice = (
        "Correct CRYPTOLAKE_BINANCE_API_KEY." if request.wants_key and status in _NO_RIGHT else "Correct the request."
    )
    raise ExchangeError(f"exchange: {request.path} was refused ({cause}); query {request.params}. {advice}")


def retry_after_s_of(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 1.0


def log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("exchange_retry", attempt=state.attempt_number, wait_s=round(state.upcoming_sleep, 3), cause=str(error))


def _gave_up(base_url: str, request: RestRequest, policy: RetryPolicy, error: Exception) -> ExchangeError:
    cause = str(error) or type(error).__name__
    return ExchangeError(
        f"exchange: {base_url}{request.path} did not answer after {policy.attempts} attempts ({cause}). "
        "Check that the exchange is reachable; `cryptolake status` shows whether the replay exchange is up."
    )


@lru_cache(maxsize=1)
def tls() -> ssl.SSLContext:
    """One for the process: to load the trusted certificates takes longer than a request."""
    return httpx.create_ssl_context()


class ExchangeRest:
    """The blocking client. Every method raises `ExchangeError` when the exchange does not answer in time or refuses,
    and `UnknownSymbolError` for a symbol that it does not list."""

    def __init__(
        self, base_url: str, timeout_s: float = 10.0, policy: RetryPolicy | None = None, *, venue: Venue = USD_M
    ) -> None:
        """`venue` says below which path the interface lies and what it allows."""
        self._venue = venue
        self._base_url = base_url.rstrip("/") + venue.rest_path
        self._policy = policy or RetryPolicy()
        self._client = httpx.Client(base_url=self._base_url, timeout=timeout_s, verify=tls())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def time_ms(self) -> int:
        """The exchange's time, epoch milliseconds."""
        return parse_time_ms(self._get(time_request()))

    def exchange_info(self) -> ExchangeInfo:
        return parse_exchange_info(self._get(exchange_info_request(self._venue)))

    def klines(self, symbol: str, interval: str, start_ms: int, end_ms: int) -> list[Kline]:
        """All klines whose open time is in [start_ms, end_ms], ascending, page by page."""
        found: list[Kline] = []
        # Not more than a page at a time: markets differ in which end of a longer window they answer.
        step_ms = self._venue.max_klines * INTERVALS_MS.get(interval, MINUTE_MS)
        while start_ms <= end_ms:
            last_ms = min(end_ms, start_ms + step_ms - 1)
            found += parse_klines(self._get(klines_request(self._venue, symbol, interval, start_ms, last_ms)))
            start_ms = last_ms + 1
        return found

    def _get(self, request: RestRequest) -> bytes:
        try:
            for attempt in Retrying(**self._policy.arguments()):
                with attempt:
                    return judge(request, self._client.get(request.path, params=request.params), self._policy)
        except (RetryableError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise _gave_up(self._base_url, request, self._policy, error) from error
        raise AssertionError("tenacity ends by an answer or an error")


class AsyncExchangeRest:
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
        self._venue = venue
        self._base_url = base_url.rstrip("/") + venue.rest_path
        self._policy = policy or RetryPolicy()
        self._api_key = api_key
        self._budget = budget or WeightBudget()
        self._urgent = urgent
        self._client = httpx.AsyncClient(base_url=self._base_url, timeout=timeout_s, verify=tls())

    async def __aenter__(self) -> AsyncExchangeRest:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def time_ms(self) -> int:
        """The exchange's time, epoch milliseconds."""
        return parse_time_ms(await self._get(time_request()))

    async def exchange_info(self) -> ExchangeInfo:
        return parse_exchange_info(await self._get(exchange_info_request(self._venue)))

    async def volumes(self) -> dict[str, Decimal]:
        """Quote volumes of 24 hours by symbol; weighs 40."""
        return parse_volumes(await self._get(volumes_request(self._venue)))

    async def agg_trades_from(self, symbol: str, first_id: int) -> list[AggTrade | OddRow]:
        """A page of aggregate trades from `first_id` on, ascending."""
        return parse_agg_trades(await self._get(agg_trades_request(self._venue, symbol, fromId=first_id)))

    @property
    def has_key(self) -> bool:
        """Whether `historical_trades_from` can be asked."""
        return bool(self._api_key)

    async def historical_trades_from(self, symbol: str, first_id: int) -> list[HistoricalTrade | OddRow]:
        """A page of trades of the order book from `first_id` on, ascending; wants a key."""
        return parse_historical_trades(await self._get(historical_trades_request(self._venue, symbol, first_id)))

    async def _get(self, request: RestRequest) -> bytes:
        try:
            async for attempt in AsyncRetrying(**self._policy.arguments()):
                with attempt:
                    return judge(request, await self._answer(request), self._policy)
        except (RetryableError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise _gave_up(self._base_url, request, self._policy, error) from error
        raise AssertionError("tenacity ends by an answer or an error")

    async def _answer(self, request: RestRequest) -> httpx.Response:
        """Sends the request once the budget allows it, and notes what the answer says of the budget."""
        budget, used = self._budget, None
        await budget.take(request.weight, self._policy.max_retry_after_s, urgent=self._urgent)
        headers = {_KEY_HEADER: self._api_key} if request.wants_key and self._api_key else None
        try:
            response = await self._client.get(request.path, params=request.params, headers=headers)
            used = response.headers.get(_USED_HEADER)
        finally:
            budget.answered(request.weight, used)
        if response.status_code in _RATE_LIMITED:
            budget.block(retry_after_s_of(response))
        return response
