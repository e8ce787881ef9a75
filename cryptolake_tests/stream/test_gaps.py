"""Which trades are missing: every hole in the ids, none that is none, and closed when they come after all."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.lake.gaps import ClosedBy, GapOutcome, OpenBecause, TradeGap
from cryptolake_assets.stream.gaps import MAX_OPEN, MAX_STEP_IDS, GapTracker, GapWriter, KnownTrade, LastTrade
from cryptolake_tests.support.fakes import MemoryGaps

NOW = datetime(2024, 7, 18, 12, tzinfo=UTC)


def tracker() -> GapTracker:
    return GapTracker("binance_futures", "trade", lambda: NOW)


def fed(ids: Iterable[int], into: GapTracker | None = None, symbol: str = "BTCUSDT") -> GapTracker:
    """The event time of each trade is its id in µs."""
    found = into or tracker()
    for trade_id in ids:
        found.see(symbol, trade_id, trade_id)
    return found


def opened(found: GapTracker) -> list[tuple[int, int, int]]:
    return sorted((gap.first_missing_id, gap.last_missing_id, gap.ids_missing) for gap in found.take_open().values())


def gap(first: int, last: int) -> TradeGap:
    return TradeGap("binance_futures", "BTCUSDT", "trade", first, last, last - first + 1, first - 1, last + 1, NOW)


def test_a_hole_is_between_the_trade_before_and_the_one_behind() -> None:
    assert list(fed([1, 2, 6, 7]).take_open().values()) == [gap(3, 5)]


def test_repeats_and_a_replay_from_the_start_are_no_holes() -> None:
    assert opened(fed([1, 2, 3, 2, 3, 4, 1, 2, 3, 4, 5])) == []


def test_symbols_have_sequences_of_their_own() -> None:
    found = fed([1, 3], fed([100, 101], symbol="ETHUSDT"))
    assert [gap.symbol for gap in found.take_open().values()] == ["BTCUSDT"]


def test_a_gap_is_closed_by_its_last_trade() -> None:
    found = fed([1, 5, 3])
    assert opened(found) == [(2, 4, 2)]
    assert found.take_closed() == []
    fed([2, 2, 4], found)
    (closed,) = found.take_closed()
    assert (closed.first_missing_id, closed.ids_missing, closed.outcome) == (2, 0, GapOutcome.ARRIVED)
    assert (closed.closed_at, closed.closed_by) == (NOW, ClosedBy.STREAM)
    assert opened(found) == []
    assert found.ids_missing == 0


def test_one_id_out_of_all_reason_opens_nothing_unless_the_next_goes_on_from_it() -> None:
    far = 5 + MAX_STEP_IDS * 10
    assert opened(fed([4, 5, far, 6, 8])) == [(7, 7, 1)]
    assert opened(fed([4, 5, far, far + 1])) == [(6, far - 1, far - 6)]


def test_what_an_earlier_process_left_open_is_closed_by_a_replay() -> None:
    found = tracker()
    found.resume([gap(3, 5), TradeGap("other", "BTCUSDT", "trade", 2, 2, 1, 1, 3, NOW)])
    fed(range(1, 9), found)
    assert [closed.first_missing_id for closed in found.take_closed()] == [3]


def test_what_is_still_missing_in_a_replay_stays_one_gap() -> None:
    found = tracker()
    found.resume([gap(3, 5)])
    fed([1, 2, 6, 7], found)
    assert opened(found) == []
    assert found.ids_missing == 3


def test_what_an_earlier_process_had_last_makes_the_first_trade_show_a_hole() -> None:
    found = tracker()
    found.take_up((), {"BTCUSDT": LastTrade(10, 10), "ETHUSDT": LastTrade(10, 10)})
    fed([11, 12], found, "ETHUSDT")
    fed([20], found)
    (hole,) = found.take_open().values()
    assert (hole.symbol, hole.first_missing_id, hole.last_missing_id) == ("BTCUSDT", 11, 19)
    assert (hole.after_us, hole.before_us) == (10, 20)


def test_a_replay_from_before_what_is_known_is_followed_from_its_first_trade() -> None:
    found = tracker()
    found.take_up((), {"BTCUSDT": LastTrade(100, 100)})
    fed([1, 2, 3], found)
    assert opened(found) == []
    fed([6], found)
    assert opened(found) == [(4, 5, 2)]
    another = tracker()
    another.take_up((), {"BTCUSDT": LastTrade(100, 100_000)})
    assert opened(fed([200, 201], another)) == [], "another recording, of an earlier day"


def on_topic(*ids: int, fetched: tuple[int, ...] = ()) -> list[KnownTrade]:
    return [KnownTrade("BTCUSDT", number, number, number in fetched) for number in ids]


def test_holes_at_the_end_of_the_topic_are_taken_up() -> None:
    """A producer was killed before it could tell of them; of one it had fetched the trades already."""
    found = tracker()
    found.resume([gap(3, 4)])
    found.take_up(on_topic(1, 2, 5, 9, 10, 12, 3, 4, 11, fetched=(3, 4, 11)), {"BTCUSDT": LastTrade(11, 11)})
    assert opened(found) == [(6, 8, 3)]
    assert [(closed.first_missing_id, closed.outcome) for closed in found.take_closed()] == [
        (3, GapOutcome.REPAIRED),
        (11, GapOutcome.REPAIRED),
    ]
    assert found.last("BTCUSDT") == LastTrade(12, 12)


def test_what_was_fetched_last_is_gone_on_from() -> None:
    found = tracker()
    found.take_up(on_topic(3, 4, 50, 51, 52, 53, fetched=(3, 4, 52, 53)), {})
    assert opened(fed([55], found)) == [(54, 54, 1)]


def test_a_replay_on_the_topic_that_began_anew_has_no_hole() -> None:
    found = tracker()
    found.take_up(on_topic(90, 91, 1, 2), {})
    fed([1, 2, 3], found)
    assert opened(found) == []
    assert found.last("BTCUSDT") == LastTrade(3, 3)


def test_trades_that_only_the_exchange_has_are_a_hole() -> None:
    found = fed([1])
    found.reach("BTCUSDT", LastTrade(4, 40))
    found.reach("BTCUSDT", LastTrade(3, 30))
    found.reach("ETHUSDT", LastTrade(3, 30))
    (hole,) = found.take_open().values()
    assert (hole.first_missing_id, hole.last_missing_id, hole.after_us, hole.before_us) == (2, 4, 1, 40)
    assert opened(fed([5], found)) == []


def test_a_hole_around_an_open_one_is_the_rest_of_it() -> None:
    """A producer was killed before Kafka had the trade behind a gap that is in the ledger."""
    found = tracker()
    found.resume([gap(3, 5)])
    found.take_up((), {"BTCUSDT": LastTrade(2, 2)})
    fed([9], found)
    assert opened(found) == [(6, 8, 3)]
    found = tracker()
    found.resume([gap(4, 5)])
    found.take_up((), {"BTCUSDT": LastTrade(2, 2)})
    fed([9], found)
    assert opened(found) == [(3, 3, 1), (6, 8, 3)]
    assert found.ids_missing == 6


def test_ids_outside_of_the_order_book_close_a_gap() -> None:
    found = fed([1, 6])
    found.settle("BTCUSDT", 3, 4)
    assert opened(found) == [(2, 5, 2)]
    fed([5], found)
    found.settle("BTCUSDT", 1, 2)
    (closed,) = found.take_closed()
    assert (closed.outcome, closed.ids_not_order_book, closed.closed_by) == (GapOutcome.REPAIRED, 3, ClosedBy.REST)
    fed([8], found)
    found.settle("BTCUSDT", 7, 7)
    assert [gap.outcome for gap in found.take_closed()] == [GapOutcome.NOT_ORDER_BOOK]


def test_of_a_gap_beyond_the_limit_the_older_part_stays_and_says_so() -> None:
    found = GapTracker("binance_futures", "trade", lambda: NOW, most_ids=3)
    fed([1, 10], found)
    older, newer = found.take_open().values()
    assert (older.first_missing_id, older.last_missing_id, older.open_because) == (2, 6, OpenBecause.BEYOND_LIMIT)
    assert (newer.first_missing_id, newer.last_missing_id, newer.open_because) == (7, 9, None)
    assert [(wanted.first, wanted.last) for wanted in found.missing()] == [(7, 9)]
    again = GapTracker("binance_futures", "trade", lambda: NOW, most_ids=3)
    again.resume([older, newer])
    assert [(wanted.first, wanted.last) for wanted in again.missing()] == [(7, 9)]


def test_ids_prove_the_time_behind_the_last_open_gap() -> None:
    found = tracker()
    at = partial(found.see, "BTCUSDT")
    for number, second in ((1, 10), (2, 20), (5, 50), (6, 60)):
        at(number, second * 1_000_000)

    def proven(connected_from_s: int) -> tuple[int, int] | None:
        interval = connected_from_s * 1000, 10**9
        return found.proven_before(["BTCUSDT", "ETHUSDT"], interval).get("BTCUSDT")

    assert proven(100) == (50_001, 60_000)
    assert proven(51) is None, "the connection covers it by itself"
    assert found.proven_before(["BTCUSDT"], None) == {}
    at(3, 30_000_000)
    found.fill("BTCUSDT", 4, 40_000_000)
    assert proven(51) == (10_001, 60_000)
    found.take_up((), {"BTCUSDT": LastTrade(90, 900_000_000)})
    assert proven(1000) is None, "what lies between is not known"
    at(91, 910_000_000)
    assert proven(1000) == (900_001, 910_000)


def test_memory_is_bounded_on_a_stream_of_holes() -> None:
    found = fed(range(0, 4 * MAX_OPEN, 2))
    gaps = found.take_open()
    assert len(gaps) == MAX_OPEN
    assert sum(gap.ids_missing for gap in gaps.values()) == found.ids_missing == 2 * MAX_OPEN - 1
    assert max(gap.last_missing_id for gap in gaps.values()) == 4 * MAX_OPEN - 3


@given(st.sets(st.integers(1, 60)), st.randoms(use_true_random=False))
def test_every_deleted_range_is_found_and_closed_when_its_trades_come_in_any_order(
    deleted: set[int], random: object
) -> None:
    emitted = range(62)
    found = fed(trade_id for trade_id in emitted if trade_id not in deleted)
    missing = {
        trade_id
        for first, last, number in opened(found)
        for trade_id in range(first, last + 1)
        if number == last - first + 1
    }
    assert missing == deleted
    late = sorted(deleted)
    random.shuffle(late)  # type: ignore[attr-defined]
    fed([*late, *late], found)
    assert found.ids_missing == 0
    assert {gap.ids_missing for gap in found.take_closed()} <= {0}


async def test_what_could_not_be_written_stays_due_and_a_closed_gap_stays_closed() -> None:
    sink, found = MemoryGaps(), tracker()
    writer = GapWriter(sink, found)
    fed([1, 3], found)
    sink.failures_left = 1
    assert not await writer.write()
    fed([2], found)
    writer.close(found.take_closed(), lambda _: 1, {1: 7})
    assert await writer.write()
    (written,) = sink.gaps.values()
    assert (written.outcome, written.kafka_partition, written.kafka_offset) == (GapOutcome.ARRIVED, 1, 7)


async def test_nothing_is_written_where_nothing_is_missing() -> None:
    sink, found = MemoryGaps(), tracker()
    fed([1, 2], found)
    assert await GapWriter(sink, found).write()
    assert sink.writes == 0
