"""The producer's coverage claims: intervals whose frames are all in Kafka.

`lake.coverage.CoverageRow` defines the meaning of a row. A row may claim a shorter interval, never a longer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence

log = structlog.get_logger(__name__)

# An exchange time this far from the others of its connection counts only once the next frame confirms it: a single
# frame with a wrong time must not extend a claim by years.
MAX_STEP_MS: Final = 60_000


class CoverageSink(Protocol):
    """Storage of coverage rows."""

    def write(self, rows: Sequence[CoverageRow]) -> None:
        """Store the rows; a later row of the same key replaces an earlier one. Blocks; raises on failure."""


@dataclass(eq=False)
class ConnectionSpan:
    """The coverage evidence of one connection, from its opening to its end; updated in frame order."""

    name: str
    symbols: tuple[str, ...]
    before_ms: int | None = None  # exchange clock just before the subscription was opened; None if unreachable
    after_ms: int | None = (
        None  # exchange clock once the subscription was open; None if unreachable or not requested yet
    )
    frames: int = 0  # messages received, of any kind
    first_ms: int | None = None  # exchange time of the first frame
    last_ms: int | None = None  # exchange time of the latest frame
    received_at_us: int = 0  # when it was received, by this machine's clock, µs since 1970
    # Open barriers: request id -> exchange clock before sending.
    requests: dict[int, int | None] = field(default_factory=dict)
    claims: int = 0  # acknowledged marks of this connection
    ended: bool = False  # the last claim was made after the connection's end
    # Symbols with rejected frames and no accepted trade since, with the exchange time of the last frame accepted
    # before; their coverage after that time is unknown.
    rejecting: dict[str, int | None] = field(default_factory=dict)
    # Of those, symbols with a rejected frame without a usable id: no gap records it.
    unexplained: set[str] = field(default_factory=set)
    # Symbols whose first frames were rejected: the exchange time from which their trades were accepted.
    _accepted_from_ms: dict[str, int] = field(default_factory=dict)
    subscribed: frozenset[str] = field(init=False)  # `symbols`, to look up the symbol of each frame
    _unconfirmed_ms: int | None = None
    _from_ms: int | None = None
    _to_ms: int | None = None

    def __post_init__(self) -> None:
        self.subscribed = frozenset(self.symbols)

    def see(self, *exchange_times_ms: int) -> None:
        """Record the exchange times of the next frames."""
        if self._are_next(exchange_times_ms):
            self.last_ms, self._unconfirmed_ms = exchange_times_ms[-1], None
            return
        for exchange_time_ms in exchange_times_ms:
            self._see(exchange_time_ms)

    def _are_next(self, times_ms: Sequence[int]) -> bool:
        """Return whether the times follow the latest one in order, the common case."""
        last = self.last_ms
        if last is None or not times_ms:
            return False
        return last <= times_ms[0] and times_ms[-1] <= last + MAX_STEP_MS and list(times_ms) == sorted(times_ms)

    def _see(self, exchange_time_ms: int) -> None:
        last = self.last_ms
        reference = last if last is not None else self.before_ms
        if reference is not None and abs(exchange_time_ms - reference) <= MAX_STEP_MS:
            confirmed = exchange_time_ms
        elif self._unconfirmed_ms is not None and abs(exchange_time_ms - self._unconfirmed_ms) <= MAX_STEP_MS:
            confirmed = exchange_time_ms
            exchange_time_ms = min(exchange_time_ms, self._unconfirmed_ms)
        else:
            self._unconfirmed_ms = exchange_time_ms
            return
        self._unconfirmed_ms = None
        if self.first_ms is None:
            self.first_ms = exchange_time_ms
        self.last_ms = max(confirmed, self.last_ms or confirmed)

    def reject(self, symbols: Sequence[str], *, is_gap: bool) -> None:
        """Record a rejected frame that may be of any of these symbols; `is_gap`: a gap records its trade."""
        for symbol in symbols:
            self.rejecting.setdefault(symbol, self.last_ms)
        if not is_gap:
            self.unexplained.update(symbols)

    def accept_again(self, symbol: str, from_ms: int | None) -> None:
        """Record an accepted trade after rejected frames: its id shows whether one of them was a trade.

        Without an earlier trade of the symbol, coverage begins at `from_ms` (exchange time).
        """
        del self.rejecting[symbol]
        self.unexplained.discard(symbol)
        if from_ms is not None:
            self._accepted_from_ms[symbol] = from_ms

    def claims_of(self, interval: tuple[int, int]) -> dict[tuple[int, int], list[str]]:
        """Return the proven parts of an interval from `claim_to`, each with its symbols."""
        claims: dict[tuple[int, int], list[str]] = {}
        for symbol in self.symbols:
            begin, end = interval
            begin = max(begin, self._accepted_from_ms.get(symbol, begin))
            if symbol in self.rejecting:
                end = min(end, self.rejecting[symbol] or begin)
            if end > begin:
                claims.setdefault((begin, end), []).append(symbol)
        return claims

    def claim_to(self, barrier_ms: int | None) -> tuple[int, int] | None:
        """Return the interval to claim once all frames so far are acknowledged; None if none is proven yet.

        `barrier_ms` is the exchange's clock at an instant before which all frames were received. If it is None, the
        claim ends with the latest frame.
        """
        if self._from_ms is None:
            known = [value for value in (self.first_ms, self.after_ms) if value is not None]
            if not known:
                return None
            # Coverage cannot begin before the subscription, whatever the frames' times.
            self._from_ms = max(min(known), self.before_ms or 0)
        ends = [value for value in (barrier_ms, self._to_ms) if value is not None]
        # The latest frame is newer than the clock reading before it, unless the frame's time is wrong.
        if self.last_ms is not None and (barrier_ms is None or self.last_ms <= barrier_ms + MAX_STEP_MS):
            ends.append(self.last_ms)
        if not ends or max(ends) <= self._from_ms:
            return None
        self._to_ms = max(ends)
        return self._from_ms, self._to_ms


DueRows = dict[tuple[str, int, Evidence], CoverageRow]  # by symbol, start of the interval (ms) and evidence


@dataclass
class _Interval:
    """An interval that is claimed again and again with a later end."""

    from_ms: int
    claimed_to_ms: int | None = None
    written_to_ms: int | None = None


class CoverageClaims:
    """The claims of one market's trade stream: those due, and the written ones."""

    def __init__(
        self,
        *,
        exchange: str,
        stream: str,
        source: str,
        partition_for: Callable[[bytes], int],
        overlap_ms: int,
        first: Callable[[], Awaitable[bool]],
    ) -> None:
        """`first` is awaited before each write; the claims are written only if it returns True.

        A claim that extends a written one begins `overlap_ms` before the written end: its cost does not grow with the
        interval.
        """
        self._exchange = exchange
        self._stream = stream
        self._source = source
        self._partition_for = partition_for
        self.first = first
        self._overlap_ms = overlap_ms
        self._due: DueRows = {}
        # Per symbol and evidence: the start of the latest interval, and the ends claimed and written of it.
        self._intervals: dict[tuple[str, Evidence], _Interval] = {}
        self.covered_to_ms: dict[str, int] = {}  # per symbol, the end of the coverage written last

    def claim(
        self,
        symbols: Sequence[str],
        interval: tuple[int, int],
        next_offsets: dict[int, int],
        evidence: Evidence = Evidence.BARRIER,
    ) -> None:
        """Claim the interval (exchange time, ms) for the symbols; `next_offsets` is per partition of the topic."""
        begin_ms, end_ms = interval
        for symbol in symbols:
            known = self._intervals.get((symbol, evidence))
            if known is None or known.from_ms != begin_ms:
                known = self._intervals[symbol, evidence] = _Interval(begin_ms)
            from_ms = begin_ms if known.written_to_ms is None else max(begin_ms, known.written_to_ms - self._overlap_ms)
            if known.claimed_to_ms == end_ms or end_ms <= from_ms:
                continue
            known.claimed_to_ms = end_ms
            partition = self._partition_for(symbol.encode())
            self._due[symbol, begin_ms, evidence] = CoverageRow(
                self._exchange,
                symbol,
                self._stream,
                from_ms,
                end_ms,
                partition,
                next_offsets.get(partition, 0),
                self._source,
                evidence,
            )

    @property
    def are_written(self) -> bool:
        """Return whether no claim is due."""
        return not self._due

    def take_due(self) -> DueRows:
        """Return the rows of the due claims; the caller passes them to `written` or `give_back`."""
        rows, self._due = self._due, {}
        return rows

    def give_back(self, rows: DueRows) -> None:
        """Make rows of a failed write due again; newer claims replace them."""
        self._due = rows | self._due

    def written(self, rows: DueRows) -> None:
        """Record that the rows are written."""
        for (symbol, begin_ms, evidence), row in rows.items():
            known = self._intervals.get((symbol, evidence))
            if known is not None and known.from_ms == begin_ms:
                known.written_to_ms = row.connected_to_ms
        # In the order of the claims: the newest of a symbol wins.
        self.covered_to_ms |= {row.symbol: row.connected_to_ms for row in rows.values()}


class CoverageWriter:
    """Writes the due claims of all markets in one commit."""

    def __init__(self, sink: CoverageSink) -> None:
        self._sink = sink
        self._writing = asyncio.Lock()
        self.failures = 0  # failed writes since the last success

    async def write(self, markets: Sequence[CoverageClaims]) -> bool:
        """Write due claims in a thread; they stay due on failure. Return whether all are written."""
        async with self._writing:
            taken: list[tuple[CoverageClaims, DueRows]] = []
            for claims in markets:
                due = claims.take_due()
                if await claims.first():
                    taken.append((claims, due))
                else:
                    claims.give_back(due)
            rows = [row for _, due in taken for row in due.values()]
            if rows:
                await self._write(rows, taken)
            return all(claims.are_written for claims in markets)

    async def _write(self, rows: Sequence[CoverageRow], taken: Sequence[tuple[CoverageClaims, DueRows]]) -> None:
        try:
            await asyncio.to_thread(self._sink.write, rows)
        except Exception as error:
            self.failures += 1
            for claims, due in taken:
                claims.give_back(due)
            log.error(
                "coverage_write_failed",
                rows=len(rows),
                failures=self.failures,
                error=f"{type(error).__name__}: {error}",
            )
            return
        self.failures = 0
        for claims, due in taken:
            claims.written(due)
        log.debug("coverage_written", rows=len(rows))
