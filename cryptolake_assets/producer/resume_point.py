"""What an earlier producer received last, by the end of the topic and by Bronze: where one that starts goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import structlog

from cryptolake_assets.kafka.topics import PeekedRecord, read_async
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.newest_trades import newest_trades
from cryptolake_assets.producer.gap_tracker import KnownTrade, LastTrade
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

OVERLAP: Final = 2_000
"""Records of a partition that are read before the offset to which everything, gaps too, is known to be covered."""
MAX_RECORDS_BACK: Final = 25_000
"""Most records of a partition that are read."""
PATIENCE_S: Final = 30.0
"""For each of the places: frames wait meanwhile."""
FETCHED_HEADERS: Final = [("source", b"rest")]
"""Of a record on the trade topic that came from the exchange's history, not from its stream."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The end of the topic, in the order of each partition, and each symbol's newest trade in Bronze."""

    on_topic: Sequence[KnownTrade] = ()
    in_bronze: Mapping[str, LastTrade] = field(default_factory=dict)


class ResumePoints(Protocol):
    """Where the newest known trades are looked up."""

    async def find(self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int]) -> ResumePoint:
        """Those of the symbols; the topic is read below these offsets. What cannot be read is left out."""


class _Event(msgspec.Struct):
    symbol: str
    event_time: int
    trade_id: int
    stream: str


_decode = msgspec.json.Decoder(_Event).decode


class StoredResumePoints:
    """`ResumePoints` of these settings' topic and lake."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def find(self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int]) -> ResumePoint:
        symbols = frozenset(symbols)
        in_bronze: dict[str, LastTrade] = {}
        on_topic: list[KnownTrade] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                in_bronze = await asyncio.to_thread(self._in_bronze, symbols, stream)
        except Exception as error:
            log.error("last_trades_not_read", place="bronze", error=f"{type(error).__name__}: {error}")
        try:
            async with asyncio.timeout(PATIENCE_S):
                on_topic = await self._on_topic(symbols, stream, end_offsets, in_bronze.keys())
        except Exception as error:
            log.error("last_trades_not_read", place="topic", error=f"{type(error).__name__}: {error}")
        log.info("last_trades_read", on_topic=len(on_topic), in_bronze=len(in_bronze), symbols=len(symbols))
        return ResumePoint(on_topic, in_bronze)

    def _in_bronze(self, symbols: Collection[str], stream: str) -> dict[str, LastTrade]:
        found = newest_trades(self._settings, self._settings.venue.exchange, stream, symbols)
        return {symbol: LastTrade(*last) for symbol, last in found.items()}

    async def _on_topic(
        self, symbols: Collection[str], stream: str, end_offsets: Mapping[int, int], known: Collection[str]
    ) -> list[KnownTrade]:
        """From where coverage ends, which is written after the gaps; farther back for symbols that nobody knows."""
        covered = await asyncio.to_thread(self._covered_offsets, symbols, stream)
        farthest = {partition: max(0, end - MAX_RECORDS_BACK) for partition, end in end_offsets.items()}
        start = {
            partition: max(farthest[partition], min(covered.get(partition, 0), end) - OVERLAP)
            for partition, end in end_offsets.items()
        }
        found = await self._read(start, end_offsets, symbols, stream)
        if set(symbols) - {trade.symbol for trade in found} - set(known):
            found = await self._read(farthest, start, symbols, stream) + found
        return found

    def _covered_offsets(self, symbols: Collection[str], stream: str) -> dict[int, int]:
        """Per partition the offset below which everything of its symbols is covered or known to be missing."""
        by_symbol: dict[tuple[int, str], int] = {}
        exchange = self._settings.venue.exchange
        for row in read_coverage(self._settings, symbols=symbols):
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
        records = await read_async(self._settings, self._settings.kafka_topic_futures, spans)
        return [trade for trade in trades_of(records, stream) if trade.symbol in symbols]


def trades_of(records: Collection[PeekedRecord], stream: str) -> list[KnownTrade]:
    """The records that are trades of the stream; what is no event of the contract is passed over."""
    found: list[KnownTrade] = []
    for record in records:
        try:
            event = _decode(record.value or b"")
        except msgspec.MsgspecError:
            continue
        if event.stream == stream:
            is_fetched = record.headers == tuple(FETCHED_HEADERS)
            found.append(KnownTrade(event.symbol, event.trade_id, event.event_time, is_fetched))
    return found
