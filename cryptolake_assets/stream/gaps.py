"""Which trades are missing, by the exchange's ids: they go on by one for each symbol and stream.

`GapTracker` is pure: it is fed the trades in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final

import structlog

from cryptolake_assets.contract import MAX_ID
from cryptolake_assets.lake.gaps import ClosedBy, GapOutcome, OpenBecause, TradeGap

log = structlog.get_logger(__name__)

GapKey = tuple[str, str, str, int]
"""`TradeGap.key`."""

MAX_STEP_IDS: Final = 10_000_000
"""An id this far above the last one counts only once the next trade goes on from it: one frame with a wrong id must not
open a gap that nobody can fill."""
MAX_OPEN: Final = 1_000
"""Open gaps of one symbol; one more is joined to the newest of its kind (to be repaired, or beyond the limit), so that
memory stays bounded on a stream with many."""


MAX_REJECTED: Final = 10_000
"""Rejected ids that are remembered of one symbol; the oldest are forgotten, and may become dead letters again."""
BRIDGED_MS: Final = 1_000
"""A sequence of ids that begins so long before a connection began with an earlier one."""


@dataclass
class _Open:
    """An open gap, and its ids that are still missing, as ranges with both ends included, in order."""

    gap: TradeGap
    ranges: list[tuple[int, int]]
    has_trades: bool = False
    """Whether any of its trades came."""

    def drop(self, first: int, last: int) -> int:
        """Takes ids out of what is missing; returns how many of them were."""
        left: list[tuple[int, int]] = []
        for span in self.ranges:
            if span[1] < first or span[0] > last:
                left.append(span)
            else:
                parts = (span[0], first - 1), (last + 1, span[1])
                left += [part for part in parts if part[0] <= part[1]]
        dropped = _number(self.ranges) - _number(left)
        if dropped:
            self.ranges = left
            self.gap = replace(self.gap, ids_missing=self.gap.ids_missing - dropped)
        return dropped


def _number(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


@dataclass(slots=True)
class _Sequence:
    """What is known of one symbol's ids."""

    last_id: int | None = None
    last_us: int = 0
    since_us: int = 0
    """Event time of the trade from which on every id came or is in a gap."""
    known_from_before: bool = False
    """Whether `last_id` is of an earlier process, and nothing came since."""
    doubtful_id: int | None = None
    reach_id: int = -1
    """No open gap goes beyond it."""
    open: list[_Open] = field(default_factory=list)
    rejected: dict[int, None] = field(default_factory=dict)
    """Ids of trades that came and were rejected, the latest last."""


@dataclass(frozen=True, slots=True)
class LastTrade:
    """The newest trade of a symbol's stream that is known."""

    trade_id: int
    event_time_us: int


@dataclass(frozen=True, slots=True)
class KnownTrade:
    """A trade that an earlier process put on the topic; `is_fetched`: from the exchange's history."""

    symbol: str
    trade_id: int
    event_time_us: int
    is_fetched: bool


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

    def __init__(
        self,
        exchange: str,
        stream: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        most_ids: int = MAX_ID,
    ) -> None:
        """Of a gap of more than `most_ids` the newest so many are to be repaired; the rest is a gap of its own."""
        self._exchange = exchange
        self._stream = stream
        self._clock = clock
        self._most_ids = most_ids
        self._sequences: dict[str, _Sequence] = {}
        self._changed: dict[GapKey, TradeGap] = {}
        self._closed: list[TradeGap] = []

    @property
    def ids_missing(self) -> int:
        """Of all open gaps."""
        return sum(item.gap.ids_missing for known in self._sequences.values() for item in known.open)

    def resume(self, gaps: Sequence[TradeGap]) -> None:
        """Takes over what an earlier process left open: trades that come now may still close it."""
        for gap in sorted(gaps, key=lambda gap: gap.first_missing_id):
            if (gap.exchange, gap.stream) == (self._exchange, self._stream):
                # Which of them came meanwhile is not in the ledger.
                number = gap.last_missing_id - gap.first_missing_id + 1
                whole = replace(gap, ids_missing=number, ids_not_order_book=0)
                if gap.open_because is OpenBecause.REJECTED:
                    whole = replace(whole, open_because=None)  # this process may be of a release that accepts them
                ranges = [(gap.first_missing_id, gap.last_missing_id)]
                known = self._sequences.setdefault(gap.symbol, _Sequence())
                known.open.append(_Open(whole, ranges))
                known.reach_id = max(known.reach_id, gap.last_missing_id)
                if gap.open_because is OpenBecause.REJECTED:
                    known.rejected |= dict.fromkeys(islice(_ids_of(ranges), MAX_REJECTED))

    def last(self, symbol: str) -> LastTrade | None:
        """The newest trade of the symbol's sequence."""
        known = self._sequences.get(symbol)
        return None if known is None or known.last_id is None else LastTrade(known.last_id, known.last_us)

    def take_up(self, trades: Iterable[KnownTrade], last: Mapping[str, LastTrade]) -> None:
        """Goes on from what an earlier process left: the end of the topic, in its order, and the newest trades of
        elsewhere. Holes in the former are gaps that it may not have told of. Before the first trade comes."""
        for trade in trades:
            last_id = self._sequences.setdefault(trade.symbol, _Sequence()).last_id
            # Fetched because nothing came by the stream: the sequence goes on with it.
            is_newest = last_id is not None and trade.trade_id > last_id
            take = self.fill if trade.is_fetched and not is_newest else self.see
            take(trade.symbol, trade.trade_id, trade.event_time_us)
        for symbol, newest in last.items():
            known = self._sequences.setdefault(symbol, _Sequence())
            if known.last_id is None or newest.trade_id > known.last_id:
                self._begin(known, newest.trade_id, newest.event_time_us)
        for known in self._sequences.values():
            known.known_from_before = known.last_id is not None

    def see(self, symbol: str, trade_id: int, event_time_us: int) -> None:
        """Takes note of the next trade."""
        known = self._sequences.get(symbol)
        if known is None:
            known = self._sequences[symbol] = _Sequence()
        last = known.last_id
        if last is not None and trade_id == last + 1 and trade_id > known.reach_id and event_time_us >= known.last_us:
            # As nearly all do: `_go_on`, without the cost of calling it.
            known.last_id, known.last_us = trade_id, event_time_us
            known.doubtful_id, known.known_from_before = None, False
            return
        if trade_id <= known.reach_id:
            self._came_late(known, (trade_id, trade_id), ClosedBy.STREAM)
        # Neither ids nor times of the exchange go back: a stream that begins before what is known is a replay.
        is_replay = known.known_from_before and (trade_id <= (last or 0) or event_time_us < known.last_us)
        if last is None or is_replay:
            self._begin(known, trade_id, event_time_us)
        elif trade_id == last + 1:
            self._go_on(known, trade_id, event_time_us)
        elif trade_id <= last:
            return
        elif trade_id - last <= MAX_STEP_IDS or (known.doubtful_id is not None and trade_id == known.doubtful_id + 1):
            missing_to = trade_id - 1 if known.doubtful_id != trade_id - 1 else trade_id - 2
            self._miss(known, symbol, (last + 1, missing_to), (known.last_us, event_time_us))
            self._go_on(known, trade_id, event_time_us)
        else:
            known.doubtful_id = trade_id

    def reach(self, symbol: str, newest: LastTrade) -> None:
        """Takes note that the exchange has trades up to this one, which the stream did not bring."""
        known = self._sequences.get(symbol)
        if known is not None and known.last_id is not None and newest.trade_id > known.last_id:
            times_us = known.last_us, newest.event_time_us
            self._miss(known, symbol, (known.last_id + 1, newest.trade_id), times_us)
            self._go_on(known, newest.trade_id, newest.event_time_us)

    def fill(self, symbol: str, trade_id: int, event_time_us: int) -> None:
        """Takes note of a trade that was fetched."""
        if known := self._sequences.get(symbol):
            self._came_late(known, (trade_id, trade_id), ClosedBy.REST)
            for item in known.open:
                gap = item.gap
                if gap.last_missing_id == trade_id - 1 and gap.after_us <= event_time_us < gap.before_us:
                    # It is the trade behind a part that is not repaired.
                    item.gap = replace(gap, before_us=event_time_us)
                    self._changed[gap.key] = item.gap

    def reject(self, symbol: str, trade_id: int, *, was_fetched: bool) -> bool:
        """Take note of a trade that came and was rejected; return whether it was not known to be.

        One that the exchange's history sends too is not asked for again.
        """
        known = self._sequences.setdefault(symbol, _Sequence())
        is_new = trade_id not in known.rejected
        known.rejected[trade_id] = None
        if len(known.rejected) > MAX_REJECTED:
            del known.rejected[next(iter(known.rejected))]
        for item in known.open if was_fetched else ():
            if item.gap.first_missing_id <= trade_id <= item.gap.last_missing_id and _are_all_in(item, known.rejected):
                self._explain(item, OpenBecause.REJECTED)
        return is_new

    def settle(self, symbol: str, first: int, last: int) -> None:
        """Takes note that these ids are no trades of the order book."""
        if known := self._sequences.get(symbol):
            self._came_late(known, (first, last), ClosedBy.REST, exist=False)

    def explain(self, wanted: MissingRange, because: OpenBecause) -> None:
        """Notes why a range is still missing."""
        known = self._sequences[wanted.symbol]
        for item in known.open:
            if item.gap.first_missing_id <= wanted.first <= item.gap.last_missing_id:
                self._explain(item, OpenBecause.REJECTED if _are_all_in(item, known.rejected) else because)

    def _explain(self, item: _Open, because: OpenBecause) -> None:
        gap = item.gap
        if gap.open_because is because:
            return
        item.gap = replace(gap, open_because=because)
        self._changed[gap.key] = item.gap
        log.warning(
            "gap_stays_open",
            because=because.value,
            symbol=gap.symbol,
            stream=self._stream,
            first_missing_id=gap.first_missing_id,
            last_missing_id=gap.last_missing_id,
        )

    def proven_before(self, symbols: Iterable[str], interval: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
        """The time [from, to) of which a symbol's ids say that every trade came, where that begins with an earlier
        connection than this interval does: from behind the last gap that is open. All in ms since 1970, UTC."""
        found: dict[str, tuple[int, int]] = {}
        for symbol in symbols if interval is not None else ():
            known = self._sequences.get(symbol)
            if interval is None or known is None or known.last_id is None:
                continue
            from_us = max([known.since_us, *(item.gap.before_us for item in known.open)])
            # Trades of the same ms as the first one may be older.
            proven = from_us // 1000 + 1, known.last_us // 1000
            if proven[0] < min(proven[1], interval[0] - BRIDGED_MS):
                found[symbol] = proven
        return found

    def missing(self) -> list[MissingRange]:
        """What did not come and is to be repaired, oldest gap first."""
        gaps = [
            item
            for known in self._sequences.values()
            for item in known.open
            if item.gap.open_because not in (OpenBecause.BEYOND_LIMIT, OpenBecause.REJECTED)
        ]
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

    def _begin(self, known: _Sequence, trade_id: int, event_time_us: int) -> None:
        known.since_us = event_time_us
        self._go_on(known, trade_id, event_time_us)

    def _go_on(self, known: _Sequence, trade_id: int, event_time_us: int) -> None:
        known.last_id, known.last_us = trade_id, event_time_us
        known.doubtful_id, known.known_from_before = None, False

    def _miss(self, known: _Sequence, symbol: str, ids: tuple[int, int], times_us: tuple[int, int]) -> None:
        """Opens gaps for the ids that no open gap has yet, in two parts where they are too many."""
        # Out of order, the trade before may be younger than the one behind.
        after_us, before_us = sorted(times_us)
        for first, last in _outside(ids, known.open):
            beyond = last - self._most_ids
            if beyond >= first:
                self._open(known, symbol, (first, beyond), (after_us, before_us), OpenBecause.BEYOND_LIMIT)
            self._open(known, symbol, (max(first, beyond + 1), last), (after_us, before_us))
        known.reach_id = max(known.reach_id, ids[1])

    def _open(
        self,
        known: _Sequence,
        symbol: str,
        ids: tuple[int, int],
        times_us: tuple[int, int],
        because: OpenBecause | None = None,
    ) -> None:
        first, last = ids
        number = last - first + 1
        log.warning(
            "trades_missing",
            symbol=symbol,
            stream=self._stream,
            first_missing_id=first,
            last_missing_id=last,
            ids=number,
            because=because,
        )
        # Repaired and unrepaired gaps are never joined: the ids of one would be treated as those of the other.
        is_beyond = because is OpenBecause.BEYOND_LIMIT
        alike = (
            item for item in reversed(known.open) if (item.gap.open_because is OpenBecause.BEYOND_LIMIT) is is_beyond
        )
        if len(known.open) >= MAX_OPEN and (newest := next(alike, None)) is not None:
            newest.ranges.append(ids)
            newest.gap = replace(
                newest.gap,
                last_missing_id=last,
                ids_missing=newest.gap.ids_missing + number,
                before_us=max(newest.gap.before_us, times_us[1]),
            )
        else:
            now = self._clock()
            gap = TradeGap(self._exchange, symbol, self._stream, first, last, number, *times_us, now)
            newest = _Open(replace(gap, open_because=because), [ids])
            known.open.append(newest)
        self._changed[newest.gap.key] = newest.gap

    def _came_late(self, known: _Sequence, ids: tuple[int, int], by: ClosedBy, *, exist: bool = True) -> None:
        """Takes ids out of the open gaps; `exist`: their trades came, else there are none to come."""
        for item in list(known.open):
            gap = item.gap
            if gap.last_missing_id < ids[0] or gap.first_missing_id > ids[1] or not (number := item.drop(*ids)):
                continue
            if exist:
                item.has_trades = True
            else:
                item.gap = replace(item.gap, ids_not_order_book=gap.ids_not_order_book + number)
            if item.ranges:
                self._changed[gap.key] = item.gap
            else:
                known.open.remove(item)
                self._close(item, by)

    def _close(self, item: _Open, by: ClosedBy) -> None:
        if not item.has_trades:
            outcome = GapOutcome.NOT_ORDER_BOOK
        else:
            outcome = GapOutcome.ARRIVED if by is ClosedBy.STREAM else GapOutcome.REPAIRED
        gap = replace(item.gap, closed_at=self._clock(), closed_by=by, outcome=outcome, open_because=None)
        self._changed.pop(gap.key, None)
        self._closed.append(gap)
        log.info(
            "gap_closed",
            closed_by=by.value,
            outcome=outcome.value,
            symbol=gap.symbol,
            stream=self._stream,
            first_missing_id=gap.first_missing_id,
            last_missing_id=gap.last_missing_id,
        )


def _ids_of(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    return chain.from_iterable(range(first, last + 1) for first, last in ranges)


def _are_all_in(item: _Open, ids: Collection[int]) -> bool:
    """Return whether every id that a gap misses is one of these."""
    return _number(item.ranges) <= len(ids) and all(number in ids for number in _ids_of(item.ranges))


def _outside(ids: tuple[int, int], gaps: Sequence[_Open]) -> list[tuple[int, int]]:
    """What of the ids no gap spans."""
    left = [ids]
    for item in gaps:
        taken = item.gap.first_missing_id, item.gap.last_missing_id
        if taken[1] >= ids[0] and taken[0] <= ids[1]:
            parts = [((first, min(last, taken[0] - 1)), (max(first, taken[1] + 1), last)) for first, last in left]
            left = [part for both in parts for part in both if part[0] <= part[1]]
    return left
