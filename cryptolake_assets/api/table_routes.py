"""Routes that serve tables, such as bars, trades, daily stats and run metrics.

Each route is an entry of `TABLE_ROUTES`; to serve another table, add one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from cryptolake_assets.api import formats, schemas
from cryptolake_assets.api.page_reader import (
    BARS,
    BARS_KEY,
    TAIL_OFFSETS,
    FamilySpecs,
    PageRequest,
    Reader,
    Resource,
    UnpagedResource,
    of_all_families,
    of_each_family,
    unpaged_response,
)
from cryptolake_assets.api.params import BarParams, Exchange, Order, PageParams, StateParams, Symbol, Timeframe
from cryptolake_assets.api.response_cache import SLOT, CachedResponse, if_none_match_of
from cryptolake_assets.model.bar_state import SERVED, STATE, BarState
from cryptolake_assets.model.derivatives_tables import (
    SILVER_FUNDING,
    SILVER_LIQUIDATIONS,
    SILVER_MARK_PRICE,
    SILVER_OPEN_INTEREST,
)
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.mart_tables import (
    BARS_OF_TIMEFRAMES,
    DAILY_RETURNS,
    MARKET_OVERVIEW,
    SENTIMENT_VS_MARKET,
    VOLUME_PROFILE_HOURLY,
)
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS, SILVER_FEAR_GREED

router = APIRouter()

# Silver for one-minute bars, a mart for each longer timeframe.
BAR_TABLES = dict(zip(Timeframe, (BARS, *map(of_all_families, BARS_OF_TIMEFRAMES)), strict=True))


@dataclass(frozen=True)
class TableQuery:
    """The parameters of a request for a page.

    `equal` has the equality filters by column, `envelope` the JSON fields in addition to the rows. `tables` is set if
    the path selects the table.
    """

    params: PageParams
    exchange: str | None = None
    equal: Mapping[str, str] = field(default_factory=dict)
    envelope: Mapping[str, str | None] = field(default_factory=dict)
    tables: FamilySpecs | None = None
    states: tuple[BarState, ...] = SERVED


Params = Annotated[PageParams, Query()]
BarsParams = Annotated[BarParams, Query()]
OneSymbol = Annotated[Symbol, Query()]
AnySymbol = Annotated[Symbol | None, Query()]
AnyExchange = Annotated[Exchange | None, Query()]
AnyCoin = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9_.\-]{1,100}$", description="CoinGecko's coin id.", examples=["bitcoin"])
]
AnyAsset = Annotated[
    str | None,
    Query(pattern=r"^[a-z0-9_/]{1,100}$", description="Dagster's asset.", examples=["silver/futures_ohlcv_1m"]),
]

# Dependencies that read the routes' parameters. Coroutines, because FastAPI runs plain functions in its thread pool.


async def unfiltered(params: Params) -> TableQuery:
    return TableQuery(params)


async def by_timeframe_and_symbol(
    timeframe: Timeframe, symbol: OneSymbol, params: BarsParams, exchange: AnyExchange = None
) -> TableQuery:
    envelope = {"exchange": exchange, "symbol": symbol, "timeframe": timeframe.value}
    return TableQuery(params, exchange, {"symbol": symbol}, envelope, BAR_TABLES[timeframe], params.state)


async def by_symbol(symbol: OneSymbol, params: Params, exchange: AnyExchange = None) -> TableQuery:
    return TableQuery(params, exchange, {"symbol": symbol}, {"exchange": exchange, "symbol": symbol})


async def by_any_symbol(params: Params, symbol: AnySymbol = None, exchange: AnyExchange = None) -> TableQuery:
    return TableQuery(params, exchange, _filters(symbol=symbol), {"exchange": exchange})


async def by_any_coin(params: Params, coin_id: AnyCoin = None) -> TableQuery:
    return TableQuery(params, equal=_filters(coin_id=coin_id))


async def by_any_asset(params: Params, asset: AnyAsset = None) -> TableQuery:
    return TableQuery(params, equal=_filters(asset=asset))


def _filters(**equal: str | None) -> dict[str, str]:
    return {name: value for name, value in equal.items() if value is not None}


OneExchange = Annotated[str | None, Field(description="Exchange of all rows; null if they are of all exchanges.")]


TailOffsets = Annotated[
    dict[str, int] | None,
    Field(
        description="Offset after the symbol's last record of Kafka in the rows, by partition; null while Kafka is not "
        "within reach, and for an earlier state: the rows are of the table alone."
    ),
]


@dataclass(frozen=True, kw_only=True)
class TableRoute(Resource):
    """A table's route: the function that reads its parameters (`query`), and its texts and schema names in OpenAPI.

    `envelope` has the types of the JSON fields that `query` adds; rows have none of them but the exchange. If `row` is
    None, the schema leaves the columns open: dbt describes those of a mart, and `/catalog` shows them.
    """

    name: str
    summary: str
    doc: str
    page: str
    row: str | None = None
    optional: tuple[str, ...] = ()  # columns that only some of the path's tables have
    query: Callable[..., Awaitable[TableQuery]] = by_any_symbol
    envelope: Mapping[str, Any] = field(default_factory=lambda: {"exchange": OneExchange})


TABLE_ROUTES = (
    TableRoute(
        "/ohlcv/{timeframe}",
        BARS,
        BARS_KEY,
        "bars",
        name="ohlcv",
        summary="Bars",
        doc="Return the bars of a symbol whose open time is between `start` and `end`, both included.",
        page="BarsPage",
        row="Bar",
        optional=("stream",),
        query=by_timeframe_and_symbol,
        envelope={"exchange": OneExchange, "symbol": str, "timeframe": Timeframe},
        has_states=True,
    ),
    TableRoute(
        "/trades",
        of_each_family(lambda tables: tables.trades),
        ("event_time", "exchange", "trade_id", "stream"),
        "trades",
        distinct=True,
        name="trades",
        summary="Trades",
        doc="Return the trades of a symbol, deduplicated and ordered by event time and id.",
        page="TradesPage",
        row="Trade",
        query=by_symbol,
        envelope={"exchange": OneExchange, "symbol": str},
    ),
    TableRoute(
        "/stats/daily",
        of_each_family(lambda tables: tables.daily),
        ("trade_date", "exchange", "symbol"),
        "days",
        name="daily_stats",
        summary="Daily statistics",
        doc="Return the statistics per UTC day, of one symbol or all.",
        page="DaysPage",
        row="Day",
    ),
    TableRoute(
        "/returns/daily",
        of_all_families(DAILY_RETURNS),
        ("trade_date", "exchange", "symbol"),
        "days",
        name="daily_returns",
        summary="Daily returns",
        doc="Return log return, realised volatility and drawdown per UTC day.",
        page="ReturnsPage",
    ),
    TableRoute(
        "/profile/hourly",
        of_all_families(VOLUME_PROFILE_HOURLY),
        ("window_start", "exchange", "symbol", "bucket_low"),
        "buckets",
        name="volume_profile",
        summary="Hourly volume profile",
        doc="Return the volume per hour and price bucket.",
        page="ProfilePage",
    ),
    TableRoute(
        "/overview",
        of_all_families(MARKET_OVERVIEW),
        ("latest_minute", "exchange", "symbol"),
        "symbols",
        name="overview",
        summary="Market overview",
        doc="Return the latest bar, and change and volume of the last 24 h, per symbol.",
        page="OverviewPage",
    ),
    TableRoute(
        "/sentiment",
        of_all_families(SILVER_FEAR_GREED),
        ("index_date",),
        "days",
        name="sentiment",
        summary="Fear & Greed index",
        doc="Return the Fear & Greed index per UTC day, 0 (extreme fear) to 100 (extreme greed).",
        page="SentimentPage",
        row="SentimentDay",
        query=unfiltered,
        envelope={},
    ),
    TableRoute(
        "/sentiment/market",
        of_all_families(SENTIMENT_VS_MARKET),
        ("trade_date", "exchange", "symbol"),
        "days",
        name="sentiment_market",
        summary="Fear & Greed index and market",
        doc="Return the index, the market cap of all coins and Bitcoin's share of it with each symbol's UTC day.",
        page="SentimentMarketPage",
    ),
    TableRoute(
        "/coins",
        of_all_families(SILVER_COINGECKO_MARKETS),
        ("snapshot_hour", "coin_id"),
        "coins",
        name="coins",
        summary="Coins",
        doc="Return CoinGecko's coins by market cap, one snapshot per hour, in US dollars.",
        page="CoinsPage",
        row="Coin",
        query=by_any_coin,
        envelope={},
    ),
    TableRoute(
        "/coins/global",
        of_all_families(SILVER_COINGECKO_GLOBAL),
        ("snapshot_hour",),
        "hours",
        name="coins_global",
        summary="Totals of all coins",
        doc="Return CoinGecko's totals of all coins, one snapshot per hour, in US dollars.",
        page="CoinsGlobalPage",
        row="CoinsHour",
        query=unfiltered,
        envelope={},
    ),
    TableRoute(
        "/funding",
        {Family.FUTURES: SILVER_FUNDING},
        ("funding_time", "exchange", "symbol"),
        "rates",
        name="funding",
        summary="Funding rates",
        doc="Return the charged funding rates, of one symbol or all.",
        page="FundingPage",
        row="FundingRate",
    ),
    TableRoute(
        "/open-interest",
        {Family.FUTURES: SILVER_OPEN_INTEREST},
        ("observed_at", "exchange", "symbol", "source"),
        "values",
        name="open_interest",
        summary="Open interest",
        doc="Return the open interest every five minutes (`source` history) and at the time of a request (present).",
        page="OpenInterestPage",
        row="OpenInterest",
    ),
    TableRoute(
        "/mark-price/1m",
        {Family.FUTURES: SILVER_MARK_PRICE},
        ("window_start", "exchange", "symbol"),
        "minutes",
        name="mark_price",
        summary="Mark prices",
        doc="Return mark price, index price and funding rate per minute; empty if the stream is not in use.",
        page="MarkPricePage",
        row="MarkPriceMinute",
    ),
    TableRoute(
        "/liquidations/1m",
        {Family.FUTURES: SILVER_LIQUIDATIONS},
        ("window_start", "exchange", "symbol", "side"),
        "minutes",
        name="liquidations",
        summary="Liquidations",
        doc=(
            "Return liquidations per minute and side: a sample, because the exchange reports at most one per symbol "
            "and second."
        ),
        page="LiquidationsPage",
        row="LiquidationsMinute",
    ),
    TableRoute(
        "/quality",
        of_all_families(OPS_RUN_METRICS),
        ("finished_at", "run_id", "partition"),
        "runs",
        order=Order.DESC,
        name="quality",
        summary="Run metrics",
        doc="Return the rows that each Silver and Gold run read, accepted and dropped; newest first.",
        page="RunsPage",
        row="Run",
        query=by_any_asset,
        envelope={},
    ),
    TableRoute(
        "/quality/klines",
        of_each_family(lambda tables: tables.kline_differences),
        ("window_start", "exchange", "symbol", "field"),
        "differences",
        order=Order.DESC,
        name="kline_differences",
        summary="Differences from official klines",
        doc="Return the fields in which complete bars differ from official klines, with both values; newest first.",
        page="DifferencesPage",
        row="Difference",
    ),
    TableRoute(
        "/gaps/trades",
        of_each_family(lambda tables: tables.gaps),
        ("missing_after", "exchange", "symbol", "first_missing_id"),
        "gaps",
        order=Order.DESC,
        name="missing_trades",
        summary="Missing trades",
        doc="Return the trade ids missing from the stream, in open and closed gaps; newest first.",
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

    def __init__(self, request: Request, response: CachedResponse) -> None:
        request.scope[SLOT] = response
        self._response = response
        self._if_none_match = if_none_match_of(request.headers)
        self.background = None

    async def __call__(self, _scope: AsgiScope, _receive: Receive, send: Send) -> None:
        await self._response.send(send, self._if_none_match)


async def unpaged_table(request: Request, reader: Reader, unpaged: UnpagedResource, params: StateParams) -> Response:
    """Return all rows of `unpaged` in one response, in the requested format."""
    fmt = formats.choose(params.format, request.headers.get("accept"))
    identity = f"{request.url.path}?{request.url.query}"
    return CacheableResponse(request, await reader.run(unpaged_response, reader, unpaged, params, fmt, identity))


def _add(route: TableRoute) -> None:
    """Add the route of an entry to the router."""
    query_of = Depends(route.query)

    async def page(request: Request, reader: ReaderOf, query: TableQuery = query_of) -> Response:
        resource = replace(route, tables=query.tables or route.tables)
        fmt = formats.choose(query.params.format, request.headers.get("accept"))
        identity = f"{request.url.path}?{request.url.query}"
        page_request = PageRequest(
            resource, query.params, fmt, identity, query.exchange, query.equal, query.envelope, query.states
        )
        return CacheableResponse(request, await reader.page(page_request))

    has_symbol = "symbol" in inspect.signature(route.query).parameters
    router.add_api_route(
        route.route,
        page,
        name=route.name,
        summary=route.summary,
        description=route.doc,
        response_model=_page_model(route),
        responses=schemas.row_responses(has_symbol=has_symbol, paged=True),
        response_class=JSONResponse,
    )


def _page_model(route: TableRoute) -> type[BaseModel]:
    row: Any = dict[str, Any]
    if route.row is not None:
        columns = (*route.table.columns, *([STATE] if route.has_states else []))
        row = schemas.row_model(route.row, columns, route.envelope.keys() - {"exchange"}, route.optional)
    envelope = {**route.envelope, **({TAIL_OFFSETS: TailOffsets} if route.has_states else {})}
    return schemas.page_model(route.page, route.rows_name, row, **envelope)


for _route in TABLE_ROUTES:
    _add(_route)
