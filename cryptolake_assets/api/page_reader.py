"""Read pages of tables at a snapshot and encode them as responses; list the known symbols.

A bounded number of threads reads; the settings bound their memory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog

from cryptolake_assets.api import formats, problems
from cryptolake_assets.api.params import LIMIT, Format, Order, PageParams, StateParams, decode_cursor, encode_cursor
from cryptolake_assets.api.response_cache import CachedResponse, ResponseCache
from cryptolake_assets.api.symbol_index import SymbolIndex
from cryptolake_assets.errors import TableUnreadableError
from cryptolake_assets.lake import filters
from cryptolake_assets.lake.pages import Page, PageQuery, read_page
from cryptolake_assets.lake.table_cache import Identifier, TableCache
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

BARS_KEY = ("window_start", "symbol")  # order of bars in responses: by time, like their files
PAGED = (Format.JSON, Format.NDJSON)  # formats that are paged even without a `limit`


@dataclass(frozen=True)
class Resource:
    """A table served by a route. `key` orders the rows; `start` and `end` filter its first column, a time."""

    route: str
    table: TableSpec
    key: tuple[str, ...]
    rows_name: str
    order: Order = Order.ASC
    distinct: bool = False  # deduplicate rows, for tables that may have duplicates


@dataclass(frozen=True)
class PageRequest:
    """One request for a page, with equality filters by column and the JSON fields in addition to the rows."""

    resource: Resource
    params: PageParams
    fmt: Format
    identity: str  # the request's path and query, for the ETag
    equal: Mapping[str, str] = field(default_factory=dict)
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def page_set(self) -> str:
        """Return the identity of a sequence of pages: route, table, filters and order."""
        order = self.params.order or self.resource.order
        return repr((self.resource.route, self.resource.table.identifier, sorted(self.equal.items()), order.value))


class Reader:
    """The table cache, the response cache and the reader threads. One per API."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.table_cache = TableCache(settings)
        self.cache = ResponseCache(settings.api_cache_bytes)
        self.symbols = SymbolIndex()
        self._slots = asyncio.Semaphore(settings.api_readers)

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
        return await self.run(self._page, request)

    def _page(self, request: PageRequest) -> CachedResponse:
        resource, params = request.resource, request.params
        table = self.table_cache.table(resource.table.identifier)
        types = tuple(str(table.schema().find_type(name)) for name in resource.key)
        snapshot_id, after = self._start_of_page(table, request, types)
        limit = params.limit or (LIMIT if request.fmt in PAGED else None)
        columns = tuple(item.name for item in table.schema().fields)
        page = read_page(
            table,
            snapshot_id,
            PageQuery(
                key=resource.key,
                where=_where(resource, params, request.equal, types[0]),
                columns=columns,
                after=after,
                limit=limit,
                descending=(params.order or resource.order) is Order.DESC,
                distinct=resource.distinct,
            ),
            self.settings.api_answer_bytes,
        )
        symbol = request.equal.get("symbol")
        if page.rows.num_rows == 0 and symbol is not None and symbol not in self.known_symbols():
            raise problems.unknown_symbol(symbol)
        return self._encoded(request, table, snapshot_id, page)

    def warm_up(self) -> None:
        """Import the modules for reading and read Silver once, so that no client waits for it."""
        first = PageParams.model_validate({"limit": 1})
        # Order by time, so that the read needs only the first file; by symbol it would read the entire table.
        self._page(PageRequest(Resource("", FUTURES.bars, BARS_KEY, "bars"), first, Format.JSON, ""))
        self.known_symbols()

    def known_symbols(self) -> frozenset[str]:
        """Return the symbols with bars in Silver. Raises `TableNotFoundError`."""
        return frozenset(self.symbols.spans(self.table_cache.table(FUTURES.bars.identifier)))

    def _start_of_page(
        self, table: Table, request: PageRequest, types: tuple[str, ...]
    ) -> tuple[int | None, tuple[Any, ...]]:
        """Return the snapshot to read and the key after which the page begins.

        All pages use the snapshot of the first page. Once it has expired, a later snapshot is used: because pages are
        ordered by the key, unchanged rows are neither skipped nor duplicated.
        """
        params = request.params
        snapshot_id, after = resolve_as_of(table, params.as_of), ()
        if params.cursor is None:
            return snapshot_id, after
        cursor_id, position = decode_cursor(params.cursor, request.page_set, types)
        cursor_snapshot = table.snapshot_by_id(cursor_id)
        if params.as_of is not None:
            is_named = params.as_of == snapshot_id
            is_later = cursor_snapshot is not None and cursor_snapshot.timestamp_ms > epoch_ms(params.as_of)
            if (is_named and cursor_id != snapshot_id) or (not is_named and is_later):
                raise problems.cursor_of_another_request()
        return snapshot_id if cursor_snapshot is None else cursor_id, position

    def _encoded(self, request: PageRequest, table: Table, snapshot_id: int | None, page: Page) -> CachedResponse:
        resource = request.resource
        next_cursor = None
        if page.more and snapshot_id is not None:
            last = page.rows.slice(page.rows.num_rows - 1).to_pylist()[0]
            next_cursor = encode_cursor(request.page_set, snapshot_id, tuple(last[name] for name in resource.key))
        envelope = {**request.envelope, "snapshot_id": None if snapshot_id is None else str(snapshot_id)}
        rows = page.rows
        if request.fmt is Format.JSON:
            rows = rows.select([name for name in rows.column_names if name not in request.envelope])
        body = formats.encode(rows, request.fmt, resource.rows_name, envelope, {"next_cursor": next_cursor})
        return make_response(
            body,
            request.fmt,
            resource.route,
            resource.table.identifier,
            current_snapshot_id=table.metadata.current_snapshot_id,
            snapshot_id=snapshot_id,
            identity=request.identity,
            next_cursor=next_cursor,
        )


@dataclass(frozen=True)
class UnpagedResource:
    """Rows computed from a table, few enough for one response."""

    route: str
    identifier: Identifier
    rows_name: str
    # Returns the rows and the additional JSON fields for a table and a snapshot id (None while the table is empty).
    compute: Callable[[Table, int | None], tuple[pa.Table, Mapping[str, Any]]]


def unpaged_response(
    reader: Reader, unpaged: UnpagedResource, params: StateParams, fmt: Format, identity: str
) -> CachedResponse:
    """Return the response with all rows. Blocks.

    Raises what `compute` raises, a problem for an unknown snapshot, `TableNotFoundError`.
    """
    table = reader.table_cache.table(unpaged.identifier)
    snapshot_id = resolve_as_of(table, params.as_of)
    rows, extra = unpaged.compute(table, snapshot_id)
    envelope = {"snapshot_id": None if snapshot_id is None else str(snapshot_id), **extra}
    body = formats.encode(rows, fmt, unpaged.rows_name, envelope)
    current_snapshot_id = table.metadata.current_snapshot_id
    return make_response(body, fmt, unpaged.route, unpaged.identifier, current_snapshot_id, snapshot_id, identity)


def make_response(
    body: bytes,
    fmt: Format,
    route: str,
    identifier: Identifier,
    current_snapshot_id: int | None,
    snapshot_id: int | None,
    identity: str,
    next_cursor: str | None = None,
) -> CachedResponse:
    """Return the response with its headers. The ETag is derived from snapshot, request and format, not the body."""
    digest = hashlib.blake2b(f"{fmt} {identity}".encode(), digest_size=8).hexdigest()
    etag = f'"{snapshot_id or 0:x}-{digest}"'
    headers = {
        "content-type": formats.MEDIA_TYPES[fmt],
        "content-length": str(len(body)),
        "etag": etag,
        "cache-control": "private, no-cache",
        "vary": "Accept, Authorization, X-API-Key",
        "x-snapshot-id": str(snapshot_id or ""),
        **({"x-next-cursor": next_cursor} if next_cursor else {}),
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return CachedResponse(body, etag, route, identifier, current_snapshot_id, encoded)


def resolve_as_of(table: Table, as_of: int | datetime | None) -> int | None:
    """Return the id of the snapshot selected by `as_of`; without it, of the current one.

    An integer that is no snapshot id of the table is epoch ms. Raises a problem for a missing snapshot.
    """
    if as_of is None:
        return table.metadata.current_snapshot_id
    if isinstance(as_of, int) and table.snapshot_by_id(as_of) is not None:
        return as_of
    found = table.snapshot_as_of_timestamp(epoch_ms(as_of))
    if found is None or (isinstance(as_of, int) and as_of > 10**14):
        raise problems.unknown_snapshot()
    return found.snapshot_id


def epoch_ms(as_of: int | datetime) -> int:
    """Return a time in epoch ms, as the catalog stores it; integers are epoch ms already."""
    return as_of if isinstance(as_of, int) else round(as_of.timestamp() * 1000)


def _where(resource: Resource, params: PageParams, equal: Mapping[str, str], kind: str) -> BooleanExpression:
    def bound(moment: datetime) -> date | datetime:
        return moment.date() if kind == "date" else moment

    conditions = [filters.equal(name, value) for name, value in equal.items()]
    if params.start is not None:
        conditions.append(filters.at_least(resource.key[0], bound(params.start)))
    if params.end is not None:
        conditions.append(filters.at_most(resource.key[0], bound(params.end)))
    return filters.all_of(*conditions)
