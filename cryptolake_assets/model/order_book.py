"""The order book of one symbol, rebuilt from depth updates and snapshots. Pure.

Prices and quantities are integers of 10^-8 (`columns.PRICE` and `QUANTITY` have eight decimals); ids are the exchange's
update ids. A book is known only within the price range of its snapshots: levels further from the top may be missing.
Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/How-to-manage-a-local-order-book-correctly.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

from msgspec import Struct

E8: Final = 10**8  # integers of a price or quantity of 1

Levels = Sequence[tuple[int, int]]  # (price, quantity); a quantity of 0 removes the level

# Numbers of levels that the exchange offers for a snapshot; a side with fewer levels than its limit is complete.
SNAPSHOT_LIMITS: Final = frozenset((5, 10, 20, 50, 100, 500, 1_000, 5_000))
MAX_RECENT_LEVELS: Final = 100_000  # of updates kept for a snapshot that is on its way: a minute of a busy symbol


class DepthUpdate(Struct, frozen=True, gc=False):
    """The changed levels of an interval of update ids."""

    event_time_us: int
    first_id: int
    final_id: int
    previous_id: int | None  # final id of the previous update; None on Spot, whose ids are consecutive
    bids: Levels
    asks: Levels

    def follows(self, last_id: int) -> bool:
        """Return whether no update is missing after the one with the final id `last_id`."""
        return self.first_id == last_id + 1 if self.previous_id is None else self.previous_id == last_id

    def joins(self, last_id: int) -> bool:
        """Return whether it is the first update to apply to a snapshot of `last_id`."""
        if self.previous_id is None:
            return self.first_id <= last_id + 1 <= self.final_id
        return self.first_id <= last_id <= self.final_id or self.previous_id == last_id


class BookSnapshot(Struct, frozen=True, gc=False):
    """All levels of a price range after the update `last_id`: from the exchange, or a checkpoint of a book.

    `lowest_bid` and `highest_ask` bound the known range; None: the side is complete.
    """

    last_id: int
    bids: Levels
    asks: Levels
    lowest_bid: int | None
    highest_ask: int | None

    @classmethod
    def of_exchange(cls, last_id: int, bids: Levels, asks: Levels) -> BookSnapshot:
        """Return the snapshot of a REST response, whose levels are sorted from the top."""
        return cls(
            last_id,
            bids,
            asks,
            lowest_bid=bids[-1][0] if len(bids) in SNAPSHOT_LIMITS else None,
            highest_ask=asks[-1][0] if len(asks) in SNAPSHOT_LIMITS else None,
        )


class BookGap(NamedTuple):
    """Where a chain of updates breaks; the book is unknown until the next snapshot."""

    after_id: int  # final id of the last sound update
    before_id: int  # first id of the next update; below `after_id` if the book is crossed after that update


class BookSide:
    """One side: quantities by price, and the prices sorted so that the best is last (asks are negated)."""

    __slots__ = ("keys", "known_to", "quantities", "sign")

    def __init__(self, sign: int, levels: Levels, known_to: int | None) -> None:
        """`sign` is 1 for bids, -1 for asks; `known_to` is the known price furthest from the top."""
        self.sign = sign
        self.keys: list[int] = []
        self.quantities: dict[int, int] = {}
        self.known_to = None if known_to is None else sign * known_to
        self.apply(levels)

    def apply(self, levels: Levels) -> None:
        """Set the quantities of these levels."""
        sign, keys, quantities = self.sign, self.keys, self.quantities
        for price, quantity in levels:
            key = sign * price
            if quantity:
                if key not in quantities:
                    insort(keys, key)
                quantities[key] = quantity
            elif quantities.pop(key, None) is not None:
                del keys[bisect_left(keys, key)]

    @property
    def best(self) -> tuple[int, int] | None:
        """Return price and quantity of the top; None if there is no level.

        Outside the known range it is the best level that updates have set.
        """
        if not self.keys:
            return None
        key = self.keys[-1]
        return self.sign * key, self.quantities[key]

    def is_known(self, key: int) -> bool:
        return self.known_to is None or key >= self.known_to

    def levels(self) -> list[tuple[int, int]]:
        """Return all levels from the top, including those that updates have set outside the known range."""
        return [(self.sign * key, self.quantities[key]) for key in reversed(self.keys)]

    def known(self) -> list[tuple[int, int]]:
        """Return the levels of the known range from the top."""
        return [(self.sign * key, self.quantities[key]) for key in reversed(self.keys) if self.is_known(key)]

    def widen(self, other: BookSide) -> None:
        """Take over the levels that only the other book, of the same update, knows."""
        if self.known_to is None or (other.known_to is not None and other.known_to >= self.known_to):
            return
        known = [(key, self.quantities[key]) for key in self.keys if self.is_known(key)]
        beyond = [(key, other.quantities[key]) for key in other.keys if not self.is_known(key) and other.is_known(key)]
        self.quantities = dict(beyond + known)
        self.keys = sorted(self.quantities)
        self.known_to = other.known_to

    def differences(self, other: BookSide) -> int:
        """Count the levels within the range that both know whose quantities differ."""
        prices = {key for side in (self, other) for key in side.keys if self.is_known(key) and other.is_known(key)}
        return sum(self.quantities.get(key) != other.quantities.get(key) for key in prices)


class OrderBook:
    """A book after the update `last_id`."""

    __slots__ = ("asks", "bids", "last_id")

    def __init__(self, snapshot: BookSnapshot) -> None:
        self.last_id = snapshot.last_id
        self.bids = BookSide(1, snapshot.bids, snapshot.lowest_bid)
        self.asks = BookSide(-1, snapshot.asks, snapshot.highest_ask)

    def apply(self, update: DepthUpdate) -> None:
        """Apply the next update; the caller checks that it follows or joins."""
        self.bids.apply(update.bids)
        self.asks.apply(update.asks)
        self.last_id = update.final_id

    @property
    def is_crossed(self) -> bool:
        """Return whether the best bid is at or above the best ask."""
        bids, asks = self.bids.keys, self.asks.keys
        return bool(bids and asks) and bids[-1] >= -asks[-1]

    def checkpoint(self) -> BookSnapshot:
        """Return the whole book as a snapshot, from which the next update continues."""
        lowest, highest = self.bids.known_to, self.asks.known_to
        return BookSnapshot(
            self.last_id,
            self.bids.levels(),
            self.asks.levels(),
            lowest_bid=lowest,
            highest_ask=None if highest is None else -highest,
        )


def in_order(updates: Iterable[DepthUpdate], snapshots: Iterable[BookSnapshot]) -> Iterator[DepthUpdate | BookSnapshot]:
    """Yield a symbol's updates, sorted by (event time, final id), and its snapshots.

    A snapshot precedes the first update that it may lack.
    """
    waiting = deque(sorted(snapshots, key=lambda snapshot: snapshot.last_id))
    for update in updates:
        while waiting and waiting[0].last_id <= update.final_id:
            yield waiting.popleft()
        yield update
    yield from waiting


class Link(Enum):
    """Relation of an update to the updates before it."""

    FIRST = "first"  # there are none
    NEXT = "next"  # no update is missing between
    DUPLICATE = "duplicate"
    BREAK = "break"  # updates are missing between, or the ids went back


class BookFollower:
    """Follows the book of one symbol through updates and snapshots in the order of their arrival.

    Updates that arrive before their snapshot are kept and applied. A missing update, or one after which the book is
    crossed, ends the book until a snapshot joins the updates after it. The same updates and snapshots give the same
    book in any chunks and with duplicates.
    """

    def __init__(self, max_recent_levels: int = MAX_RECENT_LEVELS) -> None:
        self.book: OrderBook | None = None  # None: not synchronized
        self.gap: BookGap | None = None  # that the last update opened
        self.last_id: int | None = None  # final id of the last update
        self.differences = 0  # levels of later snapshots that differed from the book
        self.snapshots_rejected = 0  # older than the kept updates, or crossed
        self._newest_us = 0
        self._recent: deque[DepthUpdate] = deque()  # in a chain, oldest first
        self._recent_levels = 0
        self._max_recent_levels = max_recent_levels
        self._pending: BookSnapshot | None = None  # newer than all updates

    def restore(self, checkpoint: BookSnapshot, event_time_us: int) -> None:
        """Continue after a checkpoint of the book after an update of this event time."""
        self._forget()
        self._pending = None
        self.book = OrderBook(checkpoint)
        self.last_id, self._newest_us = checkpoint.last_id, event_time_us

    def link_of(self, update: DepthUpdate) -> Link:
        """Return how an update relates to the last one."""
        if self.last_id is None:
            return Link.FIRST
        if update.follows(self.last_id):
            return Link.NEXT
        # Ids that go back with a newer time are a new sequence of the exchange.
        is_old = update.final_id <= self.last_id and update.event_time_us <= self._newest_us
        return Link.DUPLICATE if is_old else Link.BREAK

    def update(self, update: DepthUpdate) -> Link:
        """Take the next update; return its relation to the last one. Sets `gap` if it ends a book or a chain."""
        self.gap = None
        link = self.link_of(update)
        if link is Link.DUPLICATE:
            return link
        previous_id, self.last_id, self._newest_us = self.last_id, update.final_id, update.event_time_us
        if link is Link.BREAK and previous_id is not None:
            self._lose(BookGap(previous_id, update.first_id))
        self._keep(update)
        if self.book is not None:
            self.book.apply(update)
            if self.book.is_crossed:
                self._lose(BookGap(self.last_id, update.first_id))
        if self._pending is not None and update.final_id >= self._pending.last_id:
            pending, self._pending = self._pending, None
            self._join(pending)
        return link

    def snapshot(self, snapshot: BookSnapshot) -> None:
        """Take a snapshot: it starts the book, or is compared with it and widens its range."""
        if self.last_id is None or snapshot.last_id > self.last_id:
            self._pending = snapshot
        else:
            self._join(snapshot)

    def _keep(self, update: DepthUpdate) -> None:
        self._recent.append(update)
        self._recent_levels += len(update.bids) + len(update.asks)
        while self._recent_levels > self._max_recent_levels and len(self._recent) > 1:
            oldest = self._recent.popleft()
            self._recent_levels -= len(oldest.bids) + len(oldest.asks)

    def _lose(self, gap: BookGap) -> None:
        self.gap = gap
        self.book = None
        self._forget()

    def _forget(self) -> None:
        self._recent.clear()
        self._recent_levels = 0

    def _join(self, snapshot: BookSnapshot) -> None:
        book: OrderBook | None = None
        for update in self._recent:
            if book is not None:
                book.apply(update)
            elif update.final_id == snapshot.last_id:
                book = OrderBook(snapshot)
            elif update.joins(snapshot.last_id):
                book = OrderBook(snapshot)
                book.apply(update)
        if book is None or book.is_crossed:
            self.snapshots_rejected += 1
        elif self.book is None:
            self.book = book
        else:
            for side, other in ((self.book.bids, book.bids), (self.book.asks, book.asks)):
                self.differences += side.differences(other)
                side.widen(other)
