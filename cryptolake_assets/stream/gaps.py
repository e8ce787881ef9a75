"""Which trades are missing, by the exchange's ids: they go on by one for each symbol and stream.

`GapTracker` is pure: it is fed the trades in the order in which they came. `GapWriter` brings what it found into the
ledger; coverage is written after it, so that no minute is called complete whose gap nobody has told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from cryptolake_assets.lake.gaps import ClosedBy, GapOutcome, TradeGap

log = structlog.get_logger(__name__)

GapKey = tuple[str, str, str, int]
"""`TradeGap.key`."""

MAX_STEP_IDS: Final = 10_000_000
"""An id this far above the last one counts only once the next trade goes on from it: one frame with a wrong id must not
open a gap that nobody can fill."""
MAX_OPEN: Final = 1_000
"""Open gaps of one symbol; one more is joined to the newest, so that memory stays bounded on a stream with many."""


class GapSink(Protocol):
    """Where gaps go."""

    def write(self, gaps: Sequence[TradeGap]) -> None:
        """Stores the gaps; a later one of the same key replaces the earlier one. Blocks; raises when it fails."""

    def open_gaps(self) -> list[TradeGap]:
        """Those that an earlier process left open. Blocks; raises when they cannot be read."""


@dataclass
class _Open:
    """An open gap, and its ids that are still missing, as ranges with both ends included, in order."""

    gap: TradeGap
    ranges: list[tuple[int, int]]

    def take(self, trade_id: int) -> bool:
        """Notes that the trade came after all; whether it was missing."""
        for position, (first, last) in enumerate(self.ranges):
            if first <= trade_id <= last:
                left = [(first, trade_id - 1), (trade_id + 1, last)]
                self.ranges[position : position + 1] = [span for span in left if span[0] <= span[1]]
                self.gap = replace(self.gap, ids_missing=self.gap.ids_missing - 1)
                return True
        return False


@dataclass
class _Sequence:
    """What is known of one symbol's ids."""

    last_id: int | None = None
    last_us: int = 0
    doubtful_id: int | None = None
    reach_id: int = -1
    """No open gap goes beyond it."""
    open: list[_Open] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MissingRange:
    """Ids of a symbol that did not come, both ends included."""

    symbol: str
    first: int
    last: int

    @property
    def ids(self) -> int:
        return self.last - self.first + 1


class GapTracker:
    """Finds the gaps of one stream. Trades that came before, or that come again, are none."""

    def __init__(self, exchange: str, stream: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._exchange = exchange
        self._stream = stream
        self._clock = clock
        self._sequences: dict[str, _Sequence] = {}
        self._changed: dict[GapKey, TradeGap] = {}
        self._closed: list[TradeGap] = []

    @property
    def ids_missing(self) -> int:
        """Of all open gaps."""
        return sum(item.gap.ids_missing for known in self._sequences.values() for item in known.open)

    def latest(self, symbol: str) -> tuple[int, int] | None:
        """The furthest trade of a symbol, (id, event time in ms); None before the first."""
        known = self._sequences.get(symbol)
        return None if known is None or known.last_id is None else (known.last_id, known.last_us // 1000)

    def resume(self, gaps: Sequence[TradeGap]) -> None:
        """Takes over what an earlier process left open: trades that come now may still close it."""
        for gap in sorted(gaps, key=lambda gap: gap.first_missing_id):
            if (gap.exchange, gap.stream) == (self._exchange, self._stream):
                # Which of them came meanwhile is not in the ledger.
                whole = replace(gap, ids_missing=gap.last_missing_id - gap.first_missing_id + 1)
                ranges = [(gap.first_missing_id, gap.last_missing_id)]
                known = self._sequences.setdefault(gap.symbol, _Sequence())
                known.open.append(_Open(whole, ranges))
                known.reach_id = max(known.reach_id, gap.last_missing_id)

    def see(self, symbol: str, trade_id: int, event_time_us: int) -> None:
        """Takes note of the next trade."""
        known = self._sequences.get(symbol)
        if known is None:
            known = self._sequences[symbol] = _Sequence()
        if trade_id <= known.reach_id:
            self._came_late(known, trade_id, ClosedBy.STREAM)
        last = known.last_id
        if last is None or trade_id == last + 1:
            known.last_id, known.last_us = trade_id, event_time_us
        elif trade_id <= last:
            return
        elif trade_id - last <= MAX_STEP_IDS or (known.doubtful_id is not None and trade_id == known.doubtful_id + 1):
            missing_to = trade_id - 1 if known.doubtful_id != trade_id - 1 else trade_id - 2
            self._open(known, symbol, (last + 1, missing_to), (known.last_us, event_time_us))
            known.last_id, known.last_us, known.doubtful_id = trade_id, event_time_us, None
        else:
            known.doubtful_id = trade_id

    def fill(self, symbol: str, trade_id: int) -> None:
        """Takes note of a trade that was fetched."""
        if known := self._sequences.get(symbol):
            self._came_late(known, trade_id, ClosedBy.REST)

    def missing(self) -> list[MissingRange]:
        """What did not come, oldest gap first."""
        gaps = [item for known in self._sequences.values() for item in known.open]
        gaps.sort(key=lambda item: item.gap.detected_at)
        return [MissingRange(item.gap.symbol, first, last) for item in gaps for first, last in item.ranges]

    def take_open(self) -> dict[GapKey, TradeGap]:
        """The open gaps that are new or were filled a little since the last call, by key."""
        changed, self._changed = self._changed, {}
        return changed

    def take_closed(self) -> list[TradeGap]:
        """Those that were closed since the last call. They may be told of once their trades are acknowledged."""
        closed, self._closed = self._closed, []
        return closed

    def _open(self, known: _Sequence, symbol: str, ids: tuple[int, int], times_us: tuple[int, int]) -> None:
        first, last = ids
        known.reach_id = max(known.reach_id, last)
        if any(item.gap.first_missing_id == first for item in known.open):
            return
        number = last - first + 1
        log.warning(
            "trades_missing",
            symbol=symbol,
            stream=self._stream,
            first_missing_id=first,
            last_missing_id=last,
            ids=number,
        )
        # Out of order, the trade before may be younger than the one behind.
        after_us, before_us = sorted(times_us)
        if len(known.open) >= MAX_OPEN:
            newest = known.open[-1]
            newest.ranges.append(ids)
            newest.gap = replace(
                newest.gap,
                last_missing_id=last,
                ids_missing=newest.gap.ids_missing + number,
                before_us=max(newest.gap.before_us, before_us),
            )
        else:
            gap = TradeGap(
                self._exchange, symbol, self._stream, first, last, number, after_us, before_us, self._clock()
            )
            newest = _Open(gap, [ids])
            known.open.append(newest)
        self._changed[newest.gap.key] = newest.gap

    def _came_late(self, known: _Sequence, trade_id: int, by: ClosedBy) -> None:
        for item in known.open:
            if item.gap.first_missing_id <= trade_id <= item.gap.last_missing_id and item.take(trade_id):
                if item.ranges:
                    self._changed[item.gap.key] = item.gap
                else:
                    known.open.remove(item)
                    self._close(item.gap, by)
                return

    def _close(self, gap: TradeGap, by: ClosedBy) -> None:
        outcome = GapOutcome.ARRIVED if by is ClosedBy.STREAM else GapOutcome.REPAIRED
        self._changed.pop(gap.key, None)
        self._closed.append(replace(gap, closed_at=self._clock(), closed_by=by, outcome=outcome))
        log.info(
            "gap_closed",
            closed_by=by.value,
            symbol=gap.symbol,
            stream=self._stream,
            first_missing_id=gap.first_missing_id,
            last_missing_id=gap.last_missing_id,
        )


class GapWriter:
    """Writes what a tracker has found; what could not be written stays due."""

    def __init__(self, sink: GapSink, tracker: GapTracker) -> None:
        self._sink = sink
        self._tracker = tracker
        self._due: dict[GapKey, TradeGap] = {}
        self._resumed = False
        self._writing = asyncio.Lock()

    def close(
        self, gaps: Sequence[TradeGap], partition_for: Callable[[bytes], int], next_offsets: dict[int, int]
    ) -> None:
        """Takes gaps whose late trades Kafka has acknowledged, below `next_offsets` (per partition of the topic)."""
        for gap in gaps:
            partition = partition_for(gap.symbol.encode())
            self._due[gap.key] = replace(gap, kafka_partition=partition, kafka_offset=next_offsets.get(partition, 0))

    async def resume(self) -> None:
        """Takes over what an earlier process left open, before the first trade; what cannot be read now is read with
        the first writing."""
        async with self._writing:
            try:
                await self._take_over()
            except Exception as error:
                log.error("gaps_not_read", error=f"{type(error).__name__}: {error}")

    async def _take_over(self) -> None:
        if not self._resumed:
            self._tracker.resume(await asyncio.to_thread(self._sink.open_gaps))
            self._resumed = True

    async def write(self) -> bool:
        """Writes what is due, in a thread. Returns whether nothing is left that was found before the call."""
        async with self._writing:
            due: dict[GapKey, TradeGap] = {}
            try:
                await self._take_over()
                due, self._due = self._due | self._tracker.take_open(), {}
                if due:
                    await asyncio.to_thread(self._sink.write, list(due.values()))
            except Exception as error:
                self._due = due | self._due
                log.error("gaps_not_written", gaps=len(self._due), error=f"{type(error).__name__}: {error}")
                return False
            return True
