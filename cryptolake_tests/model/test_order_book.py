"""The order book: any chunks, duplicates and restarts give the exchange's book within the known range."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.model.book_seconds import BANDS_BPS, SECOND_US, BookSecond, BookSeconds, BookValues, book_values
from cryptolake_assets.model.order_book import (
    E8,
    BookFollower,
    BookGap,
    BookSnapshot,
    DepthUpdate,
    Levels,
    Link,
    OrderBook,
    in_order,
)

MID = 5_000  # in ticks
TICK = E8 // 10
LIMITS = (10, 20, 50)  # levels of a snapshot; a side has at most 40

NaiveBook = tuple[dict[int, int], dict[int, int]]


@dataclass
class Exchange:
    """An exchange with a random book, its depth updates, and the full book after each of its update ids."""

    random: Random
    is_spot: bool
    books: dict[int, NaiveBook] = field(default_factory=dict)  # by update id
    updates: list[DepthUpdate] = field(default_factory=list)

    def run(self, number: int) -> None:
        random = self.random
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        mid, update_id, time_us = MID, 1_000, 0
        previous_id = update_id
        for _ in range(number):
            first_id = update_id + 1 if self.is_spot else update_id + random.randint(1, 5)
            update_id = first_id - 1
            time_us += random.choice((0, 1_000, 120_000, 700_000, 2_500_000))
            changed: tuple[dict[int, int], dict[int, int]] = ({}, {})
            mid += random.randint(-3, 3)
            for _ in range(random.randint(1, 6)):
                update_id += 1
                for side, prices, of_side in ((bids, range(mid - 40, mid), 0), (asks, range(mid + 1, mid + 41), 1)):
                    for tick in [tick for tick in side if (tick >= mid if of_side == 0 else tick <= mid)]:
                        side.pop(tick)
                        changed[of_side][tick * TICK] = 0
                    for tick in random.sample(prices, 3):
                        quantity = random.choice((0, random.randint(1, 10**12)))
                        side[tick] = quantity
                        changed[of_side][tick * TICK] = quantity
                        if not quantity:
                            del side[tick]
                self.books[update_id] = (
                    {tick * TICK: quantity for tick, quantity in bids.items()},
                    {tick * TICK: quantity for tick, quantity in asks.items()},
                )
            levels = [list(side.items()) for side in changed]
            self.updates.append(
                DepthUpdate(time_us, first_id, update_id, None if self.is_spot else previous_id, *levels)
            )
            previous_id = update_id

    def snapshot(self, update_id: int) -> BookSnapshot:
        bids, asks = self.books[update_id]
        limit = self.random.choice(LIMITS)
        return BookSnapshot.of_exchange(
            update_id, sorted(bids.items(), reverse=True)[:limit], sorted(asks.items())[:limit]
        )


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    exchange = Exchange(Random(draw(st.integers(0, 10**6))), draw(st.booleans()))  # noqa: S311
    exchange.run(draw(st.integers(10, 40)))
    return exchange


def check_equal_within_range(book: OrderBook, truth: NaiveBook) -> None:
    for side, known, quantities in zip(("bids", "asks"), (book.bids, book.asks), truth, strict=True):
        sign = known.sign
        expected = {price: quantity for price, quantity in quantities.items() if known.is_known(sign * price)}
        levels = known.known()
        assert dict(levels) == expected, side
        assert levels == sorted(levels, reverse=sign > 0), side


def is_complete(book: OrderBook) -> bool:
    return book.bids.known_to is None and book.asks.known_to is None


@given(exchanges(), st.data())
def test_book_equals_the_exchange_after_each_update(exchange: Exchange, data: st.DataObject) -> None:
    updates = exchange.updates
    synced_from = data.draw(st.sampled_from(range(len(updates))), label="update that joins the snapshot")
    ids = [
        update_id
        for update_id in exchange.books
        if updates[synced_from].first_id <= update_id <= updates[synced_from].final_id
    ]
    snapshot = exchange.snapshot(data.draw(st.sampled_from(ids), label="snapshot"))
    arrives_after = data.draw(st.integers(0, len(updates)), label="updates before the snapshot arrives")
    late = data.draw(st.none() | st.sampled_from(sorted(exchange.books)), label="second snapshot")
    follower = BookFollower()
    for number, update in enumerate(updates):
        if number == arrives_after:
            follower.snapshot(snapshot)
        for _ in range(data.draw(st.integers(1, 2), label="copies")):
            follower.update(update)
            assert follower.gap is None
        if late is not None and number == len(updates) - 2:
            follower.snapshot(exchange.snapshot(late))
        assert (follower.book is None) or not follower.book.is_crossed
        if follower.book is not None:
            assert follower.book.last_id == update.final_id
            check_equal_within_range(follower.book, exchange.books[update.final_id])
    if arrives_after < len(updates):
        assert follower.book is not None
    assert follower.differences == 0


@given(exchanges(), st.data())
def test_restart_from_a_checkpoint_gives_the_same_book(exchange: Exchange, data: st.DataObject) -> None:
    updates = exchange.updates
    stop = data.draw(st.integers(1, len(updates) - 1))
    repeated = data.draw(st.integers(0, stop))
    whole = BookFollower()
    whole.snapshot(exchange.snapshot(updates[0].final_id))
    for update in updates[:stop]:
        whole.update(update)
    assert whole.book is not None
    again = BookFollower()
    again.restore(whole.book.checkpoint(), updates[stop - 1].event_time_us)
    for update in updates[stop:]:
        whole.update(update)
    for update in updates[repeated:]:
        again.update(update)
        assert again.gap is None
    assert again.book is not None
    assert again.book.checkpoint() == whole.book.checkpoint()


@given(exchanges(), st.data())
def test_removed_updates_are_found_and_no_book_is_known_until_the_next_snapshot(
    exchange: Exchange, data: st.DataObject
) -> None:
    updates = exchange.updates
    first = data.draw(st.integers(1, len(updates) - 2))
    last = data.draw(st.integers(first, len(updates) - 2))
    next_snapshot = data.draw(st.none() | st.sampled_from([update.final_id for update in updates[last + 1 :]]))
    follower = BookFollower()
    follower.snapshot(exchange.snapshot(updates[0].final_id))
    gaps = []
    for update in (*updates[:first], *updates[last + 1 :]):
        if next_snapshot is not None and update.final_id >= next_snapshot > updates[last].final_id:
            follower.snapshot(exchange.snapshot(next_snapshot))
            next_snapshot = 0
        follower.update(update)
        if follower.gap is not None:
            gaps.append(follower.gap)
            assert follower.book is None or next_snapshot == 0
        if follower.book is not None:
            check_equal_within_range(follower.book, exchange.books[update.final_id])
    assert gaps == [BookGap(updates[first - 1].final_id, updates[last + 1].first_id)]
    assert (follower.book is not None) == (next_snapshot == 0)


@given(exchanges(), st.randoms(use_true_random=False))
def test_duplicates_and_the_order_of_snapshots_do_not_change_the_seconds(exchange: Exchange, random: Random) -> None:
    snapshots = [exchange.snapshot(update_id) for update_id in random.sample(sorted(exchange.books), 2)]
    stored = exchange.updates + random.sample(exchange.updates, 3)
    stored.sort(key=lambda update: (update.event_time_us, update.final_id))
    expected = list(BookSeconds().take(in_order(exchange.updates, snapshots)))
    assert list(BookSeconds().take(in_order(stored, reversed(snapshots)))) == expected
    check_seconds(exchange, expected)


def check_seconds(exchange: Exchange, seconds: list[BookSecond]) -> None:
    newest_us = exchange.updates[-1].event_time_us
    begin_us = exchange.updates[0].event_time_us // SECOND_US * SECOND_US
    assert [second.start_us for second in seconds] == list(
        range(begin_us, newest_us // SECOND_US * SECOND_US, SECOND_US)
    )
    for second in seconds:
        before = [update for update in exchange.updates if update.event_time_us < second.start_us + SECOND_US]
        assert second.updates == sum(update.event_time_us >= second.start_us for update in before)
        if second.values is not None:
            assert second.is_synced
            if all(side[0].qty is not None for side in (second.values.bid_bands, second.values.ask_bands)):
                check_values(second.values, exchange.books[before[-1].final_id])


def check_values(values: BookValues, truth: NaiveBook) -> None:
    """Compare with quotients of decimals and naive sums."""
    context = Context(prec=100, rounding=ROUND_HALF_UP)
    bids, asks = (
        {context.scaleb(Decimal(price), -8): context.scaleb(Decimal(quantity), -8) for price, quantity in side.items()}
        for side in truth
    )
    bid, ask = max(bids), min(asks)
    bid_qty, ask_qty = bids[bid], asks[ask]
    mid = context.divide(bid + ask, Decimal(2))
    both = context.add(bid_qty, ask_qty)
    micro = context.add(context.multiply(bid, ask_qty), context.multiply(ask, bid_qty))
    assert (values.bid_price, values.bid_qty, values.ask_price, values.ask_qty) == (bid, bid_qty, ask, ask_qty)
    assert values.mid == mid
    sixteen = Decimal(1).scaleb(-16)
    for found, quotient in (
        (values.spread_bps, context.divide(10_000 * (ask - bid), mid)),
        (values.microprice, context.divide(micro, both)),
        (values.imbalance, context.divide(context.subtract(bid_qty, ask_qty), both)),
    ):
        assert found == context.quantize(quotient, sixteen)
    for bps, of_bids, of_asks in zip(BANDS_BPS, values.bid_bands, values.ask_bands, strict=True):
        distance = context.divide(context.multiply(mid, Decimal(bps)), Decimal(10_000))
        for band, side in ((of_bids, bids), (of_asks, asks)):
            within = [(price, quantity) for price, quantity in side.items() if abs(price - mid) <= distance]
            if band.qty is not None:
                assert band.qty == sum(quantity for _, quantity in within)
                assert band.notional == sum(context.multiply(*level) for level in within)


def test_band_is_null_where_it_exceeds_the_known_range() -> None:
    bids = [(price * E8, E8) for price in range(10_000, 9_990, -1)]
    asks = [(price * E8, 2 * E8) for price in range(10_001, 10_100)]
    values = book_values(OrderBook(BookSnapshot.of_exchange(1, bids, asks)))
    assert values is not None
    # The bids are known down to 9,991; mid is 10,000.5. The asks are fewer or more than any limit: all are known.
    assert [band.qty for band in values.bid_bands] == [5, None, None, None]
    assert [band.qty for band in values.ask_bands] == [10, 20, 50, 100]
    assert values.mid == Decimal("10000.5")


def test_level_at_the_end_of_a_band_is_within_it() -> None:
    values = book_values(OrderBook(BookSnapshot(1, [(9_995, 1), (9_990, 1)], [(10_005, 1), (10_010, 1)], None, None)))
    assert values is not None
    assert [band.qty for band in (*values.bid_bands, *values.ask_bands)] == [
        Decimal("1E-8"),
        *[Decimal("2E-8")] * 3,
    ] * 2


@pytest.mark.parametrize("is_spot", [True, False])
def test_seconds_around_missing_updates_are_not_synchronized(is_spot: bool) -> None:
    def update(number: int, time_ms: int) -> DepthUpdate:
        first_id = 10 * number
        previous_id = None if is_spot else first_id - 1
        return DepthUpdate(time_ms * 1000, first_id, first_id + 9, previous_id, [(E8, number)], [(2 * E8, number)])

    snapshot = BookSnapshot(9, [(E8, 1)], [(2 * E8, 1)], None, None)
    times_ms = {1: 100, 2: 1_100, 3: 1_200, 4: 4_300, 6: 6_100, 7: 8_000, 8: 9_999}
    updates = [update(number, time_ms) for number, time_ms in times_ms.items()]
    again = BookSnapshot(79, [(E8, 70)], [(2 * E8, 70)], None, None)
    seconds = list(BookSeconds().take(in_order(updates, [snapshot, again])))
    assert [(second.start_us // SECOND_US, second.updates, second.is_synced) for second in seconds] == [
        (0, 1, True),
        (1, 2, True),
        (2, 0, True),  # carried
        (3, 0, True),
        (4, 1, False),  # a missing update may belong to it
        (5, 0, False),
        (6, 1, False),
        (7, 0, False),
        (8, 1, True),
    ]
    assert all((second.values is None) != second.is_synced for second in seconds)


def test_snapshot_older_than_all_updates_does_not_join() -> None:
    follower = BookFollower()
    follower.update(DepthUpdate(0, 100, 105, 99, [(E8, 1)], []))
    follower.snapshot(BookSnapshot(98, [(E8, 1)], [(2 * E8, 1)], None, None))
    assert follower.book is None
    assert follower.snapshots_rejected == 1


def test_updates_that_wait_for_a_snapshot_are_bounded() -> None:
    follower = BookFollower(max_recent_levels=10)
    levels = [(price * E8, 1) for price in range(1, 5)]
    for number in range(100):
        follower.update(DepthUpdate(0, 10 * number, 10 * number + 9, 10 * number - 1, levels, []))
    follower.snapshot(BookSnapshot(5, [(E8, 1)], [(9 * E8, 1)], None, None))
    assert follower.book is None
    follower.snapshot(BookSnapshot(985, [(E8, 1)], [(9 * E8, 1)], None, None))
    assert follower.book is not None


def test_difference_between_a_later_snapshot_and_the_book_is_counted() -> None:
    follower = BookFollower()
    follower.snapshot(BookSnapshot(9, [(E8, 1)], [(2 * E8, 1)], None, None))
    follower.update(DepthUpdate(0, 9, 12, 8, [(E8, 5)], []))
    follower.snapshot(BookSnapshot(12, [(E8, 6)], [(2 * E8, 1)], None, None))
    assert follower.differences == 1


def test_later_snapshot_widens_the_range() -> None:
    follower = BookFollower()
    follower.snapshot(BookSnapshot(9, [(9 * E8, 1)], [(10 * E8, 1)], 9 * E8, 10 * E8))
    follower.update(DepthUpdate(0, 9, 12, 8, [(7 * E8, 5)], [(12 * E8, 5)]))
    assert follower.book is not None
    assert follower.book.bids.known() == [(9 * E8, 1)]
    follower.snapshot(
        BookSnapshot(12, [(9 * E8, 1), (8 * E8, 2), (7 * E8, 5)], [(10 * E8, 1), (12 * E8, 5)], 7 * E8, None)
    )
    assert follower.book.bids.known() == [(9 * E8, 1), (8 * E8, 2), (7 * E8, 5)]
    assert follower.book.asks.known() == [(10 * E8, 1), (12 * E8, 5)]
    assert follower.differences == 0


def chained(number: int, bids: Levels, asks: Levels, time_us: int = 0) -> DepthUpdate:
    return DepthUpdate(time_us or number, 10 * number, 10 * number + 9, 10 * number - 1, bids, asks)


def is_synced(follower: BookFollower) -> bool:
    return follower.book is not None


def test_crossed_book_is_lost_until_the_next_snapshot() -> None:
    follower = BookFollower()
    follower.snapshot(BookSnapshot(9, [(E8, 1)], [(3 * E8, 1)], None, None))
    follower.update(chained(1, [(2 * E8, 1)], []))
    assert is_synced(follower)
    follower.update(chained(2, [(3 * E8, 1)], []))
    assert follower.gap == BookGap(29, 20)
    assert not is_synced(follower)
    assert follower.update(chained(3, [(3 * E8, 0)], [])) is Link.NEXT
    follower.snapshot(BookSnapshot(25, [(3 * E8, 1)], [(3 * E8, 1)], None, None))
    assert not is_synced(follower)
    follower.snapshot(BookSnapshot(39, [(3 * E8, 1)], [(3 * E8, 1)], None, None))
    assert not is_synced(follower)
    assert follower.snapshots_rejected == 2
    follower.snapshot(BookSnapshot(39, [(2 * E8, 1)], [(3 * E8, 1)], None, None))
    assert is_synced(follower)


def test_ids_that_go_back_open_a_gap_and_duplicates_do_not() -> None:
    follower = BookFollower()
    follower.snapshot(BookSnapshot(109, [(E8, 1)], [(3 * E8, 1)], None, None))
    first = chained(11, [(E8, 2)], [], time_us=1_000)
    assert follower.update(first) is Link.FIRST
    assert follower.update(first) is Link.DUPLICATE
    assert is_synced(follower)
    assert follower.update(chained(2, [(E8, 2)], [], time_us=2_000)) is Link.BREAK
    assert follower.gap == BookGap(119, 20)
    assert not is_synced(follower)
    follower.snapshot(BookSnapshot(29, [(E8, 1)], [(3 * E8, 1)], None, None))
    assert is_synced(follower)
