"""Live bars for WebSockets and server-sent events: the newest bars first, then the changed bars of each Silver commit.

A client subscribes to topics, the pairs of exchange and symbol. The bars of each market family are a table of their
own; one read of it serves all clients. Each client has a bounded queue. A client that is too slow is disconnected;
the others wait for it only briefly, between the parts of a large change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from pydantic import AfterValidator
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cryptolake_assets.api import schemas
from cryptolake_assets.api.formats import record, records
from cryptolake_assets.api.live_page import page_with_states, stored_state, with_state
from cryptolake_assets.api.observe import ApiMetrics
from cryptolake_assets.api.page_reader import BARS, Reader
from cryptolake_assets.api.params import parse_exchange, parse_symbol
from cryptolake_assets.api.pinned import PinnedTable, newest
from cryptolake_assets.api.problems import Problem
from cryptolake_assets.api.symbol_index import Topic
from cryptolake_assets.api.table_routes import AnyExchange
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.lake import filters
from cryptolake_assets.lake.pages import Page, PageQuery, read_page
from cryptolake_assets.live.settlement import Settled, SettledOutcome, outcome, published_bars
from cryptolake_assets.model.bar_state import SERVED, STATE
from cryptolake_assets.model.markets import EXCHANGES, Family
from cryptolake_assets.model.symbols import MAX_SYMBOL_BYTES
from cryptolake_assets.model.windows import MINUTE, epoch_us

if TYPE_CHECKING:
    from cryptolake_assets.lake.table_cache import Identifier

router = APIRouter()
log = structlog.get_logger(__name__)

QUEUE = 64  # maximum queued messages per client
HEARTBEAT_S = 15.0
FIRST_BARS = 2  # newest bars per symbol in a client's first message
CHANGE_KEY = ("updated_at", "exchange", "symbol", "window_start")
TRY_AGAIN_LATER, POLICY_VIOLATION = 1013, 1008
UNKNOWN = 404
READ_ROWS = 10_000  # maximum rows per read of a change; the rest is read next
MESSAGE_BARS = 1_000  # maximum per message: about 400 kB; the default limit of WebSocket clients is 1 MiB
DRAIN_TIMEOUT_S = 5.0  # maximum wait for clients to drain their queues before the next part of a change is read
POLL_S = 0.02
TICK_S = 0.1  # between two messages of provisional bars

MAX_SYMBOLS = 200


MAX_ITEM_BYTES = max(map(len, EXCHANGES)) + 1 + MAX_SYMBOL_BYTES

Requested = tuple[str | None, str]  # exchange, if given, and symbol


def parse_symbols(text: str) -> str:
    """Return the comma-separated symbols as the exchange spells them. Raises `ValueError` for other texts."""
    names = text.split(",")
    if len(names) > MAX_SYMBOLS:
        raise ValueError(f"at most {MAX_SYMBOLS} symbols per connection")
    return ",".join(map(_parse_item, names))


def _parse_item(text: str) -> str:
    exchange, colon, symbol = text.rpartition(":")
    return f"{parse_exchange(exchange)}:{parse_symbol(symbol)}" if colon else parse_symbol(text)


SymbolList = Annotated[
    str,
    AfterValidator(parse_symbols),
    Query(
        min_length=1,
        max_length=MAX_SYMBOLS * (MAX_ITEM_BYTES + 1),
        description="Comma-separated symbols, each optionally with its exchange.",
        examples=["BTCUSDT,ETHUSDT", "binance_futures:BTCUSDT,binance_spot:BTCUSDT"],
        json_schema_extra={"format": "symbols"},
    ),
]


@dataclass(eq=False)
class Subscriber:
    """A live client. `None` in the queue ends it; `cut` is set if it was too slow or the hub closes."""

    topics: frozenset[Topic]
    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    cut: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class BarChanges:
    """The changes of one family's table of bars: what was sent of them."""

    family: Family
    snapshot_id: int | None = None
    # The largest `updated_at` sent so far: the writer stamps all changed rows of a commit with the commit's time.
    # Between two parts of a change, the values of all columns of `CHANGE_KEY`.
    seen: tuple[Any, ...] = ()

    @property
    def identifier(self) -> Identifier:
        return BARS[self.family].identifier

    def has_clients(self, clients: Iterable[Subscriber]) -> bool:
        return any(EXCHANGES[exchange].family is self.family for client in clients for exchange, _ in client.topics)


class Hub:
    """Send changes of Silver to the live clients; read no table without clients."""

    def __init__(self, reader: Reader, metrics: ApiMetrics) -> None:
        self._reader, self._metrics = reader, metrics
        self._clients: set[Subscriber] = set()
        self._feeds = tuple(map(BarChanges, Family))
        self._settled: list[Settled] = []
        # Held while a client joins: it would miss a change sent after its first message was read.
        self._lock = asyncio.Lock()

    async def join(self, requested: Iterable[Requested]) -> Subscriber:
        """Return a new client, with its first message queued.

        Raises a problem for an unknown symbol or too many clients, and `TableNotFoundError`.
        """
        async with self._lock:
            if self.clients >= self._reader.settings.api_clients:
                raise Problem(
                    503, "too-many-clients", "Too many clients", "All live connections are in use. Try again later."
                )
            client = Subscriber(await self._reader.run(self._topics, sorted(requested, key=str)))
            for feed in self._feeds:
                if feed.has_clients([client]) and not feed.has_clients(self._clients):
                    # Read it before the bars: a change in between is then sent twice instead of lost.
                    await self._reader.run(self._start, feed)
            live = self._reader.live
            fresh = {topic: live.bars(topic) for topic in client.topics} if live is not None else {}
            snapshot_id, bars = await self._reader.run(self._newest, client.topics, fresh)
            client.queue.put_nowait(_message("snapshot", snapshot_id, bars))
            self._clients.add(client)
        self._metrics.live_clients.set(self.clients)
        return client

    @property
    def clients(self) -> int:
        return len(self._clients)

    def leave(self, client: Subscriber) -> None:
        self._clients.discard(client)
        self._metrics.live_clients.set(self.clients)

    async def table_changed(self) -> None:
        """Send the bars committed to Silver since the last call; after a failed read, the next call sends them."""
        for feed in self._feeds:
            while await self._send_part(feed):
                await self._wait_for_queues()

    def settle(self, settled: Sequence[Settled]) -> None:
        """Take minutes that have left the tail; the next `tail_changed` compares and sends Silver's bars of them."""
        self._settled += settled

    async def tail_changed(self) -> None:
        """Send the tail's bars that have changed since the last call, and Silver's bars of minutes that left it."""
        live = self._reader.live
        if live is None:
            return
        topics = frozenset[Topic]().union(*(client.topics for client in self._clients))
        bars = [bar for topic, bar in live.take_changed() if topic in topics]
        settled, self._settled = self._settled, []
        for family, minutes in groupby(settled, lambda one: EXCHANGES[one.key[1][0]].family):
            bars += await self._published(family, list(minutes), topics)
        for family, of_family in groupby(bars, lambda bar: EXCHANGES[bar["exchange"]].family):
            self._send(self._reader.table_cache.snapshot_id(BARS[family].identifier), list(map(record, of_family)))

    async def _published(
        self, family: Family, settled: Sequence[Settled], topics: Collection[Topic]
    ) -> list[dict[str, Any]]:
        """Count how Silver's bars of these minutes compare with those of the tail; return those of the topics."""
        table = self._reader.table_cache.table(BARS[family].identifier)
        published = await self._reader.run(published_bars, table, [one.key for one in settled])
        for one in settled:
            found = outcome(one, published.get(one.key))
            self._metrics.settled_bars.labels(family.value, found.value).inc()
            if found is SettledOutcome.UNEXPLAINED:
                log.error("live_bar_differs", minute=one.key, tail=one.bar, silver=published.get(one.key))
        return [{**bar, STATE.name: stored_state(bar)} for key, bar in published.items() if key[1] in topics]

    async def _send_part(self, feed: BarChanges) -> bool:
        """Send the next part of the changes. Return False if there is none."""
        async with self._lock:
            current = self._reader.table_cache.snapshot_id(feed.identifier)
            if not feed.has_clients(self._clients) or current == feed.snapshot_id:
                return False
            snapshot_id, bars = await self._reader.run(self._changes, feed)
            self._send(snapshot_id, [bar for bar in bars if not self._is_in_tail(bar)])
        return True

    async def _wait_for_queues(self) -> None:
        """Wait until all queues have room for the next part, at most `DRAIN_TIMEOUT_S`; clients may join meanwhile."""
        deadline = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_S
        while any(client.queue.qsize() > client.queue.maxsize // 2 for client in self._clients):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(POLL_S)

    def _send(self, snapshot_id: int | None, changed: list[dict[str, Any]]) -> None:
        by_topic: dict[Topic, list[dict[str, Any]]] = {}
        for bar in changed:
            by_topic.setdefault((bar["exchange"], bar["symbol"]), []).append(bar)
        messages: dict[frozenset[Topic], list[bytes]] = {}
        for client in tuple(self._clients):
            bars = [bar for topic in sorted(client.topics) for bar in by_topic.get(topic, ())]
            if not bars:
                continue
            if client.topics not in messages:
                parts = (bars[begin : begin + MESSAGE_BARS] for begin in range(0, len(bars), MESSAGE_BARS))
                messages[client.topics] = [_message("bars", snapshot_id, part) for part in parts]
            for message in messages[client.topics]:
                if not client.cut.is_set():
                    self._offer(client, message)

    def _offer(self, client: Subscriber, message: bytes) -> None:
        try:
            client.queue.put_nowait(message)
        except asyncio.QueueFull:
            client.cut.set()
            self._metrics.cut_clients.inc()
            self.leave(client)
            log.info("live_client_disconnected", topics=sorted(client.topics))

    def close(self) -> None:
        """Disconnect all clients."""
        for client in tuple(self._clients):
            client.cut.set()
            self.leave(client)

    def _topics(self, requested: Sequence[Requested]) -> frozenset[Topic]:
        """Return the topics of the symbols, each of the given exchange or of the one that answers for it."""
        spans, topics = self._reader.spans(), set()
        for exchange, symbol in requested:
            name = self._reader.answering(symbol, exchange).exchange or ""
            if (name, symbol) not in spans:
                self._reader.require_symbol(symbol, name)
            topics.add((name, symbol))
        return frozenset(topics)

    def _is_in_tail(self, bar: Mapping[str, Any]) -> bool:
        """Return whether the tail has newer trades of a bar of Silver, as JSON; a final bar is sent at once."""
        start_us = epoch_us(datetime.fromisoformat(bar["window_start"]))
        live = self._reader.live
        return live is not None and not bar["is_complete"] and live.has((bar["exchange"], bar["symbol"]), start_us)

    def _newest(
        self, topics: Iterable[Topic], fresh: Mapping[Topic, Sequence[Mapping[str, Any]]]
    ) -> tuple[int | None, list[dict[str, Any]]]:
        """Return the newest bars of each topic, of Silver and `fresh` (the tail), and the newest snapshot read."""
        spans, states = self._reader.spans(), {}
        bars: list[dict[str, Any]] = []
        for exchange, symbol in sorted(topics):
            family = EXCHANGES[exchange].family
            if family not in states:
                states[family] = self._state(BARS[family].identifier)
            where = filters.all_of(
                filters.equal("exchange", exchange),
                filters.equal("symbol", symbol),
                filters.at_least("window_start", spans[exchange, symbol].last - MINUTE),
            )
            query = PageQuery(("window_start",), where, BARS[family].column_names, limit=FIRST_BARS, descending=True)
            page = page_with_states(self._page(states[family], query), fresh.get((exchange, symbol), ()), SERVED, query)
            bars += reversed(records(page.rows))
        return newest(list(states.values())), bars

    def _start(self, feed: BarChanges) -> None:
        """Begin the feed after the last change."""
        state = self._state(feed.identifier)
        page = self._page(state, PageQuery(CHANGE_KEY, filters.all_of(), CHANGE_KEY, limit=1, descending=True))
        feed.snapshot_id, feed.seen = state.snapshot_id, tuple(page.rows.column("updated_at").to_pylist())

    def _changes(self, feed: BarChanges) -> tuple[int | None, list[dict[str, Any]]]:
        """Return at most `READ_ROWS` bars with a later `updated_at` than `seen`, by (exchange, symbol, open time).

        File statistics exclude most files: a commit rewrites only the one file of a day.
        """
        state = self._state(feed.identifier)
        is_partial = len(feed.seen) == len(CHANGE_KEY)
        where = filters.all_of(*([filters.above("updated_at", *feed.seen)] if feed.seen and not is_partial else []))
        after = feed.seen if is_partial else ()
        columns = BARS[feed.family].column_names
        page = self._page(state, PageQuery(CHANGE_KEY, where, columns, after, READ_ROWS))
        if page.rows.num_rows:
            last = page.rows.slice(page.rows.num_rows - 1).to_pylist()[0]
            feed.seen = tuple(last[name] for name in CHANGE_KEY)
        if not page.more:
            feed.snapshot_id, feed.seen = state.snapshot_id, feed.seen[:1]
        rows = with_state(page.rows).sort_by([(name, "ascending") for name in CHANGE_KEY[1:]])
        return state.snapshot_id, records(rows)

    def _state(self, identifier: Identifier) -> PinnedTable:
        table = self._reader.table_cache.table(identifier)
        return PinnedTable(identifier, table, table.metadata.current_snapshot_id)

    def _page(self, state: PinnedTable, query: PageQuery) -> Page:
        return read_page(state.table, state.snapshot_id, query, self._reader.settings.api_answer_bytes)


def _message(kind: str, snapshot_id: int | None, bars: list[dict[str, Any]]) -> bytes:
    return orjson.dumps(
        {
            "type": kind,
            "snapshot_id": None if snapshot_id is None else str(snapshot_id),
            "timeframe": "1m",
            "bars": bars,
        }
    )


def _requested(symbols: str, exchange: str | None) -> list[Requested]:
    """Return the items of `parse_symbols`; `exchange` is that of items without one."""
    items = (item.rpartition(":") for item in symbols.split(","))
    return [(name or exchange, symbol) for name, _, symbol in items]


@router.websocket("/ws/ohlcv")
async def ws_ohlcv(socket: WebSocket, symbols: SymbolList, exchange: AnyExchange = None) -> None:
    """Send text frames `{type, snapshot_id, timeframe, bars}`: first `snapshot`, then `bars` with each commit."""
    hub: Hub = socket.app.state.hub
    await socket.accept()
    try:
        client = await hub.join(_requested(symbols, exchange))
    except Problem as problem:
        await socket.close(POLICY_VIOLATION if problem.status == UNKNOWN else TRY_AGAIN_LATER, problem.title)
        return
    except CryptolakeError as error:
        log.info("live_client_rejected", cause=str(error))
        await socket.close(TRY_AGAIN_LATER, "Table missing")
        return
    disconnected = asyncio.create_task(_until_disconnected(socket))
    cut = asyncio.create_task(client.cut.wait())
    try:
        while True:
            message = asyncio.create_task(client.queue.get())
            sending = asyncio.create_task(_send_next(socket, message))
            await asyncio.wait({sending, disconnected, cut}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                sending.cancel()
                message.cancel()
                break
            sending.result()
        if cut.done() and not disconnected.done():
            async with asyncio.timeout(1):
                await socket.close(TRY_AGAIN_LATER, "Client too slow")
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        pass
    finally:
        disconnected.cancel()
        cut.cancel()
        hub.leave(client)


async def _send_next(socket: WebSocket, message: asyncio.Task[bytes | None]) -> None:
    content = await message
    if content is not None:
        await socket.send_text(content.decode())


async def _until_disconnected(socket: WebSocket) -> None:
    """Read and ignore messages until the client disconnects."""
    try:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
    except (WebSocketDisconnect, RuntimeError):
        return


@router.get(
    "/sse/ohlcv",
    summary="Live bars as server-sent events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **schemas.error_responses(404, 422, 503),
    },
)
async def sse_ohlcv(request: Request, symbols: SymbolList, exchange: AnyExchange = None) -> Response:
    """Stream the newest bars of the symbols (`snapshot`), then the bars that each Silver commit changes (`bars`)."""
    hub: Hub = request.app.state.hub
    client = await hub.join(_requested(symbols, exchange))
    return _EventStream(hub, client)


class _EventStream(StreamingResponse):
    """An event stream that ends as soon as its client is cut, even if the client's socket accepts no data."""

    def __init__(self, hub: Hub, client: Subscriber) -> None:
        super().__init__(_events(hub, client), media_type="text/event-stream")
        self._hub, self._client = hub, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.create_task(super().__call__(scope, receive, send))
        cut = asyncio.create_task(self._client.cut.wait())
        try:
            await asyncio.wait({streaming, cut}, return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
        finally:
            streaming.cancel()
            cut.cancel()
            self._hub.leave(self._client)  # needed if the generator was never started


async def _events(hub: Hub, client: Subscriber) -> AsyncIterator[bytes]:
    try:
        while not client.cut.is_set():
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    message = await client.queue.get()
            except TimeoutError:
                yield b": heartbeat\n\n"
                continue
            if message is None:
                return
            yield b"event: ohlcv\ndata: " + message + b"\n\n"
    finally:
        hub.leave(client)
