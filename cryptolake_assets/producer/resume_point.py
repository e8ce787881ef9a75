"""The resume point: the newest trades of an earlier producer, from the end of the topic and from Bronze."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_fixed

from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka.topics import PeekedRecord, read_async
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.newest_trades import newest_trades
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.producer.gap_tracker import KnownTrade, LastTrade
from cryptolake_assets.producer.machine import loop_time
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

# Records read per partition below the covered offset: everything before it is covered or a recorded gap.
OVERLAP: Final = 2_000
MAX_RECORDS_BACK: Final = 25_000  # maximum records read per partition
READ_TIMEOUT_S: Final = 30.0  # per source (Bronze, topic) and attempt; received frames wait meanwhile
# Maximum wait for brokers that do not respond. They could not take the received frames either; without the topic, the
# time between the last claim and Bronze's newest trade would stay unproven.
BROKER_WAIT_S: Final = 600.0
RETRY_S: Final = 1.0
# Headers of trade records that come from the REST history, not from the stream.
FETCHED_HEADERS: Final = [("source", b"rest")]


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The trades at the end of the topic, in partition order, and each symbol's newest trade in Bronze."""

    on_topic: Sequence[KnownTrade] = ()
    in_bronze: Mapping[str, LastTrade] = field(default_factory=dict)


class ResumePoints(Protocol):
    """Finds the resume point."""

    async def find(self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int]) -> ResumePoint:
        """Return the symbols' newest known trades; read the topic below these offsets. Skip unreadable sources.

        The topic is that of the market's family.
        """


class _Event(msgspec.Struct):
    exchange: str
    symbol: str
    event_time: int
    trade_id: int
    stream: str


_decode = msgspec.json.Decoder(_Event).decode


class StoredResumePoints:
    """`ResumePoints` of one market, from its family's topic and the lake."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def find(self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int]) -> ResumePoint:
        symbols = frozenset(symbols)
        in_bronze: dict[str, LastTrade] = {}
        on_topic: list[KnownTrade] = []
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                in_bronze = await asyncio.to_thread(self._in_bronze, symbols, stream)
        except Exception as error:
            log.error("resume_points_read_failed", source="bronze", error=f"{type(error).__name__}: {error}")
        try:
            async for attempt in self._attempts():
                with attempt:
                    async with asyncio.timeout(READ_TIMEOUT_S):
                        on_topic = await self._on_topic(symbols, stream, end_offsets, in_bronze.keys())
        except Exception as error:
            log.error("resume_points_read_failed", source="topic", error=f"{type(error).__name__}: {error}")
        log.info("resume_points_read", on_topic=len(on_topic), in_bronze=len(in_bronze), symbols=len(symbols))
        return ResumePoint(on_topic, in_bronze)

    def _attempts(self) -> AsyncRetrying:
        """Return the attempts to read the topic, until the brokers respond."""
        deadline = loop_time() + BROKER_WAIT_S
        return AsyncRetrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_fixed(RETRY_S),
            stop=lambda _: loop_time() > deadline,
            before_sleep=_log_retry,
            reraise=True,
        )

    async def _on_topic(
        self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int], known: Collection[str]
    ) -> list[KnownTrade]:
        """Read from the end of coverage, which is written after the gaps; read further back for symbols not found."""
        covered = await asyncio.to_thread(self._covered_offsets, symbols, stream)
        earliest = {partition: max(0, end - MAX_RECORDS_BACK) for partition, end in end_offsets.items()}
        start = {
            partition: max(earliest[partition], min(covered.get(partition, 0), end) - OVERLAP)
            for partition, end in end_offsets.items()
        }
        found = await self._read(start, end_offsets, symbols, stream)
        if set(symbols) - {trade.symbol for trade in found} - set(known):
            found = await self._read(earliest, start, symbols, stream) + found
        return found

    def _covered_offsets(self, symbols: Collection[str], stream: str) -> dict[int, int]:
        """Return, per partition, the offset below which its symbols are covered or their gaps recorded."""
        by_symbol: dict[tuple[int, str], int] = {}
        exchange = self._settings.venue.exchange
        for row in self._coverage(symbols):
            if not row.of_archive and (row.exchange, row.stream) == (exchange, stream):
                key = row.kafka_partition or 0, row.symbol
                by_symbol[key] = max(by_symbol.get(key, 0), row.kafka_offset or 0)
        covered: dict[int, int] = {}
        for (partition, _), offset in by_symbol.items():
            covered[partition] = min(covered.get(partition, offset), offset)
        return covered

    async def _read(
        self, start: Mapping[int, int], end: Mapping[int, int], symbols: Collection[str], stream: str
    ) -> list[KnownTrade]:
        spans = {partition: (first, end[partition]) for partition, first in start.items() if first < end[partition]}
        if not spans:
            return []
        records = await self._records(spans)
        found = trades_of(records, self._settings.venue.exchange, stream)
        return [trade for trade in found if trade.symbol in symbols]

    # The lake and the topic.

    def _in_bronze(self, symbols: Collection[str], stream: str) -> dict[str, LastTrade]:
        found = newest_trades(self._settings, self._settings.venue.exchange, stream, symbols)
        return {symbol: LastTrade(*last) for symbol, last in found.items()}

    def _coverage(self, symbols: Collection[str]) -> Sequence[CoverageRow]:
        return read_coverage(self._settings, symbols=symbols)

    async def _records(self, spans: Mapping[int, tuple[int, int]]) -> Collection[PeekedRecord]:
        return await read_async(self._settings, self._settings.topic_trades, spans)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, BrokerError | TimeoutError) and not isinstance(error, BrokerAccessError)


def _log_retry(state: RetryCallState) -> None:
    cause = repr(state.outcome.exception()) if state.outcome is not None else ""
    log.warning("resume_points_retried", attempt=state.attempt_number, cause=cause)


def trades_of(records: Collection[PeekedRecord], exchange: str, stream: str) -> list[KnownTrade]:
    """Return the records that are trades of the exchange's stream; skip those that are not events of the contract."""
    found: list[KnownTrade] = []
    for record in records:
        try:
            event = _decode(record.value or b"")
        except msgspec.MsgspecError:
            continue
        if (event.exchange, event.stream) == (exchange, stream):
            is_fetched = record.headers == tuple(FETCHED_HEADERS)
            found.append(KnownTrade(event.symbol, event.trade_id, event.event_time, is_fetched))
    return found
