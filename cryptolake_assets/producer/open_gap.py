"""A gap that is open, and which of its ids are still missing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.events import CONTRACT_VERSION


@dataclass
class OpenGap:
    """An open gap, and its ids that are still missing, as ranges with both ends included, in order."""

    gap: TradeGap
    ranges: list[tuple[int, int]]
    has_trades: bool = False
    """Whether any of its trades came."""

    @property
    def is_pending(self) -> bool:
        """Whether its time has no end yet: a rejected trade opened it, and the trade after it has not come."""
        return self.gap.after_us == self.gap.before_us

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

    def missing_ids(self, *, backwards: bool = False) -> Iterator[int]:
        """Return the ids that are missing, in order or from the last one to the first."""
        if backwards:
            return chain.from_iterable(range(last, first - 1, -1) for first, last in reversed(self.ranges))
        return chain.from_iterable(range(first, last + 1) for first, last in self.ranges)

    def misses_only(self, ids: Collection[int]) -> bool:
        """Return whether every id that is missing is one of these."""
        return _number(self.ranges) <= len(ids) and all(number in ids for number in self.missing_ids())

    def spans(self, trade_id: int) -> bool:
        return self.gap.first_missing_id <= trade_id <= self.gap.last_missing_id


def is_final(gap: TradeGap) -> bool:
    """Return whether asking again for a gap of rejected trades would bring nothing.

    Where some of its trades came, which of them is not in the ledger, and they may have been lost on their way.
    """
    is_whole = gap.ids_missing == gap.last_missing_id - gap.first_missing_id + 1
    rejection = gap.rejection
    return (
        is_whole
        and rejection is not None
        and rejection.contract_version == CONTRACT_VERSION
        and rejection.offset is not None
    )


def ids_outside(ids: tuple[int, int], gaps: Sequence[OpenGap]) -> list[tuple[int, int]]:
    """What of the ids no gap spans."""
    left = [ids]
    for item in gaps:
        taken = item.gap.first_missing_id, item.gap.last_missing_id
        if taken[1] >= ids[0] and taken[0] <= ids[1]:
            parts = [((first, min(last, taken[0] - 1)), (max(first, taken[1] + 1), last)) for first, last in left]
            left = [part for both in parts for part in both if part[0] <= part[1]]
    return left


def _number(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
