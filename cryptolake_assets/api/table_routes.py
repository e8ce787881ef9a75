"""Routes that serve tables, such as bars, trades, daily stats and run metrics.

Each route is an entry of `TABLE_ROUTES`; to serve another table, add one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

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
    BARS_OF_TIMEFRAMES,
    DAILY_RETURNS,
    MARKET_OVERVIEW,
    SENTIMENT_VS_MARKET,
    VOLUME_PROFILE_HOURLY,
)
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.trade_tables import BRONZE_GAPS, BRONZE_TRADES

router = APIRouter()

# Silver for one-minute bars, a mart for each longer timeframe.
BAR_TABLES = dict(zip(Timeframe, (SILVER_OHLCV, *BARS_OF_TIMEFRAMES), strict=True))


@dataclass(frozen=True)
class TableQuery:
    """The parameters of a request for a page.

    `equal` has the equality filters by column, `envelope` the JSON fields in addition to the rows. `table` is set if
    the path selects the table.
    """

    params: PageParams
    equal: Mapping[str, str] = field(default_factory=dict)
    envelope: Mapping[str, str] = field(default_factory=dict)
    table: TableSpec | None = None


Params = Annotated[PageParams, Query()]
OneSymbol = Annotated[Symbol, Query()]
AnySymbol = Annotated[Symbol | None, Query()]
AnyCoin = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_.\-]{1,100}$", examples=["bitcoin"])]
AnyAsset = Annotated[str | None, Query(pattern=r"^[a-z0-9_/]{1,100}$", examples=["silver/futures_ohlcv_1m"])]

# Dependencies that read the routes' parameters. Coroutines, because FastAPI runs plain functions in its thread pool.


async def unfiltered(params: Params) -> TableQuery:
    return TableQuery(params)


async def by_timeframe_and_symbol(timeframe: Timeframe, symbol: OneSymbol, params: Params) -> TableQuery:
    envelope = {"symbol": symbol, "timeframe": timeframe.value}
    return TableQuery(params, {"symbol": symbol}, envelope, BAR_TABLES[timeframe])


async def by_symbol(symbol: OneSymbol, params: Params) -> TableQuery:
    return TableQuery(params, {"symbol": symbol}, {"symbol": symbol})


async def by_any_symbol(params: Params, symbol: AnySymbol = None) -> TableQuery:
    return TableQuery(params, _given(symbol=symbol))


async def by_any_coin(params: Params, coin_id: AnyCoin = None) -> TableQuery:
    return TableQuery(params, _given(coin_id=coin_id))


async def by_any_asset(params: Params, asset: AnyAsset = None) -> TableQuery:
    return TableQuery(params, _given(asset=asset))


def _given(**equal: str | None) -> dict[str, str]:
    return {name: value for name, value in equal.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class TableRoute(Resource):
    """A table's route: the function that reads its parameters (`query`), and its texts and schema names in OpenAPI.

    `envelope` has the types of the JSON fields that `query` adds. If `row` is None, the schema leaves the columns open:
    dbt describes those of a mart, and `/catalog` shows them.
    """

    name: str
    doc: str
    page: str
    row: str | None = None
    query: Callable[..., Awaitable[TableQuery]] = by_any_symbol
    envelope: Mapping[str, type] = field(default_factory=dict)


TABLE_ROUTES = (
    TableRoute(
        "/ohlcv/{timeframe}",
        SILVER_OHLCV,
        BARS_KEY,
        "bars",
        name="ohlcv",
        doc="Bars of a symbol whose open time is between `start` and `end`, both included.",
        page="BarsPage",
        row="Bar",
        query=by_timeframe_and_symbol,
        envelope={"symbol": str, "timeframe": Timeframe},
    ),
    TableRoute(
        "/trades",
        BRONZE_TRADES,
        ("event_time", "trade_id", "stream"),
        "trades",
        distinct=True,
        name="trades",
        doc="Trades of a symbol in order of (event time, id), each once.",
        page="TradesPage",
        row="Trade",
        query=by_symbol,
        envelope={"symbol": str},
    ),
    TableRoute(
        "/stats/daily",
        GOLD_DAILY,
        ("trade_date", "symbol"),
        "days",
        name="daily_stats",
        doc="Statistics of UTC days, of one symbol or all.",
        page="DaysPage",
        row="Day",
    ),
    TableRoute(
        "/returns/daily",
        DAILY_RETURNS,
        ("trade_date", "symbol"),
        "days",
        name="daily_returns",
        doc="Return, realised volatility and drawdown of UTC days.",
        page="ReturnsPage",
    ),
    TableRoute(
        "/profile/hourly",
        VOLUME_PROFILE_HOURLY,
        ("window_start", "symbol", "bucket_low"),
        "buckets",
        name="volume_profile",
        doc="Volume by hour and bucket of prices.",
        page="ProfilePage",
    ),
    TableRoute(
        "/overview",
        MARKET_OVERVIEW,
        ("latest_minute", "symbol"),
        "symbols",
        name="overview",
        doc="Latest bar, and change and volume of the last 24 h, per symbol.",
        page="OverviewPage",
    ),
    TableRoute(
        "/sentiment",
        SILVER_FEAR_GREED,
        ("index_date",),
        "days",
        name="sentiment",
        doc="The Fear & Greed index by UTC day, 0 (extreme fear) to 100 (extreme greed).",
        page="SentimentPage",
        row="SentimentDay",
        query=unfiltered,
    ),
    TableRoute(
        "/sentiment/market",
        SENTIMENT_VS_MARKET,
        ("trade_date", "symbol"),
        "days",
        name="sentiment_market",
        doc="The index, the market cap of all coins and Bitcoin's share of it beside a symbol's UTC day.",
        page="SentimentMarketPage",
    ),
    TableRoute(
        "/coins",
        SILVER_COINGECKO_MARKETS,
        ("snapshot_hour", "coin_id"),
        "coins",
        name="coins",
        doc="CoinGecko's coins by market cap, a snapshot an hour, in US dollars.",
        page="CoinsPage",
        row="Coin",
        query=by_any_coin,
    ),
    TableRoute(
        "/coins/global",
        SILVER_COINGECKO_GLOBAL,
        ("snapshot_hour",),
        "hours",
        name="coins_global",
        doc="All of CoinGecko's coins together, a snapshot an hour, in US dollars.",
        page="CoinsGlobalPage",
        row="CoinsHour",
        query=unfiltered,
    ),
    TableRoute(
        "/funding",
        SILVER_FUNDING,
        SILVER_FUNDING.key,
        "rates",
        name="funding",
        doc="Funding rates that were charged, of one symbol or all.",
        page="FundingPage",
        row="FundingRate",
    ),
    TableRoute(
        "/open-interest",
        SILVER_OPEN_INTEREST,
        SILVER_OPEN_INTEREST.key,
        "values",
        name="open_interest",
        doc="Open interest by five minutes (`source` history), and when it was asked (present).",
        page="OpenInterestPage",
        row="OpenInterest",
    ),
    TableRoute(
        "/mark-price/1m",
        SILVER_MARK_PRICE,
        ("window_start", "symbol"),
        "minutes",
        name="mark_price",
        doc="Mark price, index and funding rate by the minute; nothing where that stream is not in use.",
        page="MarkPricePage",
        row="MarkPriceMinute",
    ),
    TableRoute(
        "/liquidations/1m",
        SILVER_LIQUIDATIONS,
        ("window_start", "symbol", "side"),
        "minutes",
        name="liquidations",
        doc=(
            "Liquidations by minute and side: a sample, because the exchange tells of at most one a symbol and second."
        ),
        page="LiquidationsPage",
        row="LiquidationsMinute",
    ),
    TableRoute(
        "/quality",
        OPS_RUN_METRICS,
        ("finished_at", "run_id", "partition"),
        "runs",
        order=Order.DESC,
        name="quality",
        doc="What each run of Silver and Gold read, kept and dropped; newest first.",
        page="RunsPage",
        row="Run",
        query=by_any_asset,
    ),
    TableRoute(
        "/quality/klines",
        SILVER_KLINE_DIFFERENCES,
        ("window_start", "symbol", "field"),
        "differences",
        order=Order.DESC,
        name="kline_differences",
        doc="Fields in which a complete bar and the exchange's own differ, with both values; newest first.",
        page="DifferencesPage",
        row="Difference",
    ),
    TableRoute(
        "/gaps/trades",
        BRONZE_GAPS,
        ("missing_after", "symbol", "first_missing_id"),
        "gaps",
        order=Order.DESC,
        name="missing_trades",
        doc="Ids of trades that the stream lacked, open gaps and closed ones; newest first.",
        page="MissingPage",
        row="TradeGap",
    ),
)


def reader_of(request: Request) -> Reader:
    found: Reader = request.app.state.reader
    return found


ReaderOf = Annotated[Reader, Depends(reader_of)]


class CacheableResponse(Response):
    """A finished response, or 304 if the client has it. It is stored in the scope for the response cache."""

    def __init__(self, request: Request, answer: CachedResponse) -> None:
        request.scope[SLOT] = answer
        self._answer = answer
        self._if_none_match = if_none_match_of(request.headers)
        self.background = None

    async def __call__(self, _scope: AsgiScope, _receive: Receive, send: Send) -> None:
        await self._answer.send(send, self._if_none_match)


async def whole_table(request: Request, reader: Reader, unpaged: UnpagedResource, params: StateParams) -> Response:
    """Return all rows of `unpaged` in one response, in the requested format."""
    fmt = formats.choose(params.format, request.headers.get("accept"))
    identity = f"{request.url.path}?{request.url.query}"
    return CacheableResponse(request, await reader.run(unpaged_response, reader, unpaged, params, fmt, identity))


def _add(route: TableRoute) -> None:
    """Add the route of an entry to the router."""
    query_of = Depends(route.query)

    async def page(request: Request, reader: ReaderOf, query: TableQuery = query_of) -> Response:
        resource = replace(route, table=query.table or route.table)
        fmt = formats.choose(query.params.format, request.headers.get("accept"))
        identity = f"{request.url.path}?{request.url.query}"
        asked = PageRequest(resource, query.params, fmt, identity, query.equal, query.envelope)
        return CacheableResponse(request, await reader.answer(asked))

    names_a_symbol = "symbol" in inspect.signature(route.query).parameters
    router.add_api_route(
        route.route,
        page,
        name=route.name,
        description=route.doc,
        response_model=_page_model(route),
        responses=schemas.of_rows(of_a_symbol=names_a_symbol, in_pages=True),
        response_class=JSONResponse,
    )


def _page_model(route: TableRoute) -> type[BaseModel]:
    row: Any = dict[str, Any]
    if route.row is not None:
        row = schemas.row_model(route.row, route.table.columns, without=tuple(route.envelope))
    return schemas.page_model(route.page, route.rows_name, row, **route.envelope)


for _route in TABLE_ROUTES:
    _add(_route)
