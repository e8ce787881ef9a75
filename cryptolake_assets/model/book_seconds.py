"""The state of a book at the end of each second: top, derived values and bands. Pure.

Values are exact: sums of the exchange's digits, quotients rounded half up to 16 decimals.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from operator import mul
from typing import Final, NamedTuple

from msgspec import Struct

from cryptolake_assets.model.order_book import (
    BookFollower,
    BookGap,
    BookSide,
    BookSnapshot,
    DepthUpdate,
    Link,
    OrderBook,
)

SECOND_US: Final = 1_000_000
BANDS_BPS: Final = (5, 10, 25, 50)
CHECKPOINT_S: Final = 30  # a book at an instant applies the updates of at most this time
_E16: Final = 10**16
_BPS: Final = 10_000
_EXACT: Final = Context(prec=80)  # above all sums: the default context rounds to 28 digits


class Band(Struct, frozen=True, gc=False):
    """Sums of one side within a distance of mid; None where the distance exceeds the known range."""

    qty: Decimal | None
    notional: Decimal | None


UNKNOWN_BAND: Final = Band(None, None)


class BookValues(Struct, frozen=True, gc=False):
    """Values of a book with both sides."""

    bid_price: Decimal
    bid_qty: Decimal
    ask_price: Decimal
    ask_qty: Decimal
    mid: Decimal
    spread_bps: Decimal
    microprice: Decimal
    imbalance: Decimal
    bid_bands: tuple[Band, ...]  # one per `BANDS_BPS`
    ask_bands: tuple[Band, ...]


class BookSecond(Struct, frozen=True, gc=False):
    """The book after the last update whose event time lies before the end of a second."""

    start_us: int
    updates: int  # updates of the second
    is_synced: bool  # False: updates may be missing, or no snapshot was received yet
    values: BookValues | None  # None: not synchronized, or a side is empty


def book_values(book: OrderBook) -> BookValues | None:
    """Return the values of a book; None if a side is empty."""
    bid, ask = book.bids.best, book.asks.best
    if bid is None or ask is None:
        return None
    (bid_price, bid_qty), (ask_price, ask_qty) = bid, ask
    prices, quantities = bid_price + ask_price, bid_qty + ask_qty
    return BookValues(
        bid_price=_e8(bid_price),
        bid_qty=_e8(bid_qty),
        ask_price=_e8(ask_price),
        ask_qty=_e8(ask_qty),
        mid=_e16(prices * (_E16 // 10**8) // 2),
        spread_bps=_quotient(2 * _BPS * (ask_price - bid_price), prices),
        microprice=_quotient(bid_price * ask_qty + ask_price * bid_qty, quantities * 10**8),
        imbalance=_quotient(bid_qty - ask_qty, quantities),
        bid_bands=_bands(book.bids, prices),
        ask_bands=_bands(book.asks, prices),
    )


def _bands(side: BookSide, prices: int) -> tuple[Band, ...]:
    """Return the sums within each band; `prices` is twice mid."""
    keys, quantities, sign = side.keys, side.quantities, side.sign
    bands: list[Band] = []
    end, qty, notional = len(keys), 0, 0
    for bps in BANDS_BPS:
        # The furthest key within the band: key >= sign * mid * (1 - sign * bps / 10,000), rounded up.
        furthest = -(-sign * prices * (_BPS - sign * bps) // (2 * _BPS))
        if not side.is_known(furthest):
            bands.append(UNKNOWN_BAND)
            continue
        start = bisect_left(keys, furthest, 0, end)
        added = keys[start:end]
        of_added = [quantities[key] for key in added]
        qty += sum(of_added)
        notional += sign * sum(map(mul, added, of_added))
        end = start
        bands.append(Band(_e8(qty), _e16(notional)))
    return tuple(bands)


def _e8(units: int) -> Decimal:
    return _EXACT.scaleb(Decimal(units), -8)


def _e16(units: int) -> Decimal:
    return _EXACT.scaleb(Decimal(units), -16)


def _quotient(dividend: int, divisor: int) -> Decimal:
    """Return a quotient rounded half up (away from zero) to 16 decimals; the divisor is above 0."""
    rounded = (2 * abs(dividend) * _E16 + divisor) // (2 * divisor)
    return _e16(rounded if dividend >= 0 else -rounded)


Top = tuple[int, int, int, int]  # bid price, bid quantity, ask price, ask quantity


class Checkpoint(NamedTuple):
    """A book at an instant."""

    time_us: int
    event_time_us: int  # of its last update
    book: BookSnapshot


@dataclass
class GapOfBook:
    """An interval without a book."""

    from_us: int  # event time of the last sound update
    ids: BookGap
    next_us: int  # event time of the next update
    is_crossed: bool
    synced_us: int | None = None  # event time of the update that a snapshot joins


@dataclass(frozen=True)
class DifferentTop:
    """A top that differs from the exchange's own of the same update id."""

    update_id: int
    top: Top | None
    of_exchange: Top


class BookSeconds:
    """Makes the seconds, checkpoints and gaps of one symbol from its updates and snapshots in order.

    A second is yielded once an update of a later second proves that it is over; updates that are missing before it
    make all seconds since the last update unsynchronized.
    """

    def __init__(
        self,
        start: Checkpoint | None = None,
        *,
        checkpoint_s: int = CHECKPOINT_S,
        open_gap: GapOfBook | None = None,
        tops: Mapping[int, Top] | None = None,
    ) -> None:
        """Begin at the instant of a checkpoint, or with the first update.

        `open_gap` is the last gap, if it has no end yet. `tops` are the exchange's own by update id: they are compared.
        """
        self.checkpoints: list[Checkpoint] = []
        self.gaps: list[GapOfBook] = [open_gap] if open_gap else []
        self.tops_compared = 0
        self.tops_different: list[DifferentTop] = []
        self.follower = BookFollower()
        self._checkpoint_us = checkpoint_s * SECOND_US
        self._tops = tops or {}
        self.taken = 0  # distinct updates
        self.began_us = 0  # start of the first second
        self._start_us: int | None = None
        self._updates = 0
        self._newest_us = 0  # event times of a chain are taken as non-decreasing
        if start is not None:
            self.follower.restore(start.book, start.event_time_us)
            self._start_us = self.began_us = start.time_us
            self._newest_us = start.event_time_us

    @property
    def unfinished(self) -> int:
        """Number of updates of the last second, which is not over."""
        return self._updates

    def take(self, items: Iterable[DepthUpdate | BookSnapshot]) -> Iterator[BookSecond]:
        """Take the next items; yield the seconds that are over."""
        follower = self.follower
        for item in items:
            if isinstance(item, BookSnapshot):
                was_synced = follower.book is not None
                follower.snapshot(item)
                if not was_synced and follower.book is not None:
                    self._close_gap()
                continue
            link = follower.link_of(item)
            if link is Link.DUPLICATE:
                continue
            last_us = self._newest_us
            is_linked = link is not Link.BREAK
            self._newest_us = max(last_us, item.event_time_us) if is_linked else item.event_time_us
            yield from self._until(self._newest_us, last_us, is_linked=is_linked)
            was_synced = follower.book is not None
            follower.update(item)
            self._updates += 1
            self.taken += 1
            if follower.gap is not None:
                self.gaps.append(GapOfBook(last_us, follower.gap, self._newest_us, is_crossed=is_linked))
            elif not was_synced and follower.book is not None:
                self._close_gap()
            if item.final_id in self._tops and follower.book is not None:
                self._compare(item.final_id, follower.book)

    def _close_gap(self) -> None:
        if self.gaps and self.gaps[-1].synced_us is None:
            self.gaps[-1].synced_us = self._newest_us

    def _compare(self, update_id: int, book: OrderBook) -> None:
        bid, ask = book.bids.best, book.asks.best
        top = None if bid is None or ask is None else (*bid, *ask)
        self.tops_compared += 1
        if top != self._tops[update_id]:
            self.tops_different.append(DifferentTop(update_id, top, self._tops[update_id]))

    def _until(self, time_us: int, last_us: int, *, is_linked: bool) -> Iterator[BookSecond]:
        """Yield the seconds before the one of `time_us`; the last update has the event time `last_us`."""
        start_us = time_us - time_us % SECOND_US
        if self._start_us is None:
            self._start_us = self.began_us = start_us
        if self._start_us >= start_us:
            return
        book = self.follower.book if is_linked else None
        values = None if book is None else book_values(book)
        checkpoint: BookSnapshot | None = None
        while self._start_us < start_us:
            yield BookSecond(self._start_us, self._updates, book is not None, values)
            self._start_us += SECOND_US
            self._updates = 0
            if book is not None and self._start_us % self._checkpoint_us == 0:
                checkpoint = checkpoint or book.checkpoint()
                self.checkpoints.append(Checkpoint(self._start_us, last_us, checkpoint))
