"""Gap detection: the exchange's trade ids are consecutive for each symbol and stream.

`GapTracker` is pure. Its caller passes the trades in order of receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import structlog

from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, OpenBecause, Rejection, TradeGap
from cryptolake_assets.model.events import CONTRACT_VERSION, MAX_ID
from cryptolake_assets.producer.open_gap import IdSequence, MissingRange, OpenGap, ids_outside, is_final

log = structlog.get_logger(__name__)

GapKey = tuple[str, str, str, int]  # `TradeGap.key`

# An id this far above the last one counts only once the next trade continues from it: a single frame with a wrong id
# must not open a gap that cannot be repaired.
MAX_STEP_IDS: Final = 10_000_000
# Maximum open gaps per symbol; a further one is merged into the newest of its kind (to be repaired, or beyond the
# limit), so that memory stays bounded on a stream with many gaps.
MAX_OPEN: Final = 1_000
# Rejected ids remembered per symbol; the oldest are forgotten, and may become dead letters again.
MAX_REJECTED: Final = 10_000
BRIDGED_MS: Final = 1_000  # a sequence that starts this long before a connection started on an earlier connection


@dataclass(frozen=True, slots=True)
class LastTrade:
    """The newest known trade of a symbol's stream."""

    trade_id: int
    event_time_us: int


@dataclass(frozen=True, slots=True)
class KnownTrade:
    """A trade that an earlier process put on the topic; `is_fetched`: from the REST history."""

    symbol: str
    trade_id: int
    event_time_us: int
    is_fetched: bool


class GapTracker:
    """Finds the gaps of one stream. Older trades and duplicates open no gap."""

    def __init__(
        self,
        exchange: str,
        stream: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_ids: int = MAX_ID,
    ) -> None:
        """Only the newest `max_ids` ids of a gap are repaired; the older ids become a separate gap."""
        self._exchange = exchange
        self._stream = stream
        self._clock = clock
        self._max_ids = max_ids
        self._sequences: dict[str, IdSequence] = {}
        self._changed: dict[GapKey, TradeGap] = {}
        self._closed: list[TradeGap] = []

    @property
    def ids_missing(self) -> int:
        """The number of missing ids in all open gaps."""
        return sum(item.gap.ids_missing for one in self._sequences.values() for item in one.open)

    def resume(self, gaps: Sequence[TradeGap]) -> None:
        """Take over the gaps that an earlier process left open: trades received later may still close them."""
        for gap in sorted(gaps, key=lambda gap: gap.first_missing_id):
            if (gap.exchange, gap.stream) == (self._exchange, self._stream):
                # The ledger does not name the ids that have arrived since.
                ids_missing = gap.last_missing_id - gap.first_missing_id + 1
                restored = replace(gap, ids_missing=ids_missing, ids_not_order_book=0)
                if gap.open_because is OpenBecause.REJECTED and not is_final(gap):
                    restored = replace(restored, open_because=None, rejection=None)
                item = OpenGap(restored, [(gap.first_missing_id, gap.last_missing_id)])
                sequence = self._sequences.setdefault(gap.symbol, IdSequence())
                if gap.rejection is not None and gap.rejection.offset is not None:
                    sequence.rejected |= dict.fromkeys(islice(item.missing_ids(), MAX_REJECTED), gap.rejection)
                sequence.open.append(item)
                sequence.highest_missing_id = max(sequence.highest_missing_id, gap.last_missing_id)

    def take_over_lost(self, gaps: Sequence[TradeGap]) -> None:
        """Take over gaps of records that Kafka lost after their acknowledgement: their trades are missing again.

        A gap without `ids_missing` ends with the symbol's newest trade; without one, it is left for a later call.
        """
        for gap in gaps:
            if (gap.exchange, gap.stream) != (self._exchange, self._stream):
                continue
            sequence = self._sequences.setdefault(gap.symbol, IdSequence())
            if not gap.ids_missing and not sequence.last_id:
                continue
            last_id = gap.last_missing_id
            if not gap.ids_missing:
                last_id = max(last_id, sequence.last_id or 0)
                sequence.since_us = min(sequence.since_us, gap.after_us)  # later ids were received or are in a gap
            sequence.open = [item for item in sequence.open if item.gap.key != gap.key]
            self._open_parts(sequence, gap.symbol, (gap.first_missing_id, last_id), (gap.after_us, gap.before_us))

    def last(self, symbol: str) -> LastTrade | None:
        """Return the newest trade of the symbol's sequence; None if there is none."""
        sequence = self._sequences.get(symbol)
        return None if sequence is None or sequence.last_id is None else LastTrade(sequence.last_id, sequence.last_us)

    def resume_from(self, trades: Iterable[KnownTrade], last: Mapping[str, LastTrade]) -> None:
        """Resume after an earlier process: from the trades at the end of the topic, in order, and `last` of Bronze.

        Ids missing on the topic become gaps: that process may not have recorded them. Call this before the first trade.
        """
        for trade in trades:
            last_id = self._sequences.setdefault(trade.symbol, IdSequence()).last_id
            # A fetched trade newer than the last one continues the sequence: the stream had sent nothing.
            is_newest = last_id is not None and trade.trade_id > last_id
            record = self.fill if trade.is_fetched and not is_newest else self.see
            record(trade.symbol, trade.trade_id, trade.event_time_us)
        for symbol, newest in last.items():
            sequence = self._sequences.setdefault(symbol, IdSequence())
            if sequence.last_id is None or newest.trade_id > sequence.last_id:
                self._begin(sequence, newest.trade_id, newest.event_time_us)
        for sequence in self._sequences.values():
            sequence.is_resumed = sequence.last_id is not None

    def see(self, symbol: str, trade_id: int, event_time_us: int) -> bool:
        """Record the next trade; return whether it was missing until now."""
        sequence = self._sequences.get(symbol)
        if sequence is None:
            sequence = self._sequences[symbol] = IdSequence()
        last = sequence.last_id
        if (
            last is not None
            and trade_id == last + 1
            and trade_id > sequence.highest_missing_id
            and event_time_us >= sequence.last_us
        ):
            # The common case: `_advance` inlined, to save the call.
            sequence.last_id, sequence.last_us = trade_id, event_time_us
            sequence.unconfirmed_id, sequence.is_resumed = None, False
            return False
        was_missing = trade_id <= sequence.highest_missing_id and self._remove_missing(
            sequence, (trade_id, trade_id), ClosedBy.STREAM
        )
        # The exchange's ids and times never decrease: a stream that starts before the last known trade is a replay.
        is_replay = sequence.is_resumed and (trade_id <= (last or 0) or event_time_us < sequence.last_us)
        if last is None or is_replay:
            self._begin(sequence, trade_id, event_time_us)
            if last is None:
                for rejected_id in sequence.rejected:
                    if abs(rejected_id - trade_id) <= MAX_STEP_IDS:
                        self._add_missing(sequence, symbol, (rejected_id, rejected_id), (event_time_us, event_time_us))
        elif trade_id == last + 1:
            self._advance(sequence, trade_id, event_time_us)
        elif trade_id <= last:
            return was_missing
        elif trade_id - last <= MAX_STEP_IDS or (
            sequence.unconfirmed_id is not None and trade_id == sequence.unconfirmed_id + 1
        ):
            missing_to = trade_id - 1 if sequence.unconfirmed_id != trade_id - 1 else trade_id - 2
            self._add_missing(sequence, symbol, (last + 1, missing_to), (sequence.last_us, event_time_us))
            self._advance(sequence, trade_id, event_time_us)
        else:
            sequence.unconfirmed_id = trade_id
        return was_missing

    def extend_to(self, symbol: str, newest: LastTrade) -> None:
        """Extend the sequence to a trade that the exchange has and the stream did not deliver."""
        sequence = self._sequences.get(symbol)
        if sequence is not None and sequence.last_id is not None and newest.trade_id > sequence.last_id:
            times_us = sequence.last_us, newest.event_time_us
            self._add_missing(sequence, symbol, (sequence.last_id + 1, newest.trade_id), times_us)
            self._advance(sequence, newest.trade_id, newest.event_time_us)

    def fill(self, symbol: str, trade_id: int, event_time_us: int) -> None:
        """Record a fetched trade."""
        if sequence := self._sequences.get(symbol):
            was_missing = self._remove_missing(sequence, (trade_id, trade_id), ClosedBy.REST)
            last, last_us = sequence.last_id, sequence.last_us
            if was_missing and last is not None and trade_id > last:
                # No trade has followed a rejected one yet: the next one must not find it missing again.
                if trade_id > last + 1:
                    self._add_missing(sequence, symbol, (last + 1, trade_id - 1), (last_us, event_time_us))
                sequence.last_id, sequence.last_us = trade_id, max(last_us, event_time_us)
            for item in sequence.open:
                gap = item.gap
                if gap.last_missing_id == trade_id - 1 and gap.after_us <= event_time_us < gap.before_us:
                    # The first trade after a part beyond the repair limit.
                    item.gap = replace(gap, before_us=event_time_us)
                    self._changed[gap.key] = item.gap

    def reject(self, symbol: str, trade_id: int, reason: str, *, was_fetched: bool) -> bool:
        """Record a received and rejected trade; return whether its rejection is new.

        A rejected trade that the REST history returns too is not requested again.
        """
        sequence = self._sequences.setdefault(symbol, IdSequence())
        before = sequence.rejected.get(trade_id)
        is_new = before is None
        rejection = Rejection(reason, CONTRACT_VERSION)
        if before is not None:
            rejection = replace(rejection, partition=before.partition, offset=before.offset)
        sequence.rejected[trade_id] = rejection
        if len(sequence.rejected) > MAX_REJECTED:
            del sequence.rejected[next(iter(sequence.rejected))]
        if not was_fetched and sequence.last_id is not None and 0 < trade_id - sequence.last_id <= MAX_STEP_IDS:
            # Open a gap now: the next trade may arrive much later, and moves the gap's end time.
            self._add_missing(sequence, symbol, (trade_id, trade_id), (sequence.last_us, sequence.last_us))
        for item in sequence.open if was_fetched else ():
            if item.spans(trade_id) and item.misses_only(sequence.rejected):
                self._explain(item, OpenBecause.REJECTED)
        return is_new

    def is_near(self, symbol: str, trade_id: int) -> bool:
        """Return whether an id is close enough to the symbol's last one for a gap to record it."""
        last = self.last(symbol)
        return last is None or trade_id - last.trade_id <= MAX_STEP_IDS

    def bound_rejected(self, symbol: str, before_us: int) -> None:
        """Bound the time of the symbol's rejected trades that no other trade has followed."""
        sequence = self._sequences[symbol]
        for item in sequence.open:
            gap = item.gap
            if item.is_pending and gap.before_us < before_us and item.misses_only(sequence.rejected):
                item.gap = replace(gap, before_us=before_us)
                self._changed[gap.key] = item.gap

    def dead_letter_at(self, symbol: str, trade_id: int, partition: int, offset: int) -> None:
        """Record the partition and offset of a rejected trade's dead letter."""
        sequence = self._sequences.get(symbol)
        rejection = None if sequence is None else sequence.rejected.get(trade_id)
        if sequence is None or rejection is None or rejection.offset is not None:
            return
        sequence.rejected[trade_id] = replace(rejection, partition=partition, offset=offset)
        for item in sequence.open:
            if item.gap.rejection is not None and item.spans(trade_id):
                self._explain(item, OpenBecause.REJECTED)

    def mark_not_order_book(self, symbol: str, first: int, last: int) -> None:
        """Record that these ids are not trades of the order book."""
        if sequence := self._sequences.get(symbol):
            self._remove_missing(sequence, (first, last), ClosedBy.REST, has_trades=False)

    def explain(self, missing: MissingRange, because: OpenBecause, *, is_final: bool = True) -> None:
        """Record why a range is missing; `is_final`: the history will not have the range's rejected trades later."""
        sequence = self._sequences[missing.symbol]
        for item in sequence.open:
            if item.gap.first_missing_id <= missing.first <= item.gap.last_missing_id:
                is_rejected = is_final and missing.last == item.ranges[-1][1] and item.misses_only(sequence.rejected)
                self._explain(item, OpenBecause.REJECTED if is_rejected else because)

    def _explain(self, item: OpenGap, because: OpenBecause) -> None:
        gap = item.gap
        rejection = self._rejection_of(item) if because is OpenBecause.REJECTED else None
        if (gap.open_because, gap.rejection) == (because, rejection):
            return
        item.gap = replace(gap, open_because=because, rejection=rejection)
        self._changed[gap.key] = item.gap
        if gap.open_because is because:
            return
        log.warning(
            "gap_kept_open",
            because=because.value,
            symbol=gap.symbol,
            stream=self._stream,
            first_missing_id=gap.first_missing_id,
            last_missing_id=gap.last_missing_id,
        )

    def _rejection_of(self, item: OpenGap) -> Rejection | None:
        """Return the rejection of the first missing trade.

        It has no coordinates until all dead letters of the gap are acknowledged.
        """
        rejected = self._sequences[item.gap.symbol].rejected
        first = rejected.get(item.ranges[0][0], item.gap.rejection)
        # The latest dead letter is acknowledged last, so the first check usually decides.
        latest_first = map(rejected.get, item.missing_ids(backwards=True))
        if first is None or all(one is not None and one.offset is not None for one in latest_first):
            return first
        return replace(first, partition=None, offset=None)

    def tracked(self, symbols: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return, per symbol, the time [from, to) of which every trade was received or is in a gap.

        Times in ms since 1970, UTC.
        """
        found: dict[str, tuple[int, int]] = {}
        for symbol in symbols:
            sequence = self._sequences.get(symbol)
            if sequence is not None and sequence.last_id is not None:
                # Trades in the same ms as the first one may be older.
                found[symbol] = sequence.since_us // 1000 + 1, sequence.last_us // 1000
        return {symbol: span for symbol, span in found.items() if span[0] < span[1]}

    def proven_before(self, symbols: Iterable[str], interval: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
        """Return, per symbol, the time [from, to) for which its ids prove that every trade was received.

        It starts after the last open gap. Only symbols for which it starts on an earlier connection than `interval` are
        included. All times in ms since 1970, UTC.
        """
        found: dict[str, tuple[int, int]] = {}
        for symbol, (from_ms, to_ms) in self.tracked(symbols if interval is not None else ()).items():
            start_ms = max([from_ms, *(item.gap.before_us // 1000 + 1 for item in self._sequences[symbol].open)])
            if interval is not None and start_ms < min(to_ms, interval[0] - BRIDGED_MS):
                found[symbol] = start_ms, to_ms
        return found

    def missing(self) -> list[MissingRange]:
        """Return the missing ids to repair, oldest gap first."""
        gaps = [
            item
            for sequence in self._sequences.values()
            for item in sequence.open
            if item.gap.open_because not in (OpenBecause.BEYOND_LIMIT, OpenBecause.REJECTED)
        ]
        gaps.sort(key=lambda item: item.gap.detected_at)
        return [MissingRange(item.gap.symbol, first, last) for item in gaps for first, last in item.ranges]

    def take_open(self) -> dict[GapKey, TradeGap]:
        """Return the open gaps that are new or changed since the last call, by key."""
        changed, self._changed = self._changed, {}
        return changed

    def take_closed(self) -> list[TradeGap]:
        """Return the gaps closed since the last call. Write them once their trades are acknowledged."""
        closed, self._closed = self._closed, []
        return closed

    def _begin(self, sequence: IdSequence, trade_id: int, event_time_us: int) -> None:
        sequence.since_us = event_time_us
        self._advance(sequence, trade_id, event_time_us)

    def _advance(self, sequence: IdSequence, trade_id: int, event_time_us: int) -> None:
        sequence.last_id, sequence.last_us = trade_id, event_time_us
        sequence.unconfirmed_id, sequence.is_resumed = None, False

    def _add_missing(self, sequence: IdSequence, symbol: str, ids: tuple[int, int], times_us: tuple[int, int]) -> None:
        """Open gaps for ids that no open gap has yet, in two parts if they exceed the repair limit."""
        # Trades may arrive out of order: the trade before the gap may be newer than the one after it.
        after_us, before_us = sorted(times_us)
        for part in ids_outside(ids, sequence.open):
            self._open_parts(sequence, symbol, part, (after_us, before_us))
        for item in sequence.open:
            gap = item.gap
            if ids[0] <= gap.first_missing_id <= ids[1] and item.is_pending and gap.before_us < before_us:
                item.gap = replace(gap, before_us=before_us)
                self._changed[gap.key] = item.gap

    def _open_parts(self, sequence: IdSequence, symbol: str, ids: tuple[int, int], times_us: tuple[int, int]) -> None:
        first, last = ids
        beyond = last - self._max_ids
        if beyond >= first:
            self._open(sequence, symbol, (first, beyond), times_us, OpenBecause.BEYOND_LIMIT)
        self._open(sequence, symbol, (max(first, beyond + 1), last), times_us)
        sequence.highest_missing_id = max(sequence.highest_missing_id, last)

    def _open(
        self,
        sequence: IdSequence,
        symbol: str,
        ids: tuple[int, int],
        times_us: tuple[int, int],
        because: OpenBecause | None = None,
    ) -> None:
        first, last = ids
        ids_missing = last - first + 1
        named = {"symbol": symbol, "first_missing_id": first, "last_missing_id": last}
        log.warning("trades_missing", stream=self._stream, **named, ids=ids_missing, because=because)
        # Gaps to repair and gaps beyond the limit are never merged: their ids are handled differently. Only later ids
        # join a gap, because its first id is its key.
        is_beyond_limit = because is OpenBecause.BEYOND_LIMIT
        same_kind = (
            item
            for item in reversed(sequence.open)
            if (item.gap.open_because is OpenBecause.BEYOND_LIMIT) is is_beyond_limit
            and item.gap.last_missing_id < first
        )
        if len(sequence.open) >= MAX_OPEN and (newest := next(same_kind, None)) is not None:
            newest.ranges.append(ids)
            newest.gap = replace(
                newest.gap,
                last_missing_id=last,
                ids_missing=newest.gap.ids_missing + ids_missing,
                before_us=max(newest.gap.before_us, times_us[1]),
                open_because=because,
                rejection=None,
            )
        else:
            now = self._clock()
            gap = TradeGap(self._exchange, symbol, self._stream, first, last, ids_missing, *times_us, now)
            newest = OpenGap(replace(gap, open_because=because), [ids])
            sequence.open.append(newest)
        self._changed[newest.gap.key] = newest.gap

    def _remove_missing(
        self, sequence: IdSequence, ids: tuple[int, int], by: ClosedBy, *, has_trades: bool = True
    ) -> bool:
        """Remove ids from the open gaps; return whether any of them was missing.

        `has_trades`: their trades were received; otherwise the ids have no trades.
        """
        found = False
        for item in list(sequence.open):
            gap = item.gap
            if gap.last_missing_id < ids[0] or gap.first_missing_id > ids[1] or not (ids_missing := item.drop(*ids)):
                continue
            found = True
            if has_trades:
                item.has_trades = True
            else:
                item.gap = replace(item.gap, ids_not_order_book=gap.ids_not_order_book + ids_missing)
            if item.ranges:
                if gap.rejection is not None:
                    item.gap = replace(item.gap, rejection=self._rejection_of(item))
                self._changed[gap.key] = item.gap
            else:
                sequence.open.remove(item)
                self._close(item, by)
        return found

    def _close(self, item: OpenGap, by: ClosedBy) -> None:
        if not item.has_trades:
            outcome = GapOutcome.NOT_ORDER_BOOK
        else:
            outcome = GapOutcome.ARRIVED if by is ClosedBy.STREAM else GapOutcome.REPAIRED
        gap = replace(
            item.gap, open_because=None, rejection=None, closed_at=self._clock(), closed_by=by, outcome=outcome
        )
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
