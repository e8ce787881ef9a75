"""What the routes ask of the lake: pages of a table as bytes, at a snapshot, and which symbols there are.

Reading is done in threads, a bounded number at a time; what they hold in memory is bounded by the settings.
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
from cryptolake_assets.api.symbol_routes import SymbolIndex
from cryptolake_assets.errors import TableUnreadableError
from cryptolake_assets.lake import filters
from cryptolake_assets.lake.pages import Page, PageQuery, read_page
from cryptolake_assets.lake.table_cache import Identifier, TableCache
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

BARS_KEY = ("window_start", "symbol")
"""Order of bars in answers: by time, as their files are."""
PAGED = (Format.JSON, Format.NDJSON)
"""Formats that come in pages also when no limit was asked for."""


@dataclass(frozen=True)
class Resource:
    """A table as a route gives it. `key` orders the rows, its first column is the time that `start` and `end` mean."""

    route: str
    table: TableSpec
    key: tuple[str, ...]
    rows_name: str
    order: Order = Order.ASC
    distinct: bool = False
    """Whether the table may hold a row more than once."""


@dataclass(frozen=True)
class PageRequest:
    """One request: the page, equality filters by column, and what stands in the JSON beside the rows."""

    resource: Resource
    params: PageParams
    fmt: Format
    identity: str
    """The request's path and query, for the ETag."""
    equal: Mapping[str, str] = field(default_factory=dict)
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def page_set(self) -> str:
        """What all pages of one request share: route, table, filters and order."""
        order = self.params.order or self.resource.order
        return repr((self.resource.route, self.resource.table.identifier, sorted(self.equal.items()), order.value))


class Reader:
    """One of an API: the tables' cache, finished answers, and the threads that read."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.table_cache = TableCache(settings)
        self.cache = ResponseCache(settings.api_cache_bytes)
        self.symbols = SymbolIndex()
        self._slots = asyncio.Semaphore(settings.api_readers)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what reads tables in a thread, when one of the slots is free."""
        async with self._slots:
            return await asyncio.to_thread(self._read, lambda: function(*args, **kwargs))

    def _read(self, read: Callable[[], R]) -> R:
        """Once more where files are gone: they were expired since the last look at the catalog, or while they were
        read. Raises `TableUnreadableError` when they are missing from the present state too."""
        try:
            return read()
        except (FileNotFoundError, TableUnreadableError) as error:
            log.info("read_anew", cause=str(error))
        self.table_cache.refresh()
        try:
            return read()
        except FileNotFoundError as error:
            log.error("files_missing", cause=str(error))
            raise TableUnreadableError(
                "Files of the table are not there; the API's log names them. Restore them, or make the table anew."
            ) from None

    async def answer(self, asked: PageRequest) -> CachedResponse:
        """Raises a problem, `TableNotFoundError`, `ResponseTooLargeError`."""
        return await self.run(self._answer, asked)

    def _answer(self, asked: PageRequest) -> CachedResponse:
        resource, params = asked.resource, asked.params
        table = self.table_cache.table(resource.table.identifier)
        types = tuple(str(table.schema().find_type(name)) for name in resource.key)
        snapshot_id, after = self._place(table, asked, types)
        limit = params.limit or (LIMIT if asked.fmt in PAGED else None)
        columns = tuple(item.name for item in table.schema().fields)
        page = read_page(
            table,
            snapshot_id,
            PageQuery(
                key=resource.key,
                where=_where(resource, params, asked.equal, types[0]),
                columns=columns,
                after=after,
                limit=limit,
                descending=(params.order or resource.order) is Order.DESC,
                distinct=resource.distinct,
            ),
            self.settings.api_answer_bytes,
        )
        symbol = asked.equal.get("symbol")
        if page.rows.num_rows == 0 and symbol is not None and symbol not in self.known_symbols():
            raise problems.unknown_symbol(symbol)
        return self._finished(asked, table, snapshot_id, page)

    def warm_up(self) -> None:
        """Imports what reading needs and looks at Silver once, so that no client waits for it."""
        first = PageParams.model_validate({"limit": 1})
        # In order of time, so that the first file is enough: by symbol it would be the whole table.
        asked = PageRequest(Resource("", SILVER_OHLCV, BARS_KEY, "bars"), first, Format.JSON, "")
        self._answer(asked)
        self.known_symbols()

    def known_symbols(self) -> frozenset[str]:
        """Symbols that Silver has bars of. Raises `TableNotFoundError`."""
        return frozenset(self.symbols.spans(self.table_cache.table(SILVER_OHLCV.identifier)))

    def _place(self, table: Table, asked: PageRequest, types: tuple[str, ...]) -> tuple[int | None, tuple[Any, ...]]:
        """The snapshot to read and the place behind which the page begins. Pages stay in the snapshot of the first one
        while it is there; the order of the key makes going on in a later one miss or repeat nothing that stood."""
        params = asked.params
        snapshot_id, after = resolve_as_of(table, params.as_of), ()
        if params.cursor is None:
            return snapshot_id, after
        of_cursor, place = decode_cursor(params.cursor, asked.page_set, types)
        begun = table.snapshot_by_id(of_cursor)
        if params.as_of is not None:
            is_named = params.as_of == snapshot_id
            is_later = begun is not None and begun.timestamp_ms > epoch_ms(params.as_of)
            if (is_named and of_cursor != snapshot_id) or (not is_named and is_later):
                raise problems.cursor_of_another_request()
        return snapshot_id if begun is None else of_cursor, place

    def _finished(self, asked: PageRequest, table: Table, snapshot_id: int | None, page: Page) -> CachedResponse:
        resource = asked.resource
        next_cursor = None
        if page.more and snapshot_id is not None:
            last = page.rows.slice(page.rows.num_rows - 1).to_pylist()[0]
            next_cursor = encode_cursor(asked.page_set, snapshot_id, tuple(last[name] for name in resource.key))
        envelope = {**asked.envelope, "snapshot_id": None if snapshot_id is None else str(snapshot_id)}
        rows = page.rows
        if asked.fmt is Format.JSON:
            rows = rows.select([name for name in rows.column_names if name not in asked.envelope])
        body = formats.encode(rows, asked.fmt, resource.rows_name, envelope, {"next_cursor": next_cursor})
        return make_response(
            body,
            asked.fmt,
            resource.route,
            resource.table.identifier,
            current_snapshot_id=table.metadata.current_snapshot_id,
            snapshot_id=snapshot_id,
            identity=asked.identity,
            next_cursor=next_cursor,
        )


@dataclass(frozen=True)
class UnpagedResource:
    """A table's rows that are made of what it holds, few enough to come at once."""

    route: str
    identifier: Identifier
    rows_name: str
    made: Callable[[Table, int | None], tuple[pa.Table, Mapping[str, Any]]]
    """The rows, and what JSON says beside them, of the table and a snapshot; None while the table is empty."""


def unpaged_response(
    reader: Reader, unpaged: UnpagedResource, params: StateParams, fmt: Format, identity: str
) -> CachedResponse:
    """Blocks. Raises what `made` raises, a problem for an unknown snapshot, `TableNotFoundError`."""
    table = reader.table_cache.table(unpaged.identifier)
    snapshot_id = resolve_as_of(table, params.as_of)
    rows, extra = unpaged.made(table, snapshot_id)
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
    """The answer with its headers. Its ETag is made of snapshot, request and format, not of the bytes."""
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
    """The snapshot that is meant; the current one without `as_of`. Raises a problem for one that is not there.

    An integer that is no snapshot of the table is epoch ms.
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
    """A time as the catalog counts it; an integer is one already."""
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
