"""Fakes for the producer's tests.

A publisher that fails as scripted, coverage and gap sinks in memory, an exchange on a real socket whose frames the test
sends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, MalformedRow
from cryptolake_assets.model.markets import Family
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.publisher import DeliveryListener, FailureVerdict, Message
from cryptolake_assets.settings import load_settings

NOON_MS = 1_700_049_600_000  # 2023-11-15T12:00:00Z
FUTURES_TOPIC, SPOT_TOPIC = (load_settings().of_family(family).topic_trades for family in Family)
PARTITIONS = {FUTURES_TOPIC: 2, SPOT_TOPIC: 3}


QUICK = ConnectionOptions(
    close_timeout_s=0.2, backoff_first_s=0.01, backoff_cap_s=0.02, response_timeout_s=0.3, healthy_after_s=0.0
)
"""Connections that reconnect at once."""


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until the condition holds; raise `TimeoutError` after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the product code has no event for it
            await asyncio.sleep(0.005)


def trade(trade_id: int, exchange_time_ms: int, symbol: str = "BTCUSDT", price: str = "1.50") -> str:
    """Return a combined-stream `trade` frame."""
    data = {"e": "trade", "E": exchange_time_ms, "T": exchange_time_ms, "s": symbol, "t": trade_id, "p": price}
    data |= {"q": "1", "X": "MARKET", "m": False}
    return json.dumps({"stream": f"{symbol.lower()}@trade", "data": data})


class FakePublisher:
    """Acknowledges at once, or on `release`; fails as scripted. One offset sequence per (topic, partition).

    `partitions` are the numbers of partitions of the trade topics.
    """

    def __init__(self, partitions: Mapping[str, int] = PARTITIONS, start_offset: int = 0) -> None:
        self.holds_acks = False
        """True: acknowledgements wait for `release`."""
        self.fails_send: list[BaseException] = []
        """Errors reported for the next messages, which are not accepted."""
        self.fails_delivery: list[BaseException] = []
        """Errors reported for the next messages instead of an acknowledgement."""
        self.fails_start: list[BaseException] = []
        self.verdicts: dict[type[BaseException], FailureVerdict] = {}
        self.offsets: list[int] = []
        """Offsets of the next acknowledgements, instead of the real ones."""
        self.log: list[Message] = []
        """Messages stored by the broker, in order."""
        self.restarts = 0
        self.stopped = False
        self._start_offset = start_offset
        self._start_offsets = {
            topic: dict.fromkeys(range(number), start_offset) for topic, number in partitions.items()
        }
        self._next: dict[tuple[str, int], int] = {}
        self._pending: list[Message] = []
        self._listener: DeliveryListener | None = None

    @property
    def start_offsets(self) -> dict[str, dict[int, int]]:
        return self._start_offsets

    async def start(self, listener: DeliveryListener) -> None:
        if self.fails_start:
            raise self.fails_start.pop(0)
        self._listener = listener

    def partition_for(self, topic: str, key: bytes) -> int:
        return sum(key) % len(self._start_offsets[topic])

    def send(self, messages: Sequence[Message]) -> None:
        assert self._listener is not None
        for message in messages:
            if self.fails_send:
                self._listener.failed([message], self.fails_send.pop(0))
                continue
            self._pending.append(message)
            if not self.holds_acks:
                self.release()

    def release(self) -> None:
        """Acknowledge, or fail as scripted, every message without an acknowledgement."""
        pending, self._pending = self._pending, []
        assert self._listener is not None
        for message in pending:
            if self.fails_delivery:
                self._listener.failed([message], self.fails_delivery.pop(0))
                continue
            partition = message.partition or 0
            offset = self._next.get((message.topic, partition), self._start_offset)
            self._next[message.topic, partition] = offset + 1
            self.log.append(message)
            self._listener.acknowledged([message], partition, self.offsets.pop(0) if self.offsets else offset)

    def judge(self, error: BaseException) -> FailureVerdict:
        return self.verdicts.get(type(error), FailureVerdict.RETRY)

    async def restart(self) -> None:
        self.restarts += 1
        left, self._pending = self._pending, []
        assert self._listener is not None
        if left:
            self._listener.failed(left, ConnectionError("closed"))

    async def stop(self) -> None:
        self.stopped = True

    def trade_ids(self, topic: str) -> list[int]:
        return [json.loads(message.value)["trade_id"] for message in self.log if message.topic == topic]


class MemorySink:
    """Stores the claims, those that overlap as one; the next `failures_left` writes fail."""

    def __init__(self) -> None:
        self.rows: list[CoverageRow] = []
        self.writes: list[list[CoverageRow]] = []
        self.failures_left = 0

    def write(self, claims: Sequence[CoverageRow]) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise OSError("the disk is full")
        self.writes.append(list(claims))
        for claim in claims:
            key = claim.exchange, claim.symbol, claim.evidence
            same = [row for row in self.rows if (row.exchange, row.symbol, row.evidence) == key]
            for row in same:
                if row.connected_from_ms < claim.connected_to_ms and claim.connected_from_ms < row.connected_to_ms:
                    self.rows.remove(row)
                    claim = replace(
                        claim,
                        connected_from_ms=min(row.connected_from_ms, claim.connected_from_ms),
                        connected_to_ms=max(row.connected_to_ms, claim.connected_to_ms),
                    )
            self.rows.append(claim)

    def spans(self, symbol: str = "BTCUSDT") -> list[tuple[int, int]]:
        """Return (from, to) of the symbol's rows in ms, in order."""
        return sorted((row.connected_from_ms, row.connected_to_ms) for row in self.rows if row.symbol == symbol)


class MemoryGaps:
    """Stores gaps by key; the next `failures_left` writes fail."""

    def __init__(self) -> None:
        self.gaps: dict[tuple[str, str, str, int], TradeGap] = {}
        self.writes = 0
        self.failures_left = 0

    def write(self, gaps: Sequence[TradeGap]) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise OSError("the disk is full")
        self.writes += 1
        self.gaps |= {gap.key: gap for gap in gaps}

    def open_gaps(self) -> list[TradeGap]:
        return [gap for gap in self.gaps.values() if gap.closed_at is None]


class MemoryHistory:
    """The exchange's history by id, in pages, equal for all symbols; the next `failures_left` requests fail."""

    def __init__(
        self,
        rows: Iterable[AggTrade] = (),
        page: int = 1_000,
        trades: Iterable[HistoricalTrade] = (),
        has_key: bool = False,
    ) -> None:
        self.rows = sorted(rows, key=lambda row: row.agg_trade_id)
        self.trades = sorted(trades, key=lambda row: row.trade_id)
        self.page = page
        self.has_key = has_key
        self.requested_ids: list[int] = []
        self.failures_left = 0

    async def agg_trades_from(self, symbol: str, first_id: int) -> Sequence[AggTrade | MalformedRow]:
        self._record_request(symbol, first_id)
        return [row for row in self.rows if row.agg_trade_id >= first_id][: self.page]

    async def historical_trades_from(self, symbol: str, first_id: int) -> Sequence[HistoricalTrade | MalformedRow]:
        assert self.has_key
        self._record_request(symbol, first_id)
        return [row for row in self.trades if row.trade_id >= first_id][: self.page]

    def _record_request(self, symbol: str, first_id: int) -> None:
        assert symbol
        self.requested_ids.append(first_id)
        if self.failures_left:
            self.failures_left -= 1
            raise ExchangeError("exchange: no answer.")


class FakeClock:
    """The exchange's clock, set by the test; None: it is unreachable."""

    def __init__(self, now_ms: int | None = NOON_MS) -> None:
        self.now_ms = now_ms
        self.requests = 0

    async def time_ms(self) -> int:
        self.requests += 1
        if self.now_ms is None:
            raise ExchangeError("exchange: no answer.")
        return self.now_ms


def trade_url(base_url: str, symbols: tuple[str, ...]) -> str:
    """Return the address of the combined stream of the symbols' trades."""
    return TRADES.url(load_settings(exchange_ws_url=base_url), symbols)


class FakeExchange:
    """A WebSocket server whose connections are controlled by the test."""

    def __init__(self) -> None:
        self.port = 0
        self.sockets: list[ServerConnection] = []
        """All connections so far, the newest last."""
        self.paths: list[str] = []
        self.responds = True
        """False: requests get no response."""
        self.rejections: list[tuple[int, dict[str, str]]] = []
        """Status and headers of the next handshakes, which are rejected."""
        self.on_open: Callable[[ServerConnection], object] | None = None
        self.requests = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeExchange]:
        async with serve(
            self._handle, "127.0.0.1", self.port, process_request=self._process, ping_interval=None, close_timeout=0.2
        ) as self._server:
            self.port = next(iter(self._server.sockets)).getsockname()[1]
            yield self

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        if not self.rejections:
            return None
        status, headers = self.rejections.pop(0)
        response = connection.respond(status, "no\n")
        response.headers.update(headers)
        return response

    async def _handle(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        if self.on_open is not None:
            result = self.on_open(socket)
            if asyncio.iscoroutine(result):
                await result
        async for text in socket:
            self.requests += 1
            if self.responds:
                await socket.send(json.dumps({"result": [], "id": json.loads(text)["id"]}))

    async def connected(self, count: int = 1) -> ServerConnection:
        """Wait for connection number `count` and return it."""
        await until(lambda: len(self.sockets) >= count)
        return self.sockets[count - 1]

    async def send(self, *frames: str | bytes) -> None:
        """Send frames on the newest connection."""
        await self.connected()
        for frame in frames:
            await self.sockets[-1].send(frame, text=True)
