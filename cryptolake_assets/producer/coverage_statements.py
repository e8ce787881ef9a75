"""Coverage as the producer makes it: what can be said to be in Kafka without a hole.

What a row states is said at `lake.coverage.CoverageRow`. It may claim less than is true, never more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from cryptolake_assets.lake.coverage import CoverageRow, Evidence

log = structlog.get_logger(__name__)

MAX_STEP_MS: Final = 60_000
"""An exchange time this far from the others of its connection counts only once the next frame confirms it: one frame
with a wrong clock must not stretch a claim by years."""


class CoverageSink(Protocol):
    """Where coverage goes."""

    def write(self, rows: Sequence[CoverageRow]) -> None:
        """Stores the rows; a later row of the same key replaces the earlier one. Blocks; raises when it fails."""


@dataclass(eq=False)
class ConnectionSpan:
    """What one connection, from its opening to its end, knows about time. Fed in the order of its frames."""

    name: str
    symbols: tuple[str, ...]
    before_ms: int | None = None
    """The exchange's clock just before the subscription was opened; None when it could not be asked."""
    after_ms: int | None = None
    """The exchange's clock once the subscription was open; None when it could not be asked (yet)."""
    frames: int = 0
    """Messages received, of any kind."""
    first_ms: int | None = None
    last_ms: int | None = None
    """Exchange time of the first frame and the latest one so far."""
    requests: dict[int, int | None] = field(default_factory=dict)
    """Unanswered barrier requests: id and the exchange's time before it was sent."""
    claims: int = 0
    """Claims made so far, that is, marks of this connection that were acknowledged."""
    ended: bool = False
    """Whether the last of them was made after the connection's end."""
    rejecting: dict[str, int | None] = field(default_factory=dict)
    """Symbols of which a frame was rejected and no trade accepted since, with the exchange time of the last frame that
    was accepted before: what came of them after it is not known."""
    unexplained: set[str] = field(default_factory=set)
    """Those of them with a rejected frame of which no gap tells, because its id is not known."""
    _accepted_from_ms: dict[str, int] = field(default_factory=dict)
    """Symbols whose first frames were rejected: the exchange time from which their trades were accepted."""
    _doubtful_ms: int | None = None
    _from_ms: int | None = None
    _to_ms: int | None = None

    def see(self, *exchange_times_ms: int) -> None:
        """Takes note of the exchange times of the next frames."""
        if self._are_next(exchange_times_ms):
            self.last_ms, self._doubtful_ms = exchange_times_ms[-1], None
            return
        for exchange_time_ms in exchange_times_ms:
            self._see(exchange_time_ms)

    def _are_next(self, times_ms: Sequence[int]) -> bool:
        """Whether they go on from the latest one in order, as nearly all do."""
        last = self.last_ms
        if last is None or not times_ms:
            return False
        return last <= times_ms[0] and times_ms[-1] <= last + MAX_STEP_MS and list(times_ms) == sorted(times_ms)

    def _see(self, exchange_time_ms: int) -> None:
        last = self.last_ms
        reference = last if last is not None else self.before_ms
        if reference is not None and abs(exchange_time_ms - reference) <= MAX_STEP_MS:
            confirmed = exchange_time_ms
        elif self._doubtful_ms is not None and abs(exchange_time_ms - self._doubtful_ms) <= MAX_STEP_MS:
            confirmed = exchange_time_ms
            exchange_time_ms = min(exchange_time_ms, self._doubtful_ms)
        else:
            self._doubtful_ms = exchange_time_ms
            return
        self._doubtful_ms = None
        if self.first_ms is None:
            self.first_ms = exchange_time_ms
        self.last_ms = max(confirmed, self.last_ms or confirmed)

    def reject(self, symbols: Sequence[str], *, is_gap: bool) -> None:
        """Take note of a rejected frame that may have been one of these symbols; `is_gap`: a gap tells of its trade."""
        for symbol in symbols:
            self.rejecting.setdefault(symbol, self.last_ms)
        if not is_gap:
            self.unexplained.update(symbols)

    def accept_again(self, symbol: str, from_ms: int | None) -> None:
        """Take note of an accepted trade after rejected frames: its id tells whether a trade was among these.

        Without an earlier trade of the symbol it cannot tell, and coverage begins `from_ms` (exchange time).
        """
        del self.rejecting[symbol]
        self.unexplained.discard(symbol)
        if from_ms is not None:
            self._accepted_from_ms[symbol] = from_ms

    def claims_of(self, interval: tuple[int, int]) -> dict[tuple[int, int], list[str]]:
        """Return the interval of `claim_to` by what of it holds for which symbols."""
        claims: dict[tuple[int, int], list[str]] = {}
        for symbol in self.symbols:
            begin, end = interval
            begin = max(begin, self._accepted_from_ms.get(symbol, begin))
            if symbol in self.rejecting:
                end = min(end, self.rejecting[symbol] or begin)
            if end > begin:
                claims.setdefault((begin, end), []).append(symbol)
        return claims

    def claim_to(self, asked_ms: int | None) -> tuple[int, int] | None:
        """The interval that holds once everything received so far is acknowledged, or None when there is none yet.

        `asked_ms` is the exchange's clock at an instant all of whose frames have been received; None: no such instant
        is known, and the claim ends with the latest frame.
        """
        if self._from_ms is None:
            known = [value for value in (self.first_ms, self.after_ms) if value is not None]
            if not known:
                return None
            # The subscription did not exist before it was opened, whatever time a frame names.
            self._from_ms = max(min(known), self.before_ms or 0)
        ends = [value for value in (asked_ms, self._to_ms) if value is not None]
        # The latest frame says more than the clock's answer before it, unless its own clock is off.
        if self.last_ms is not None and (asked_ms is None or self.last_ms <= asked_ms + MAX_STEP_MS):
            ends.append(self.last_ms)
        if not ends or max(ends) <= self._from_ms:
            return None
        self._to_ms = max(ends)
        return self._from_ms, self._to_ms


class CoverageWriter:
    """Collects statements and writes those that say something new."""

    def __init__(
        self,
        sink: CoverageSink,
        *,
        exchange: str,
        stream: str,
        source: str,
        partition_for: Callable[[bytes], int],
        first: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """`first` is awaited before what was claimed until then is written, and must return True for that."""
        self._sink = sink
        self._exchange = exchange
        self._stream = stream
        self._source = source
        self._partition_for = partition_for
        self._first = first
        self._due: dict[tuple[str, int], CoverageRow] = {}
        self._claimed: dict[tuple[str, int], int] = {}
        self._writing = asyncio.Lock()
        self.covered_to_ms: dict[str, int] = {}
        """Per symbol how far the coverage reaches that was written last."""
        self.failures = 0
        """Failed writes since the last good one."""

    def claim(
        self,
        symbols: Sequence[str],
        interval: tuple[int, int],
        next_offsets: dict[int, int],
        evidence: Evidence = Evidence.BARRIER,
    ) -> None:
        """States the interval (exchange time, ms) for the symbols; `next_offsets` is per partition of the topic."""
        for symbol in symbols:
            if self._claimed.get((symbol, interval[0])) == interval[1]:
                continue
            self._claimed[symbol, interval[0]] = interval[1]
            partition = self._partition_for(symbol.encode())
            self._due[symbol, interval[0]] = CoverageRow(
                self._exchange,
                symbol,
                self._stream,
                interval[0],
                interval[1],
                partition,
                next_offsets.get(partition, 0),
                self._source,
                evidence,
            )

    async def write(self) -> bool:
        """Writes what is due, in a thread; what could not be written stays due. Returns whether nothing is left."""
        async with self._writing:
            rows, self._due = self._due, {}
            if self._first is not None and not await self._first():
                self._due = rows | self._due
                return False
            if not rows:
                return not self._due
            try:
                await asyncio.to_thread(self._sink.write, list(rows.values()))
            except Exception as error:
                self.failures += 1
                self._due = rows | self._due
                log.error(
                    "coverage_not_written",
                    rows=len(self._due),
                    failures=self.failures,
                    error=f"{type(error).__name__}: {error}",
                )
                return False
            self.failures = 0
            # In the order of the claims: the newest of a symbol stays.
            self.covered_to_ms |= {row.symbol: row.connected_to_ms for row in rows.values()}
            log.debug("coverage_written", rows=len(rows))
            return not self._due
