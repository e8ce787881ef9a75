"""Writes a tracker's gaps to the gap ledger, before the coverage of their time is written.

Therefore no minute counts as complete while the ledger lacks one of its gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from cryptolake_assets.lake.gap_ledger import OpenBecause, TradeGap
from cryptolake_assets.producer.gap_tracker import GapKey, GapTracker

log = structlog.get_logger(__name__)


class GapSink(Protocol):
    """Storage of the gap ledger."""

    def write(self, gaps: Sequence[TradeGap]) -> None:
        """Store the gaps; a later gap of the same key replaces an earlier one. Blocks; raises on failure."""

    def open_gaps(self) -> list[TradeGap]:
        """Return the gaps that an earlier process left open. Blocks; raises on failure."""


class GapWriter:
    """Writes a tracker's gaps; after a failed write they stay due."""

    def __init__(self, sink: GapSink, tracker: GapTracker, lost: Callable[[], list[TradeGap]] = list) -> None:
        """`lost` returns the gaps of records that Kafka deleted before Bronze read them. It blocks and may raise."""
        self._sink = sink
        self._tracker = tracker
        self._lost = lost
        self._due: dict[GapKey, TradeGap] = {}
        self._resumed = False
        self._writing = asyncio.Lock()

    def take_open(self) -> None:
        """Take over the open gaps that are new or changed.

        Call this at each mark: its coverage is claimed below an offset at which trades that close a gap later are not.
        """
        self._due |= self._tracker.take_open()

    def close(
        self, gaps: Sequence[TradeGap], partition_for: Callable[[bytes], int], next_offsets: dict[int, int]
    ) -> None:
        """Accept closed gaps whose late trades Kafka has acknowledged.

        Their offsets are below `next_offsets` (per partition of the topic).
        """
        for gap in gaps:
            partition = partition_for(gap.symbol.encode())
            self._due[gap.key] = replace(gap, kafka_partition=partition, kafka_offset=next_offsets.get(partition, 0))

    async def resume(self) -> None:
        """Take over the gaps that an earlier process left open, before the first trade.

        If they cannot be read now, the first write reads them.
        """
        async with self._writing:
            try:
                await self._take_over()
            except Exception as error:
                log.error("gap_ledger_read_failed", error=f"{type(error).__name__}: {error}")

    async def _take_over(self) -> None:
        if not self._resumed:
            gaps = await asyncio.to_thread(self._sink.open_gaps)
            self._tracker.resume([gap for gap in gaps if gap.open_because is not OpenBecause.LOST_IN_KAFKA])
            self._resumed = True

    async def _take_over_lost(self) -> None:
        """Open the gaps of lost records, and again those of the same symbols whose closing is not written yet."""
        lost = await asyncio.to_thread(self._lost)
        symbols = {gap.symbol for gap in lost}
        closed = [gap for gap in self._due.values() if gap.symbol in symbols and gap.closed_at is not None]
        for gap in closed:
            del self._due[gap.key]
        again = [replace(gap, ids_missing=gap.last_missing_id - gap.first_missing_id + 1) for gap in closed]
        self._tracker.take_over_lost([*again, *lost])

    async def write(self) -> bool:
        """Write due gaps in a thread. Return whether all gaps found before the call are stored."""
        async with self._writing:
            due: dict[GapKey, TradeGap] = {}
            try:
                await self._take_over()
                await self._take_over_lost()
                self.take_open()
                due, self._due = self._due, {}
                if due:
                    await asyncio.to_thread(self._sink.write, list(due.values()))
            except Exception as error:
                self._due = due | self._due
                log.error("gap_ledger_write_failed", gaps=len(self._due), error=f"{type(error).__name__}: {error}")
                return False
            return True
