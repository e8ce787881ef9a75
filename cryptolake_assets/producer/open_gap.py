"""An open gap and its missing ids, and the id sequence that it belongs to. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from cryptolake_assets.lake.gap_ledger import Rejection, TradeGap
from cryptolake_assets.model.events import CONTRACT_VERSION


@dataclass(frozen=True, slots=True)
class MissingRange:
    """Missing ids of a symbol, both ends included."""

    symbol: str
    first: int
    last: int

    @property
    def ids(self) -> int:
        return self.last - self.first + 1


@dataclass
class OpenGap:
    """An open gap and its missing ids, as ordered ranges with both ends included."""

    gap: TradeGap
    ranges: list[tuple[int, int]]
    has_trades: bool = False  # at least one of its trades was received

    @property
    def is_pending(self) -> bool:
        """Return whether its end time is unknown: a rejected trade opened it, and no trade has followed."""
        return self.gap.after_us == self.gap.before_us

    def drop(self, first: int, last: int) -> int:
        """Remove ids from the missing ones; return how many of them were missing."""
        remaining: list[tuple[int, int]] = []
        for span in self.ranges:
            if span[1] < first or span[0] > last:
                remaining.append(span)
            else:
                parts = (span[0], first - 1), (last + 1, span[1])
                remaining += [part for part in parts if part[0] <= part[1]]
        dropped = _count(self.ranges) - _count(remaining)
        if dropped:
            self.ranges = remaining
            self.gap = replace(self.gap, ids_missing=self.gap.ids_missing - dropped)
        return dropped

    def missing_ids(self, *, backwards: bool = False) -> Iterator[int]:
        """Return the missing ids, in ascending or descending order."""
        if backwards:
            return chain.from_iterable(range(last, first - 1, -1) for first, last in reversed(self.ranges))
        return chain.from_iterable(range(first, last + 1) for first, last in self.ranges)

    def misses_only(self, ids: Collection[int]) -> bool:
        """Return whether all missing ids are among these."""
        return _count(self.ranges) <= len(ids) and all(trade_id in ids for trade_id in self.missing_ids())

    def spans(self, trade_id: int) -> bool:
        """Return whether the id is between the gap's first and last missing id."""
        return self.gap.first_missing_id <= trade_id <= self.gap.last_missing_id


@dataclass(slots=True)
class IdSequence:
    """The id sequence of one symbol."""

    last_id: int | None = None
    last_us: int = 0
    since_us: int = 0  # event time of the first trade after which every id was received or is in a gap
    is_resumed: bool = False  # `last_id` is from an earlier process, and no trade was received since
    # An id more than `MAX_STEP_IDS` above the last one; it counts once the next trade follows it.
    unconfirmed_id: int | None = None
    highest_missing_id: int = -1  # upper bound of the ids of all open gaps
    open: list[OpenGap] = field(default_factory=list)
    # Received and rejected trades by id, the latest last.
    rejected: dict[int, Rejection] = field(default_factory=dict)


def is_final(gap: TradeGap) -> bool:
    """Return whether a gap of rejected trades needs no further requests.

    If some of its trades were received, the ledger does not name them, and they may have been lost before Kafka.
    """
    misses_all = gap.ids_missing == gap.last_missing_id - gap.first_missing_id + 1
    rejection = gap.rejection
    return (
        misses_all
        and rejection is not None
        and rejection.contract_version == CONTRACT_VERSION
        and rejection.offset is not None
    )


def ids_outside(ids: tuple[int, int], gaps: Sequence[OpenGap]) -> list[tuple[int, int]]:
    """Return the ranges of the ids that no gap misses.

    A merged gap spans ids that it does not miss: some of them may not have been received yet.
    """
    remaining = [ids]
    for item in gaps:
        if item.gap.last_missing_id < ids[0] or item.gap.first_missing_id > ids[1]:
            continue
        for taken in item.ranges:
            if taken[1] >= ids[0] and taken[0] <= ids[1]:
                parts = [
                    ((first, min(last, taken[0] - 1)), (max(first, taken[1] + 1), last)) for first, last in remaining
                ]
                remaining = [part for both in parts for part in both if part[0] <= part[1]]
    return remaining


def _count(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
