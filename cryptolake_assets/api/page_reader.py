"""Read pages of tables at a snapshot and encode them as responses; find the exchange that answers for a symbol.

A bounded number of threads reads; the settings bound their memory. A response may have rows of several tables, one per
market family; its `snapshot_id` is the newest of theirs, which identifies the state of all.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog

from cryptolake_assets.api import formats, problems
from cryptolake_assets.api.live_page import TailBars, page_with_states, stored_where, tail_bars
from cryptolake_assets.api.params import (
    LIMIT,
    Format,
    Order,
    PageParams,
    StateParams,
    Timeframe,
    decode_cursor,
    encode_cursor,
)
from cryptolake_assets.api.pinned import PinnedTable, as_of_states, epoch_ms, newest, snapshot_of
from cryptolake_assets.api.response_cache import CachedResponse, ResponseCache, TailVersion
from cryptolake_assets.api.symbol_index import Spans, SymbolIndex, Topic
from cryptolake_assets.api.timeframes import LENGTHS, fresh_bars
from cryptolake_assets.errors import TableUnreadableError
from cryptolake_assets.lake import filters
from cryptolake_assets.lake.pages import Page, PageQuery, merge, read_page
from cryptolake_assets.lake.table_cache import TableCache
from cryptolake_assets.live.live_bars import LiveBars
from cryptolake_assets.model.bar_state import SERVED, BarState
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FamilyTables
from cryptolake_assets.model.markets import EXCHANGES, VENUES, Family, Market, venue_of
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

EXCHANGE, TAIL_OFFSETS = "exchange", "tail_offsets"
BARS_KEY = ("window_start", EXCHANGE, "symbol")  # order of bars in responses: by time, like their files
PAGED = (Format.JSON, Format.NDJSON)  # formats that are paged even without a `limit`


FamilySpecs = Mapping[Family, TableSpec]  # the table with the rows of each market family


def of_each_family(table: Callable[[FamilyTables], TableSpec]) -> FamilySpecs:
    """Return the table of each family."""
    return {family: table(tables) for family, tables in FAMILY_TABLES.items()}


def of_all_families(table: TableSpec) -> FamilySpecs:
    """Return a table with the rows of all families, or of none."""
    return dict.fromkeys(Family, table)


BARS = of_each_family(lambda tables: tables.bars)


@dataclass(frozen=True)
class Resource:
    """Rows served by a route. `key` orders the rows; `start` and `end` filter its first column, a time."""

    route: str
    tables: FamilySpecs
    key: tuple[str, ...]
    rows_name: str
    order: Order = Order.ASC
    distinct: bool = False  # deduplicate rows, for tables that may have duplicates
    has_states: bool = False  # bars: with the tail, and a column with the state of each

    @property
    def table(self) -> TableSpec:
        """The first table; all have the same columns."""
        return next(iter(self.tables.values()))


@dataclass(frozen=True)
class PageRequest:
    """One request for a page, with equality filters by column and the JSON fields in addition to the rows.

    The response has the exchange of its rows as `exchange`, if `envelope` has that field.
    """

    resource: Resource
    params: PageParams
    fmt: Format
    identity: str  # the request's path and query, for the ETag
    exchange: str | None = None
    equal: Mapping[str, str] = field(default_factory=dict)
    envelope: Mapping[str, Any] = field(default_factory=dict)
    states: Collection[BarState] = SERVED  # of bars
    tail: TailBars | None = None

    @property
    def page_set(self) -> str:
        """Return the identity of a sequence of pages: route, table, filters and order."""
        order = self.params.order or self.resource.order
        table = self.resource.table.identifier
        return repr((self.resource.route, table, self.exchange, sorted(self.equal.items()), order.value))


@dataclass(frozen=True)
class Cursor:
    """The end of a page: the snapshot that it was read from, and the key of its last row."""

    snapshot_id: int
    position: tuple[Any, ...]


@dataclass(frozen=True)
class Answering:
    """The exchange of a response's rows (None: all), and the tables of bars in which its symbol is missing."""

    exchange: str | None
    missing_in: tuple[PinnedTable, ...] = ()


class Reader:
    """The table cache, the response cache and the reader threads. One per API."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.table_cache = TableCache(settings)
        self.cache = ResponseCache(settings.api_cache_bytes)
        markets = dict.fromkeys((*settings.tracked_markets, *Market))
        self.exchanges = tuple(VENUES[market].exchange for market in markets)  # the default first
        self.families = tuple(dict.fromkeys(VENUES[market].family for market in markets))
        self._symbols = {family: SymbolIndex() for family in Family}
        self._slots = asyncio.Semaphore(settings.api_readers)
        self.live: LiveBars | None = None  # None: tables alone

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function that reads tables in a thread, once a slot is free."""
        async with self._slots:
            return await asyncio.to_thread(self._read, lambda: function(*args, **kwargs))

    def _read(self, read: Callable[[], R]) -> R:
        """Call `read`; if files are missing, refresh the table cache and call it again.

        Files may expire after the last refresh or during the read. Raises `TableUnreadableError` if files of the
        current state are missing too.
        """
        try:
            return read()
        except (FileNotFoundError, TableUnreadableError) as error:
            log.info("read_retried", cause=str(error))
        self.table_cache.refresh()
        try:
            return read()
        except FileNotFoundError as error:
            log.error("files_missing", cause=str(error))
            raise TableUnreadableError(
                "catalog: files of the table are missing. See the API's log; restore them, or recreate the table."
            ) from None

    async def page(self, request: PageRequest) -> CachedResponse:
        """Return the response with a page. Raises a problem, `TableNotFoundError`, `ResponseTooLargeError`."""
        if self.live is not None and request.resource.has_states and request.params.as_of is None:
            symbol, params = request.equal["symbol"], request.params
            bounds = (params.start, params.end) if request.envelope["timeframe"] == Timeframe.M1 else (None, None)
            request = replace(request, tail=tail_bars(self.live, symbol, *bounds))
        return await self.run(self._page, request)

    def _page(self, request: PageRequest) -> CachedResponse:
        resource, params = request.resource, request.params
        cursor = _cursor(request)
        answering = self._answering(request, cursor)
        states = _first_states(self._tables(resource.tables, answering.exchange), params.as_of, cursor)
        query = PageQuery(
            key=resource.key,
            where=_where(request, answering.exchange),
            columns=tuple(item.name for item in states[0].table.schema().fields),
            after=() if cursor is None else cursor.position,
            limit=params.limit or (LIMIT if request.fmt in PAGED else None),
            descending=(params.order or resource.order) is Order.DESC,
            distinct=resource.distinct,
        )
        max_bytes = self.settings.api_answer_bytes
        page = merge([read_page(state.table, state.snapshot_id, query, max_bytes) for state in states], query)
        if resource.has_states:
            bars = self._fresh(request, states[0], answering.exchange)
            page = page_with_states(page, bars, request.states, query)
        symbol = request.equal.get("symbol")
        if page.rows.num_rows == 0 and symbol is not None:
            self.require_symbol(symbol, answering.exchange)
        return _encoded(request, states, answering, page)

    def _fresh(self, request: PageRequest, state: PinnedTable, exchange: str | None) -> Sequence[Mapping[str, Any]]:
        """Return the bars that the table lacks yet, with their states; none of an earlier state or on later pages."""
        if request.tail is None or exchange is None or request.tail.versions[exchange] is None:
            return ()
        bars, length = request.tail.bars_of(exchange), LENGTHS[request.envelope["timeframe"]]
        if length == MINUTE:
            return bars
        (silver,) = self._tables(BARS, exchange)
        span, max_bytes = (request.params.start, request.params.end), self.settings.api_answer_bytes
        return fresh_bars(state, silver, (exchange, request.equal["symbol"]), length, span, bars, max_bytes)

    def _answering(self, request: PageRequest, cursor: Cursor | None) -> Answering:
        symbol, key = request.equal.get("symbol"), request.resource.key
        if cursor is None or symbol is None or request.exchange is not None:
            return self.answering(symbol, request.exchange, request.resource.tables)
        exchange = cursor.position[key.index(EXCHANGE)]  # further pages are of the first page's exchange
        if exchange not in EXCHANGES:
            raise problems.unknown_cursor()
        return Answering(exchange)

    def answering(
        self, symbol: str | None, exchange: str | None, families: Collection[Family] = tuple(Family)
    ) -> Answering:
        """Return the exchange whose rows a request gets: the given one; without a symbol all of them.

        Otherwise it is the first one of the default's family, then of the other, with bars of the symbol. If none has,
        it is the first one that may list it. Raises `TableNotFoundError`.
        """
        if exchange is not None or symbol is None:
            return Answering(exchange)
        possible = [(each, venue_of(symbol, each).exchange) for each in self.families if each in families]
        missing_in: list[PinnedTable] = []
        for family, name in possible if len(possible) > 1 else ():
            if self._symbols[family].is_known((name, symbol)):
                return Answering(name, tuple(missing_in))
            (state,) = self._tables({family: BARS[family]}, None)
            if (name, symbol) in self._symbols[family].spans(state.table):
                return Answering(name, tuple(missing_in))
            missing_in.append(state)
        return Answering(possible[0][1], tuple(missing_in))

    def require_symbol(self, symbol: str, exchange: str | None) -> None:
        """Raise a problem if the lake has no bars of the symbol on the exchange. Raises `TableNotFoundError`."""
        having = sorted(each for each, name in self.spans() if name == symbol)
        if exchange not in having:
            raise problems.unknown_symbol(symbol, exchange, having)

    def warm_up(self) -> None:
        """Import the modules for reading and read Silver once, so that no client waits for it."""
        first = PageParams.model_validate({"limit": 1})
        # Order by time, so that the read needs only the first file; by symbol it would read the entire table.
        self._page(PageRequest(Resource("", BARS, BARS_KEY, "bars"), first, Format.JSON, "", self.exchanges[0]))
        self.spans()

    def spans(self) -> Spans:
        """Return the time spans of all symbols with bars. Raises `TableNotFoundError`."""
        return self.spans_as_of(self._tables(BARS, None))

    def spans_as_of(self, states: Sequence[PinnedTable]) -> Spans:
        """Return the time spans of the symbols in these states of tables of bars, by the order of `exchanges`."""
        indexes = {BARS[family].identifier: index for family, index in self._symbols.items()}
        found = [indexes[state.identifier].spans_as_of(state.table, state.snapshot_id) for state in states]
        by_topic = {topic: span for spans in found for topic, span in spans.items()}
        return {topic: by_topic[topic] for topic in sorted(by_topic, key=self._rank)}

    def _rank(self, topic: Topic) -> tuple[int, str]:
        exchange, symbol = topic
        return self.exchanges.index(exchange) if exchange in self.exchanges else len(self.exchanges), symbol

    def states_as_of(self, specs: FamilySpecs, exchange: str | None, as_of: int | datetime | None) -> list[PinnedTable]:
        """Return the tables with rows of the exchange (None: of all) at the snapshots selected by `as_of`.

        Raises a problem for a missing snapshot, `TableNotFoundError`.
        """
        return as_of_states(self._tables(specs, exchange), as_of)

    def _tables(self, specs: FamilySpecs, exchange: str | None) -> list[PinnedTable]:
        """Return the current states of the tables with rows of the exchange (None: of all)."""
        first = next(iter(specs.values()))
        chosen = specs.values() if exchange is None else [specs.get(EXCHANGES[exchange].family, first)]
        names = dict.fromkeys(spec.identifier for spec in chosen)
        tables = [(name, self.table_cache.table(name)) for name in names]
        return [PinnedTable(name, table, table.metadata.current_snapshot_id) for name, table in tables]


def _cursor(request: PageRequest) -> Cursor | None:
    if request.params.cursor is None:
        return None
    types = {column.name: column.type for column in request.resource.table.columns}
    of_key = tuple(types[name] for name in request.resource.key)
    return Cursor(*decode_cursor(request.params.cursor, request.page_set, of_key))


def _first_states(current: list[PinnedTable], as_of: int | datetime | None, cursor: Cursor | None) -> list[PinnedTable]:
    """Return the states to read: all pages use those of the first page.

    Once its snapshot has expired, later ones are used: because pages are ordered by the key, unchanged rows are neither
    skipped nor duplicated.
    """
    found = as_of_states(current, as_of)
    if cursor is None:
        return found
    snapshot = snapshot_of(current, cursor.snapshot_id)
    if as_of is not None:
        ids = [state.snapshot_id for state in found]
        is_named = as_of in ids
        is_later = snapshot is not None and snapshot.timestamp_ms > epoch_ms(as_of)
        if (is_named and cursor.snapshot_id not in ids) or (not is_named and is_later):
            raise problems.cursor_of_another_request()
    return found if snapshot is None else as_of_states(current, cursor.snapshot_id)


def _encoded(request: PageRequest, states: Sequence[PinnedTable], answering: Answering, page: Page) -> CachedResponse:
    resource = request.resource
    next_cursor, snapshot_id = None, newest(states)
    if page.more and snapshot_id is not None:
        last = page.rows.slice(page.rows.num_rows - 1).to_pylist()[0]
        next_cursor = encode_cursor(request.page_set, snapshot_id, tuple(last[name] for name in resource.key))
    envelope = {**request.envelope, "snapshot_id": None if snapshot_id is None else str(snapshot_id)}
    if EXCHANGE in envelope:
        envelope[EXCHANGE] = answering.exchange
    if resource.has_states:
        envelope[TAIL_OFFSETS] = None if request.tail is None else request.tail.offsets_text(answering.exchange)
    rows = page.rows
    if request.fmt is Format.JSON:
        rows = rows.select([name for name in rows.column_names if name == EXCHANGE or name not in request.envelope])
    body = formats.encode(rows, request.fmt, resource.rows_name, envelope, {"next_cursor": next_cursor})
    version = None if request.tail is None else request.tail.version(answering.exchange)
    return make_response(body, request.fmt, resource.route, states, answering, request.identity, next_cursor, version)


@dataclass(frozen=True)
class UnpagedResource:
    """Rows computed from tables, few enough for one response; of the symbol and exchange, if given."""

    route: str
    tables: FamilySpecs
    rows_name: str
    # Returns the rows and the additional JSON fields, from the tables and the exchange (None: all).
    compute: Callable[[Sequence[PinnedTable], str | None], tuple[pa.Table, Mapping[str, Any]]]
    symbol: str | None = None
    exchange: str | None = None


def unpaged_response(
    reader: Reader, unpaged: UnpagedResource, params: StateParams, fmt: Format, identity: str
) -> CachedResponse:
    """Return the response with all rows. Blocks.

    Raises what `compute` raises, a problem for an unknown snapshot, `TableNotFoundError`.
    """
    answering = reader.answering(unpaged.symbol, unpaged.exchange)
    states = reader.states_as_of(unpaged.tables, answering.exchange, params.as_of)
    rows, extra = unpaged.compute(states, answering.exchange)
    snapshot_id = newest(states)
    envelope = {"snapshot_id": None if snapshot_id is None else str(snapshot_id), EXCHANGE: answering.exchange, **extra}
    body = formats.encode(rows, fmt, unpaged.rows_name, envelope)
    return make_response(body, fmt, unpaged.route, states, answering, identity)


def make_response(
    body: bytes,
    fmt: Format,
    route: str,
    states: Sequence[PinnedTable],
    answering: Answering,
    identity: str,
    next_cursor: str | None = None,
    tail_version: TailVersion | None = None,
) -> CachedResponse:
    """Return the response with its headers. Its ETag has snapshots, exchange, request and format.

    It has the body only if that may have bars of the tail.
    """
    digested = f"{fmt} {answering.exchange} {identity}".encode() + (body if tail_version is not None else b"")
    digest = hashlib.blake2b(digested, digest_size=8).hexdigest()
    etag = f'"{"-".join(f"{state.snapshot_id or 0:x}" for state in states)}-{digest}"'
    headers = {
        "content-type": formats.MEDIA_TYPES[fmt],
        "content-length": str(len(body)),
        "etag": etag,
        "cache-control": "private, no-cache",
        "vary": "Accept, Authorization, X-API-Key",
        "x-snapshot-id": str(newest(states) or ""),
        **({"x-exchange": answering.exchange} if answering.exchange else {}),
        **({"x-next-cursor": next_cursor} if next_cursor else {}),
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    current = {
        **{state.identifier: state.snapshot_id for state in answering.missing_in},
        **{state.identifier: state.table.metadata.current_snapshot_id for state in states},
    }
    return CachedResponse(body, etag, route, current, encoded, tail_version)


def _where(request: PageRequest, exchange: str | None) -> BooleanExpression:
    params, time = request.params, request.resource.key[0]
    is_date = any(column.name == time and column.type == "date" for column in request.resource.table.columns)

    def bound(moment: datetime) -> date | datetime:
        return moment.date() if is_date else moment

    conditions = [] if exchange is None else [filters.equal(EXCHANGE, exchange)]
    conditions += [filters.equal(name, value) for name, value in request.equal.items()]
    conditions += [stored_where(request.states)] if request.resource.has_states else []
    if params.start is not None:
        conditions.append(filters.at_least(time, bound(params.start)))
    if params.end is not None:
        conditions.append(filters.at_most(time, bound(params.end)))
    return filters.all_of(*conditions)
