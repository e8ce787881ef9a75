"""Routes of the tables: bars, trades, daily stats and returns, volume profile, overview, quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from cryptolake_assets.api import formats, schemas
from cryptolake_assets.api.page_reader import BARS_KEY, PageRequest, Reader, Resource, UnpagedResource, unpaged_response
from cryptolake_assets.api.params import Order, PageParams, StateParams, Symbol, Timeframe
from cryptolake_assets.api.response_cache import SLOT, CachedResponse, if_none_match_of
from cryptolake_assets.model.bar_tables import GOLD_DAILY, SILVER_KLINE_DIFFERENCES, SILVER_OHLCV
from cryptolake_assets.model.derivatives_tables import (
    SILVER_FUNDING,
    SILVER_LIQUIDATIONS,
    SILVER_MARK_PRICE,
    SILVER_OPEN_INTEREST,
)
from cryptolake_assets.model.mart_tables import (
    DAILY_RETURNS,
    MARKET_OVERVIEW,
    MARTS_NAMESPACE,
    SENTIMENT_VS_MARKET,
    VOLUME_PROFILE_HOURLY,
)
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS, SILVER_FEAR_GREED
from cryptolake_assets.model.trade_tables import BRONZE_GAPS, BRONZE_TRADES

router = APIRouter()


def bars_of(timeframe: Timeframe) -> Resource:
    """Silver for minutes, a mart for anything longer."""
    identifier = SILVER_OHLCV.identifier if timeframe is Timeframe.M1 else (MARTS_NAMESPACE, f"ohlcv_{timeframe.value}")
    return Resource("/ohlcv/{timeframe}", identifier, BARS_KEY, "bars")


TRADES = Resource("/trades", BRONZE_TRADES.identifier, ("event_time", "trade_id", "stream"), "trades", distinct=True)
DAILY = Resource("/stats/daily", GOLD_DAILY.identifier, ("trade_date", "symbol"), "days")
RETURNS = Resource("/returns/daily", DAILY_RETURNS.identifier, ("trade_date", "symbol"), "days")
PROFILE = Resource(
    "/profile/hourly", VOLUME_PROFILE_HOURLY.identifier, ("window_start", "symbol", "bucket_low"), "buckets"
)
OVERVIEW = Resource("/overview", MARKET_OVERVIEW.identifier, ("latest_minute", "symbol"), "symbols")
SENTIMENT = Resource("/sentiment", SILVER_FEAR_GREED.identifier, ("index_date",), "days")
SENTIMENT_MARKET = Resource("/sentiment/market", SENTIMENT_VS_MARKET.identifier, ("trade_date", "symbol"), "days")
COINS = Resource("/coins", SILVER_COINGECKO_MARKETS.identifier, ("snapshot_hour", "coin_id"), "coins")
COINS_GLOBAL = Resource("/coins/global", SILVER_COINGECKO_GLOBAL.identifier, ("snapshot_hour",), "hours")
FUNDING = Resource("/funding", SILVER_FUNDING.identifier, SILVER_FUNDING.key, "rates")
OPEN_INTEREST = Resource("/open-interest", SILVER_OPEN_INTEREST.identifier, SILVER_OPEN_INTEREST.key, "values")
MARK_PRICE = Resource("/mark-price/1m", SILVER_MARK_PRICE.identifier, ("window_start", "symbol"), "minutes")
LIQUIDATIONS = Resource(
    "/liquidations/1m", SILVER_LIQUIDATIONS.identifier, ("window_start", "symbol", "side"), "minutes"
)
QUALITY = Resource(
    "/quality", OPS_RUN_METRICS.identifier, ("finished_at", "run_id", "partition"), "runs", order=Order.DESC
)
DIFFERENCES = Resource(
    "/quality/klines",
    SILVER_KLINE_DIFFERENCES.identifier,
    ("window_start", "symbol", "field"),
    "differences",
    order=Order.DESC,
)

MISSING = Resource(
    "/gaps/trades", BRONZE_GAPS.identifier, ("missing_after", "symbol", "first_missing_id"), "gaps", order=Order.DESC
)

Handler = TypeVar("Handler", bound=Callable[..., Any])

Row = dict[str, Any]
"""A row of a mart; its columns are described by dbt (`/catalog` shows them)."""
BarsPage = schemas.page_model(
    "BarsPage", "bars", schemas.row_model("Bar", SILVER_OHLCV.columns, ("symbol",)), symbol=str, timeframe=Timeframe
)
TradesPage = schemas.page_model(
    "TradesPage", "trades", schemas.row_model("Trade", BRONZE_TRADES.columns, ("symbol",)), symbol=str
)
DaysPage = schemas.page_model("DaysPage", "days", schemas.row_model("Day", GOLD_DAILY.columns))
ReturnsPage = schemas.page_model("ReturnsPage", "days", Row)
ProfilePage = schemas.page_model("ProfilePage", "buckets", Row)
OverviewPage = schemas.page_model("OverviewPage", "symbols", Row)
SentimentPage = schemas.page_model(
    "SentimentPage", "days", schemas.row_model("SentimentDay", SILVER_FEAR_GREED.columns)
)
SentimentMarketPage = schemas.page_model("SentimentMarketPage", "days", Row)
CoinsPage = schemas.page_model("CoinsPage", "coins", schemas.row_model("Coin", SILVER_COINGECKO_MARKETS.columns))
CoinsGlobalPage = schemas.page_model(
    "CoinsGlobalPage", "hours", schemas.row_model("CoinsHour", SILVER_COINGECKO_GLOBAL.columns)
)
FundingPage = schemas.page_model("FundingPage", "rates", schemas.row_model("FundingRate", SILVER_FUNDING.columns))
OpenInterestPage = schemas.page_model(
    "OpenInterestPage", "values", schemas.row_model("OpenInterest", SILVER_OPEN_INTEREST.columns)
)
MarkPricePage = schemas.page_model(
    "MarkPricePage", "minutes", schemas.row_model("MarkPriceMinute", SILVER_MARK_PRICE.columns)
)
LiquidationsPage = schemas.page_model(
    "LiquidationsPage", "minutes", schemas.row_model("LiquidationsMinute", SILVER_LIQUIDATIONS.columns)
)
DifferencesPage = schemas.page_model(
    "DifferencesPage", "differences", schemas.row_model("Difference", SILVER_KLINE_DIFFERENCES.columns)
)
MissingPage = schemas.page_model("MissingPage", "gaps", schemas.row_model("TradeGap", BRONZE_GAPS.columns))
RunsPage = schemas.page_model("RunsPage", "runs", schemas.row_model("Run", OPS_RUN_METRICS.columns))


def reader_of(request: Request) -> Reader:
    found: Reader = request.app.state.reader
    return found


ReaderOf = Annotated[Reader, Depends(reader_of)]
Params = Annotated[PageParams, Query()]
OneSymbol = Annotated[Symbol, Query()]
AnySymbol = Annotated[Symbol | None, Query()]


class CacheableResponse(Response):
    """An answer as it stands, or 304 when the client has it; it is left for the cache."""

    def __init__(self, request: Request, answer: CachedResponse) -> None:
        request.scope[SLOT] = answer
        self._answer = answer
        self._if_none_match = if_none_match_of(request.headers)
        self.background = None

    async def __call__(self, _scope: AsgiScope, _receive: Receive, send: Send) -> None:
        await self._answer.send(send, self._if_none_match)


async def _table(
    request: Request, reader: Reader, resource: Resource, params: PageParams, equal: dict[str, str], **envelope: str
) -> Response:
    fmt = formats.choose(params.format, request.headers.get("accept"))
    identity = f"{request.url.path}?{request.url.query}"
    return CacheableResponse(
        request, await reader.answer(PageRequest(resource, params, fmt, identity, equal, envelope))
    )


async def whole_table(request: Request, reader: Reader, unpaged: UnpagedResource, params: StateParams) -> Response:
    """Rows that come at once, as the pages of the others do."""
    fmt = formats.choose(params.format, request.headers.get("accept"))
    identity = f"{request.url.path}?{request.url.query}"
    return CacheableResponse(request, await reader.run(unpaged_response, reader, unpaged, params, fmt, identity))


def _route(path: str, model: type[BaseModel], *, of_a_symbol: bool) -> Callable[[Handler], Handler]:
    responses = schemas.of_rows(of_a_symbol=of_a_symbol, in_pages=True)
    return router.get(path, response_model=model, responses=responses, response_class=JSONResponse)


@_route("/ohlcv/{timeframe}", BarsPage, of_a_symbol=True)
async def ohlcv(
    request: Request, reader: ReaderOf, timeframe: Timeframe, symbol: OneSymbol, params: Params
) -> Response:
    """Bars of a symbol whose open time is between `start` and `end`, both included."""
    name = symbol
    return await _table(
        request, reader, bars_of(timeframe), params, {"symbol": name}, symbol=name, timeframe=timeframe.value
    )


@_route("/trades", TradesPage, of_a_symbol=True)
async def trades(request: Request, reader: ReaderOf, symbol: OneSymbol, params: Params) -> Response:
    """Trades of a symbol in order of (event time, id), each once."""
    name = symbol
    return await _table(request, reader, TRADES, params, {"symbol": name}, symbol=name)


def _maybe(symbol: str | None) -> dict[str, str]:
    return {} if symbol is None else {"symbol": symbol}


@_route("/stats/daily", DaysPage, of_a_symbol=True)
async def daily_stats(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Statistics of UTC days, of one symbol or all."""
    return await _table(request, reader, DAILY, params, _maybe(symbol))


@_route("/returns/daily", ReturnsPage, of_a_symbol=True)
async def daily_returns(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Return, realised volatility and drawdown of UTC days."""
    return await _table(request, reader, RETURNS, params, _maybe(symbol))


@_route("/profile/hourly", ProfilePage, of_a_symbol=True)
async def volume_profile(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Volume by hour and bucket of prices."""
    return await _table(request, reader, PROFILE, params, _maybe(symbol))


@_route("/overview", OverviewPage, of_a_symbol=True)
async def overview(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Latest bar, and change and volume of the last 24 h, per symbol."""
    return await _table(request, reader, OVERVIEW, params, _maybe(symbol))


@_route("/sentiment", SentimentPage, of_a_symbol=False)
async def sentiment(request: Request, reader: ReaderOf, params: Params) -> Response:
    """The Fear & Greed index by UTC day, 0 (extreme fear) to 100 (extreme greed)."""
    return await _table(request, reader, SENTIMENT, params, {})


@_route("/sentiment/market", SentimentMarketPage, of_a_symbol=True)
async def sentiment_market(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """The index, the market cap of all coins and Bitcoin's share of it beside a symbol's UTC day."""
    return await _table(request, reader, SENTIMENT_MARKET, params, _maybe(symbol))


@_route("/coins", CoinsPage, of_a_symbol=False)
async def coins(
    request: Request,
    reader: ReaderOf,
    params: Params,
    coin_id: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_.\-]{1,100}$", examples=["bitcoin"])] = None,
) -> Response:
    """CoinGecko's coins by market cap, a snapshot an hour, in US dollars."""
    return await _table(request, reader, COINS, params, {} if coin_id is None else {"coin_id": coin_id})


@_route("/coins/global", CoinsGlobalPage, of_a_symbol=False)
async def coins_global(request: Request, reader: ReaderOf, params: Params) -> Response:
    """All of CoinGecko's coins together, a snapshot an hour, in US dollars."""
    return await _table(request, reader, COINS_GLOBAL, params, {})


@_route("/funding", FundingPage, of_a_symbol=True)
async def funding(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Funding rates that were charged, of one symbol or all."""
    return await _table(request, reader, FUNDING, params, _maybe(symbol))


@_route("/open-interest", OpenInterestPage, of_a_symbol=True)
async def open_interest(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Open interest by five minutes (`source` history), and when it was asked (present)."""
    return await _table(request, reader, OPEN_INTEREST, params, _maybe(symbol))


@_route("/mark-price/1m", MarkPricePage, of_a_symbol=True)
async def mark_price(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Mark price, index and funding rate by the minute; nothing where that stream is not in use."""
    return await _table(request, reader, MARK_PRICE, params, _maybe(symbol))


@_route("/liquidations/1m", LiquidationsPage, of_a_symbol=True)
async def liquidations(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Liquidations by minute and side: a sample, because the exchange tells of at most one a symbol and second."""
    return await _table(request, reader, LIQUIDATIONS, params, _maybe(symbol))


@_route("/quality", RunsPage, of_a_symbol=False)
async def quality(
    request: Request,
    reader: ReaderOf,
    params: Params,
    asset: Annotated[str | None, Query(pattern=r"^[a-z0-9_/]{1,100}$", examples=["silver/futures_ohlcv_1m"])] = None,
) -> Response:
    """What each run of Silver and Gold read, kept and dropped; newest first."""
    return await _table(request, reader, QUALITY, params, {} if asset is None else {"asset": asset})


@_route("/quality/klines", DifferencesPage, of_a_symbol=True)
async def kline_differences(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Fields in which a complete bar and the exchange's own differ, with both values; newest first."""
    return await _table(request, reader, DIFFERENCES, params, _maybe(symbol))


@_route("/gaps/trades", MissingPage, of_a_symbol=True)
async def missing_trades(request: Request, reader: ReaderOf, params: Params, symbol: AnySymbol = None) -> Response:
    """Ids of trades that the stream lacked, open gaps and closed ones; newest first."""
    return await _table(request, reader, MISSING, params, _maybe(symbol))
