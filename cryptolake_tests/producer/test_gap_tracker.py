"""The gap tracker finds every gap in the ids, no false ones, and closes gaps when their trades arrive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, OpenBecause, Rejection, TradeGap
from cryptolake_assets.model.events import CONTRACT_VERSION
from cryptolake_assets.producer.gap_tracker import (
    MAX_OPEN,
    MAX_STEP_IDS,
    GapTracker,
    KnownTrade,
    LastTrade,
)
from cryptolake_assets.producer.gap_writer import GapWriter
from cryptolake_assets.producer.open_gap import MissingRange
from cryptolake_tests.support.fakes import MemoryGaps

NOW = datetime(2024, 7, 18, 12, tzinfo=UTC)
REASON = "price_format: x"


def tracker() -> GapTracker:
    return GapTracker("binance_futures", "trade", lambda: NOW)


def fed(ids: Iterable[int], into: GapTracker | None = None, symbol: str = "BTCUSDT") -> GapTracker:
    """Feed trades whose event time in µs is their id."""
    found = into or tracker()
    for trade_id in ids:
        found.see(symbol, trade_id, trade_id)
    return found


def opened(found: GapTracker) -> list[tuple[int, int, int]]:
    return sorted((gap.first_missing_id, gap.last_missing_id, gap.ids_missing) for gap in found.take_open().values())


def gap(first: int, last: int) -> TradeGap:
    return TradeGap("binance_futures", "BTCUSDT", "trade", first, last, last - first + 1, first - 1, last + 1, NOW)


def test_gap_is_between_the_trades_before_and_after_it() -> None:
    assert list(fed([1, 2, 6, 7]).take_open().values()) == [gap(3, 5)]


def test_see_returns_whether_the_trade_was_missing() -> None:
    found = GapTracker("binance_futures", "trade", lambda: NOW)
    was_missing = [found.see("BTCUSDT", trade_id, trade_id) for trade_id in (1, 4, 2, 2, 5, 3, 1)]
    assert was_missing == [False, False, True, False, False, True, False]


def test_duplicates_and_a_replay_from_the_start_open_no_gap() -> None:
    assert opened(fed([1, 2, 3, 2, 3, 4, 1, 2, 3, 4, 5])) == []


def test_each_symbol_has_its_own_sequence() -> None:
    found = fed([1, 3], fed([100, 101], symbol="ETHUSDT"))
    assert [gap.symbol for gap in found.take_open().values()] == ["BTCUSDT"]


def test_gap_closes_with_its_last_missing_trade() -> None:
    found = fed([1, 5, 3])
    assert opened(found) == [(2, 4, 2)]
    assert found.take_closed() == []
    fed([2, 2, 4], found)
    (closed,) = found.take_closed()
    assert (closed.first_missing_id, closed.ids_missing, closed.outcome) == (2, 0, GapOutcome.ARRIVED)
    assert (closed.closed_at, closed.closed_by) == (NOW, ClosedBy.STREAM)
    assert opened(found) == []
    assert found.ids_missing == 0


def test_implausible_id_opens_a_gap_only_if_the_next_trade_continues_from_it() -> None:
    far = 5 + MAX_STEP_IDS * 10
    assert opened(fed([4, 5, far, 6, 8])) == [(7, 7, 1)]
    assert opened(fed([4, 5, far, far + 1])) == [(6, far - 1, far - 6)]


def test_step_up_to_the_limit_opens_a_gap_at_once() -> None:
    first = 4_217_896_584
    assert opened(fed([first, first + MAX_STEP_IDS])) == [(first + 1, first + MAX_STEP_IDS - 1, MAX_STEP_IDS - 1)]
    assert opened(fed([first, first + MAX_STEP_IDS + 1])) == []


def test_duplicate_at_the_same_time_opens_no_gap() -> None:
    found = tracker()
    for trade_id in (5, 6, 5, 7):
        found.see("BTCUSDT", trade_id, 10)
    assert opened(found) == []


def test_trade_with_an_earlier_time_continues_the_sequence() -> None:
    found = tracker()
    for trade_id, time_us in ((1, 10), (2, 5), (5, 12)):
        found.see("BTCUSDT", trade_id, time_us)
    assert opened(found) == [(3, 4, 2)]


def test_replay_closes_a_gap_of_an_earlier_process() -> None:
    found = tracker()
    found.resume([gap(3, 5), TradeGap("other", "BTCUSDT", "trade", 2, 2, 1, 1, 3, NOW)])
    fed(range(1, 9), found)
    assert [closed.first_missing_id for closed in found.take_closed()] == [3]


def test_gap_that_a_replay_does_not_fill_stays_one_gap() -> None:
    found = tracker()
    found.resume([gap(3, 5)])
    fed([1, 2, 6, 7], found)
    assert opened(found) == []
    assert found.ids_missing == 3


def test_first_trade_after_a_restart_reveals_the_gap_since_the_last_one() -> None:
    found = tracker()
    found.resume_from((), {"BTCUSDT": LastTrade(10, 10), "ETHUSDT": LastTrade(10, 10)})
    fed([11, 12], found, "ETHUSDT")
    fed([20], found)
    (found_gap,) = found.take_open().values()
    assert (found_gap.symbol, found_gap.first_missing_id, found_gap.last_missing_id) == ("BTCUSDT", 11, 19)
    assert (found_gap.after_us, found_gap.before_us) == (10, 20)


def test_replay_from_before_the_last_trade_starts_a_new_sequence() -> None:
    found = tracker()
    found.resume_from((), {"BTCUSDT": LastTrade(100, 100)})
    fed([1, 2, 3], found)
    assert opened(found) == []
    fed([6], found)
    assert opened(found) == [(4, 5, 2)]
    another = tracker()
    another.resume_from((), {"BTCUSDT": LastTrade(100, 100_000)})
    assert opened(fed([200, 201], another)) == [], "another recording, of an earlier day"


def test_lower_id_at_the_same_time_starts_a_new_sequence() -> None:
    found = tracker()
    found.resume_from((), {"BTCUSDT": LastTrade(100, 100)})
    found.see("BTCUSDT", 50, 100)
    found.see("BTCUSDT", 53, 100)
    assert opened(found) == [(51, 52, 2)]


def test_gap_after_a_restart_is_found_if_both_trades_have_the_same_time() -> None:
    found = tracker()
    found.resume_from((), {"BTCUSDT": LastTrade(10, 10)})
    found.see("BTCUSDT", 15, 10)
    assert opened(found) == [(11, 14, 4)]


def test_symbol_without_trades_has_no_last_trade() -> None:
    found = tracker()
    found.resume([gap(3, 5)])
    assert found.last("BTCUSDT") is None
    assert found.last("ETHUSDT") is None


def test_resumed_gap_counts_all_its_ids_again() -> None:
    """The ledger does not name the ids that arrived before the restart."""
    found = tracker()
    found.resume([replace(gap(3, 5), ids_missing=1, ids_not_order_book=2)])
    assert found.ids_missing == 3
    found.mark_not_order_book("BTCUSDT", 3, 4)
    assert [(open_gap.ids_missing, open_gap.ids_not_order_book) for open_gap in found.take_open().values()] == [(1, 2)]
    found.fill("BTCUSDT", 5, 5)
    assert [(closed.ids_missing, closed.ids_not_order_book) for closed in found.take_closed()] == [(0, 2)]


def on_topic(*ids: int, fetched: tuple[int, ...] = ()) -> list[KnownTrade]:
    return [KnownTrade("BTCUSDT", number, number, number in fetched) for number in ids]


def test_gaps_at_the_end_of_the_topic_are_opened() -> None:
    """A producer was killed before it recorded them; it had already fetched the trades of one gap."""
    found = tracker()
    found.resume([gap(3, 4)])
    found.resume_from(on_topic(1, 2, 5, 9, 10, 12, 3, 4, 11, fetched=(3, 4, 11)), {"BTCUSDT": LastTrade(11, 11)})
    assert opened(found) == [(6, 8, 3)]
    assert [(closed.first_missing_id, closed.outcome) for closed in found.take_closed()] == [
        (3, GapOutcome.REPAIRED),
        (11, GapOutcome.REPAIRED),
    ]
    assert found.last("BTCUSDT") == LastTrade(12, 12)


def test_sequence_continues_from_the_last_fetched_trade() -> None:
    found = tracker()
    found.resume_from(on_topic(3, 4, 50, 51, 52, 53, fetched=(3, 4, 52, 53)), {})
    assert opened(fed([55], found)) == [(54, 54, 1)]


def test_restarted_replay_on_the_topic_has_no_gap() -> None:
    found = tracker()
    found.resume_from(on_topic(90, 91, 1, 2), {})
    fed([1, 2, 3], found)
    assert opened(found) == []
    assert found.last("BTCUSDT") == LastTrade(3, 3)


def test_newer_trades_at_the_exchange_open_a_gap() -> None:
    found = fed([1])
    found.extend_to("BTCUSDT", LastTrade(4, 40))
    found.extend_to("BTCUSDT", LastTrade(3, 30))
    found.extend_to("BTCUSDT", LastTrade(4, 40))
    found.extend_to("ETHUSDT", LastTrade(3, 30))
    (found_gap,) = found.take_open().values()
    assert (found_gap.first_missing_id, found_gap.last_missing_id, found_gap.after_us, found_gap.before_us) == (
        2,
        4,
        1,
        40,
    )
    assert found_gap.symbol == "BTCUSDT"
    assert found.last("BTCUSDT") == LastTrade(4, 40)
    assert found.last("ETHUSDT") is None
    assert opened(fed([5], found)) == []


def test_gap_around_an_open_gap_contains_only_the_other_ids() -> None:
    """A producer was killed before Kafka had the trade after a gap of the ledger."""
    found = tracker()
    found.resume([gap(3, 5)])
    found.resume_from((), {"BTCUSDT": LastTrade(2, 2)})
    fed([9], found)
    assert opened(found) == [(6, 8, 3)]
    found = tracker()
    found.resume([gap(4, 5)])
    found.resume_from((), {"BTCUSDT": LastTrade(2, 2)})
    fed([9], found)
    assert opened(found) == [(3, 3, 1), (6, 8, 3)]
    assert found.ids_missing == 6


def test_open_gap_at_the_edge_of_a_new_one_keeps_its_ids() -> None:
    for resumed, expected in ((gap(3, 3), (4, 8, 5)), (gap(8, 8), (3, 7, 5)), (gap(5, 12), (3, 4, 2))):
        found = tracker()
        found.resume([resumed])
        found.resume_from((), {"BTCUSDT": LastTrade(2, 2)})
        fed([9], found)
        assert expected in opened(found)
        ids = [trade_id for missing in found.missing() for trade_id in range(missing.first, missing.last + 1)]
        assert sorted(ids) == [trade_id for trade_id in range(3, max(8, resumed.last_missing_id) + 1) if trade_id != 9]


def test_ids_outside_the_order_book_may_extend_beyond_a_gap() -> None:
    found = fed([1, 6])
    found.mark_not_order_book("BTCUSDT", 4, 10)
    assert [(missing.first, missing.last) for missing in found.missing()] == [(2, 3)]
    found.mark_not_order_book("BTCUSDT", 0, 3)
    assert [(closed.outcome, closed.ids_not_order_book) for closed in found.take_closed()] == [
        (GapOutcome.NOT_ORDER_BOOK, 4)
    ]


def test_ids_outside_the_order_book_close_a_gap() -> None:
    found = fed([1, 6])
    found.mark_not_order_book("BTCUSDT", 3, 4)
    assert opened(found) == [(2, 5, 2)]
    fed([5], found)
    found.mark_not_order_book("BTCUSDT", 1, 2)
    (closed,) = found.take_closed()
    assert (closed.outcome, closed.ids_not_order_book, closed.closed_by) == (GapOutcome.REPAIRED, 3, ClosedBy.REST)
    fed([8], found)
    found.mark_not_order_book("BTCUSDT", 7, 7)
    assert [gap.outcome for gap in found.take_closed()] == [GapOutcome.NOT_ORDER_BOOK]


def test_older_part_of_a_gap_beyond_the_limit_stays_open_with_that_reason() -> None:
    found = GapTracker("binance_futures", "trade", lambda: NOW, max_ids=3)
    fed([1, 10], found)
    older, newer = found.take_open().values()
    assert (older.first_missing_id, older.last_missing_id, older.open_because) == (2, 6, OpenBecause.BEYOND_LIMIT)
    assert (newer.first_missing_id, newer.last_missing_id, newer.open_because) == (7, 9, None)
    assert [(missing.first, missing.last) for missing in found.missing()] == [(7, 9)]
    resumed = GapTracker("binance_futures", "trade", lambda: NOW, max_ids=3)
    resumed.resume([older, newer])
    assert [(missing.first, missing.last) for missing in resumed.missing()] == [(7, 9)]


def parts(max_ids: int, *ids: int) -> tuple[GapTracker, TradeGap, TradeGap]:
    """Return a tracker whose gap is larger than its limit, and the gap's older and newer part."""
    found = fed(ids, GapTracker("binance_futures", "trade", lambda: NOW, max_ids=max_ids))
    older, newer = found.take_open().values()
    return found, older, newer


def test_single_id_beyond_the_limit_is_a_separate_gap() -> None:
    found, older, newer = parts(3, 1, 6)
    assert (older.symbol, older.first_missing_id, older.last_missing_id) == ("BTCUSDT", 2, 2)
    assert (newer.symbol, newer.first_missing_id, newer.last_missing_id) == ("BTCUSDT", 3, 5)
    assert found.ids_missing == 4


def test_first_fetched_trade_bounds_the_part_beyond_the_limit() -> None:
    found, older, newer = parts(3, 1, 10)
    found.fill("BTCUSDT", 8, 8)
    assert older.key not in found.take_open(), "trade 7 is still missing"
    found.fill("BTCUSDT", 7, 7)
    assert found.take_open() == {
        older.key: replace(older, before_us=7),
        newer.key: replace(newer, ids_missing=1),
    }


def test_fetched_trade_bounds_a_gap_only_with_a_time_inside_it() -> None:
    for time_us, before_us in ((0, None), (1, 1), (9, 9), (10, None), (11, None)):
        found, older, _ = parts(3, 1, 10)
        found.fill("BTCUSDT", 7, time_us)
        changed = found.take_open().get(older.key)
        assert (changed and changed.before_us) == before_us


def test_explain_sets_the_reason_of_the_gap_with_the_range() -> None:
    found = fed([1, 5, 9])
    earlier, later = found.take_open().values()
    with capture_logs() as logs:
        found.explain(MissingRange("BTCUSDT", 2, 3), OpenBecause.NEEDS_KEY)
        assert found.take_open() == {earlier.key: replace(earlier, open_because=OpenBecause.NEEDS_KEY)}
        found.explain(MissingRange("BTCUSDT", 4, 4), OpenBecause.NEEDS_KEY)
        assert found.take_open() == {}, "the reason is already set"
        found.explain(MissingRange("BTCUSDT", 8, 8), OpenBecause.NOT_AT_EXCHANGE)
        assert found.take_open() == {later.key: replace(later, open_because=OpenBecause.NOT_AT_EXCHANGE)}
        found.explain(MissingRange("BTCUSDT", 5, 5), OpenBecause.NEEDS_KEY)
        assert found.take_open() == {}, "no gap contains the id"
    common = {"event": "gap_kept_open", "log_level": "warning", "symbol": "BTCUSDT", "stream": "trade"}
    assert logs == [
        {**common, "because": "needs_key", "first_missing_id": 2, "last_missing_id": 4},
        {**common, "because": "not_at_exchange", "first_missing_id": 6, "last_missing_id": 8},
    ]


def test_closed_gap_has_no_open_reason() -> None:
    found = fed([1, 3])
    found.explain(MissingRange("BTCUSDT", 2, 2), OpenBecause.NEEDS_KEY)
    fed([2], found)
    assert [closed.open_because for closed in found.take_closed()] == [None]


def test_new_gaps_are_logged_with_their_ids() -> None:
    found = GapTracker("binance_futures", "aggTrade", lambda: NOW, max_ids=3)
    with capture_logs() as logs:
        fed([1, 10], found, "ETHUSDT")
    common = {"event": "trades_missing", "log_level": "warning", "symbol": "ETHUSDT", "stream": "aggTrade"}
    assert logs == [
        {**common, "first_missing_id": 2, "last_missing_id": 6, "ids": 5, "because": OpenBecause.BEYOND_LIMIT},
        {**common, "first_missing_id": 7, "last_missing_id": 9, "ids": 3, "because": None},
    ]


def test_closed_gaps_are_logged_with_their_outcome() -> None:
    found = fed([1, 3, 6, 8])
    with capture_logs() as logs:
        fed([2], found)
        found.fill("BTCUSDT", 4, 4)
        found.fill("BTCUSDT", 5, 5)
        found.mark_not_order_book("BTCUSDT", 7, 7)
    common = {"event": "gap_closed", "log_level": "info", "symbol": "BTCUSDT", "stream": "trade"}
    assert logs == [
        {**common, "closed_by": "stream", "outcome": "arrived", "first_missing_id": 2, "last_missing_id": 2},
        {**common, "closed_by": "rest", "outcome": "repaired", "first_missing_id": 4, "last_missing_id": 5},
        {**common, "closed_by": "rest", "outcome": "not_order_book", "first_missing_id": 7, "last_missing_id": 7},
    ]


def test_gaps_are_repaired_in_the_order_of_their_detection() -> None:
    seconds = count()
    found = GapTracker("binance_futures", "trade", lambda: NOW + timedelta(seconds=next(seconds)))
    fed([1], found)
    fed([1, 4], found, "ETHUSDT")
    fed([3], found)
    fed([6], found, "ETHUSDT")
    assert found.missing() == [
        MissingRange("ETHUSDT", 2, 3),
        MissingRange("BTCUSDT", 2, 2),
        MissingRange("ETHUSDT", 5, 5),
    ]


def test_proven_time_is_in_full_ms_and_begins_well_before_the_connection() -> None:
    found = tracker()
    for trade_id, time_us in ((1, 10_000_700), (2, 60_000_900)):
        found.see("BTCUSDT", trade_id, time_us)

    def proven(connected_from_ms: int) -> dict[str, tuple[int, int]]:
        return found.proven_before(["ETHUSDT", "BTCUSDT"], (connected_from_ms, 10**9))

    assert proven(11_002) == {"BTCUSDT": (10_001, 60_000)}
    assert proven(11_001) == {}


def test_ids_prove_nothing_within_one_millisecond() -> None:
    found = tracker()
    for trade_id, time_us in ((1, 10_000_100), (2, 10_001_900)):
        found.see("BTCUSDT", trade_id, time_us)
    assert found.proven_before(["BTCUSDT"], (10**6, 10**9)) == {}


def test_newest_bronze_trade_that_is_on_the_topic_keeps_the_proven_time() -> None:
    found = tracker()
    topic = [KnownTrade("BTCUSDT", number, number * 10_000_000, is_fetched=False) for number in (1, 2)]
    found.resume_from(topic, {"BTCUSDT": LastTrade(2, 20_000_000)})
    found.see("BTCUSDT", 3, 30_000_000)
    assert found.proven_before(["BTCUSDT"], (10**6, 10**9)) == {"BTCUSDT": (10_001, 30_000)}


def test_ids_prove_the_time_after_the_last_open_gap() -> None:
    found = tracker()
    at = partial(found.see, "BTCUSDT")
    for number, second in ((1, 10), (2, 20), (5, 50), (6, 60)):
        at(number, second * 1_000_000)

    def proven(connected_from_s: int) -> tuple[int, int] | None:
        interval = connected_from_s * 1000, 10**9
        return found.proven_before(["BTCUSDT", "ETHUSDT"], interval).get("BTCUSDT")

    assert proven(100) == (50_001, 60_000)
    assert proven(51) is None, "the connection itself covers it"
    assert found.proven_before(["BTCUSDT"], None) == {}
    at(3, 30_000_000)
    found.fill("BTCUSDT", 4, 40_000_000)
    assert proven(51) == (10_001, 60_000)
    found.resume_from((), {"BTCUSDT": LastTrade(90, 900_000_000)})
    assert proven(1000) is None, "the ids in between are unknown"
    at(91, 910_000_000)
    assert proven(1000) == (900_001, 910_000)


def test_number_of_open_gaps_is_bounded() -> None:
    found = fed(range(0, 4 * MAX_OPEN, 2))
    gaps = found.take_open()
    assert len(gaps) == MAX_OPEN
    assert sum(gap.ids_missing for gap in gaps.values()) == found.ids_missing == 2 * MAX_OPEN - 1
    assert max(gap.last_missing_id for gap in gaps.values()) == 4 * MAX_OPEN - 3


def test_gap_above_the_maximum_is_merged_into_the_newest_and_still_repaired() -> None:
    found = fed(range(0, 2 * MAX_OPEN + 2, 2))
    last = 2 * MAX_OPEN
    opened_before = found.take_open()
    fed([last + 4], found)
    newest = gap(last - 1, last - 1)
    merged = replace(newest, last_missing_id=last + 3, ids_missing=4, before_us=last + 4)
    assert opened_before[newest.key] == newest
    assert found.take_open() == {newest.key: merged}
    assert found.missing()[-2:] == [
        MissingRange("BTCUSDT", last - 1, last - 1),
        MissingRange("BTCUSDT", last + 1, last + 3),
    ]
    fed([last - 1, last + 1, last + 2], found)
    assert found.take_closed() == []
    fed([last + 3], found)
    assert [closed.key for closed in found.take_closed()] == [newest.key]
    assert found.ids_missing == MAX_OPEN - 1


def test_gaps_to_repair_are_not_merged_with_gaps_beyond_the_limit() -> None:
    found = GapTracker("binance_futures", "trade", lambda: NOW, max_ids=3)
    fed(range(0, 2 * MAX_OPEN, 2), found)
    last = 2 * MAX_OPEN - 2
    fed([last + 10, last + 12, last + 22], found)
    by_kind: dict[bool, list[TradeGap]] = {True: [], False: []}
    for item in found.take_open().values():
        by_kind[item.open_because is OpenBecause.BEYOND_LIMIT].append(item)
    (beyond,) = by_kind[True]
    assert (beyond.first_missing_id, beyond.last_missing_id, beyond.ids_missing) == (last + 1, last + 18, 6 + 6)
    assert len(by_kind[False]) == MAX_OPEN - 1
    repaired = [item for item in found.missing() if item.first > last]
    assert [(item.first, item.last) for item in repaired] == [
        (last + 7, last + 9),
        (last + 11, last + 11),
        (last + 19, last + 21),
    ]


def test_ids_between_the_parts_of_a_merged_gap_are_missing_too() -> None:
    found = fed(range(0, 2 * MAX_OPEN + 2, 2))
    last = 2 * MAX_OPEN
    found.reject("BTCUSDT", last + 4, REASON, was_fetched=False)
    fed([last + 7], found)
    missing = {trade_id for item in found.missing() for trade_id in range(item.first, item.last + 1)}
    assert missing >= set(range(last + 1, last + 7))
    fed(range(last + 1, last + 7), found)
    assert not any(item.first > last for item in found.missing())


def test_earlier_and_unrequested_ids_join_no_gap_that_would_hide_them() -> None:
    found = fed(range(0, 2 * MAX_OPEN, 2))
    last = 2 * MAX_OPEN - 2
    found.reject("BTCUSDT", last + 3, REASON, was_fetched=False)
    found.reject("BTCUSDT", last + 3, REASON, was_fetched=True)
    assert found.missing()[-1].last < last, "a rejected trade is not requested again"
    fed([last + 6], found)
    missing = {trade_id for item in found.missing() for trade_id in range(item.first, item.last + 1)}
    assert missing >= {last + 1, last + 2, last + 4, last + 5}


def test_merged_gap_never_ends_before_a_newer_trade() -> None:
    found = fed(range(0, 2 * MAX_OPEN + 2, 2))
    newest = list(found.take_open().values())[-1]
    found.see("BTCUSDT", 2 * MAX_OPEN + 2, 5)
    assert [merged.before_us for merged in found.take_open().values()] == [newest.before_us]


@given(st.sets(st.integers(1, 60), min_size=1), st.randoms(use_true_random=False))
def test_every_deleted_range_is_found_and_closed_by_its_trades_in_any_order(deleted: set[int], random: object) -> None:
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
    assert {gap.ids_missing for gap in found.take_closed()} == {0}


async def test_gap_of_a_failed_write_stays_due_and_a_closed_gap_stays_closed() -> None:
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


async def test_nothing_is_written_without_gaps() -> None:
    sink, found = MemoryGaps(), tracker()
    fed([1, 2], found)
    assert await GapWriter(sink, found).write()
    assert sink.writes == 0


class FailingReads(MemoryGaps):
    """A ledger whose first `reads_left_to_fail` reads fail."""

    reads_left_to_fail = 1

    def open_gaps(self) -> list[TradeGap]:
        if self.reads_left_to_fail:
            self.reads_left_to_fail -= 1
            raise OSError("the catalog is down")
        return super().open_gaps()


async def test_open_gaps_of_an_earlier_process_are_taken_over_once() -> None:
    sink, found = MemoryGaps(), tracker()
    sink.write([gap(3, 5)])
    writer = GapWriter(sink, found)
    await writer.resume()
    assert found.ids_missing == 3
    await writer.resume()
    assert await writer.write()
    assert found.ids_missing == 3
    assert found.missing() == [MissingRange("BTCUSDT", 3, 5)]


async def test_open_gaps_are_read_at_the_first_write_after_a_failed_read() -> None:
    sink, found = FailingReads(), tracker()
    sink.write([gap(3, 5)])
    writer = GapWriter(sink, found)
    with capture_logs() as logs:
        await writer.resume()
    assert logs == [{"event": "gap_ledger_read_failed", "log_level": "error", "error": "OSError: the catalog is down"}]
    assert found.ids_missing == 0
    assert await writer.write()
    assert found.ids_missing == 3


async def test_no_gap_is_lost_if_ledger_reads_and_writes_fail() -> None:
    sink, found = FailingReads(), tracker()
    sink.failures_left = 1
    writer = GapWriter(sink, found)
    fed([1, 3, 5], found)
    common = {"event": "gap_ledger_write_failed", "log_level": "error"}
    with capture_logs() as logs:
        assert not await writer.write()
        assert not await writer.write()
        assert await writer.write()
    assert logs == [
        {**common, "gaps": 0, "error": "OSError: the catalog is down"},
        {**common, "gaps": 2, "error": "OSError: the disk is full"},
    ]
    assert list(sink.gaps.values()) == [gap(2, 2), gap(4, 4)]


async def test_gap_that_is_open_at_a_mark_is_written_even_if_it_closes_soon() -> None:
    """Coverage up to the mark is claimed below an offset at which the late trade is not."""
    sink, found = MemoryGaps(), tracker()
    writer = GapWriter(sink, found)
    fed([1, 3], found)
    writer.take_open()
    fed([2], found)
    assert await writer.write()
    assert list(sink.gaps.values()) == [gap(2, 2)]
    writer.close(found.take_closed(), lambda _key: 0, {0: 4})
    assert await writer.write()
    assert [(written.outcome, written.kafka_offset) for written in sink.gaps.values()] == [(GapOutcome.ARRIVED, 4)]


async def test_closed_gap_contains_the_partition_and_offset_of_its_trades() -> None:
    sink, found = MemoryGaps(), tracker()
    writer = GapWriter(sink, found)
    fed([1, 3, 2], found)
    fed([1, 3, 2], found, "ETHUSDT")
    writer.close(found.take_closed(), {b"BTCUSDT": 1, b"ETHUSDT": 2}.__getitem__, {1: 7})
    assert await writer.write()
    assert {written.symbol: (written.kafka_partition, written.kafka_offset) for written in sink.gaps.values()} == {
        "BTCUSDT": (1, 7),
        "ETHUSDT": (2, 0),
    }


def test_fetched_trade_that_the_contract_rejects_is_not_requested_again() -> None:
    found = fed([1, 4])
    assert found.reject("BTCUSDT", 2, REASON, was_fetched=True)
    assert found.missing() == [MissingRange("BTCUSDT", 2, 3)], "id 3 can still be fetched"
    assert found.reject("BTCUSDT", 3, "qty_format: x", was_fetched=True)
    assert found.missing() == []
    (gap,) = found.take_open().values()
    assert (gap.open_because, gap.ids_missing, gap.closed_at) == (OpenBecause.REJECTED, 2, None)
    assert gap.rejection == Rejection(REASON, CONTRACT_VERSION)
    assert not found.reject("BTCUSDT", 3, "qty_format: x", was_fetched=True), "already rejected: no second dead letter"


def test_rejected_trade_opens_a_gap_before_the_next_trade() -> None:
    found = fed([1])
    assert found.reject("BTCUSDT", 3, REASON, was_fetched=False)
    assert found.missing() == [MissingRange("BTCUSDT", 3, 3)]
    assert list(found.take_open().values()) == [replace(gap(3, 3), after_us=1, before_us=1)]
    fed([5], found)
    assert {(item.first_missing_id, item.after_us, item.before_us) for item in found.take_open().values()} == {
        (2, 1, 5),
        (3, 1, 5),
        (4, 1, 5),
    }
    assert found.reject("BTCUSDT", 5 + MAX_STEP_IDS + 1, REASON, was_fetched=False)
    assert found.ids_missing == 3, "an implausible id opens no gap"


def test_rejected_trade_that_is_fetched_before_the_next_trade_is_not_missing_again() -> None:
    found = fed([1])
    for trade_id in (2, 4):
        found.reject("BTCUSDT", trade_id, REASON, was_fetched=False)
        found.fill("BTCUSDT", trade_id, trade_id)
    fed([5], found)
    assert opened(found) == [(3, 3, 1)]
    found.fill("BTCUSDT", 3, 3)
    assert not found.missing()
    assert found.last("BTCUSDT") == LastTrade(5, 5)


def test_trades_rejected_before_the_first_accepted_one_are_gaps_at_its_time() -> None:
    found = tracker()
    found.reject("BTCUSDT", 2, REASON, was_fetched=False)
    found.reject("BTCUSDT", 3, REASON, was_fetched=False)
    assert found.missing() == []
    fed([4], found)
    assert [(item.first_missing_id, item.after_us, item.before_us) for item in found.take_open().values()] == [
        (2, 4, 4),
        (3, 4, 4),
    ]


def test_gap_gets_dead_letter_coordinates_once_all_its_dead_letters_are_acknowledged() -> None:
    found = fed([1, 4])
    for trade_id in (2, 3):
        found.reject("BTCUSDT", trade_id, REASON, was_fetched=True)
    found.take_open()
    found.dead_letter_at("BTCUSDT", 2, 5, 70)
    assert found.take_open() == {}
    found.dead_letter_at("BTCUSDT", 3, 6, 80)
    (gap,) = found.take_open().values()
    assert gap.rejection == Rejection(REASON, CONTRACT_VERSION, partition=5, offset=70)
    found.dead_letter_at("BTCUSDT", 3, 6, 81)
    found.dead_letter_at("BTCUSDT", 9, 6, 82)
    found.dead_letter_at("ETHUSDT", 3, 6, 83)
    assert found.take_open() == {}, "the first dead letter counts; the others belong to no gap"
    found.see("BTCUSDT", 2, 2)
    (gap,) = found.take_open().values()
    assert gap.rejection == Rejection(REASON, CONTRACT_VERSION, partition=6, offset=80), (
        "of the first trade still missing"
    )
    found.see("BTCUSDT", 3, 3)
    (closed,) = found.take_closed()
    assert (closed.open_because, closed.rejection) == (None, None)


def test_rejected_trade_that_the_history_lacks_is_rejected_not_missing_at_the_exchange() -> None:
    found = tracker()
    fed([1], found)
    assert found.reject("BTCUSDT", 2, REASON, was_fetched=False)
    fed([3, 5], found)
    assert found.missing() == [MissingRange("BTCUSDT", 2, 2), MissingRange("BTCUSDT", 4, 4)], (
        "the history may have a valid version"
    )
    for missing in found.missing():
        found.explain(missing, OpenBecause.NOT_AT_EXCHANGE)
    assert {gap.first_missing_id: gap.open_because for gap in found.take_open().values()} == {
        2: OpenBecause.REJECTED,
        4: OpenBecause.NOT_AT_EXCHANGE,
    }
    assert found.missing() == [MissingRange("BTCUSDT", 4, 4)]


REJECTED_2_3 = replace(
    gap(2, 3), open_because=OpenBecause.REJECTED, rejection=Rejection(REASON, CONTRACT_VERSION, partition=5, offset=70)
)


def test_next_process_requests_rejected_trades_only_with_another_contract_version() -> None:
    found = tracker()
    found.resume([REJECTED_2_3])
    assert found.missing() == []
    assert found.ids_missing == 2

    older = Rejection(REASON, CONTRACT_VERSION - 1, partition=5, offset=70)
    found = tracker()
    found.resume([replace(REJECTED_2_3, rejection=older)])
    assert found.missing() == [MissingRange("BTCUSDT", 2, 3)]
    assert not found.reject("BTCUSDT", 2, REASON, was_fetched=True), "already rejected: no second dead letter"
    assert not found.reject("BTCUSDT", 3, REASON, was_fetched=True)
    assert found.missing() == []
    (left,) = found.take_open().values()
    assert left.rejection == REJECTED_2_3.rejection
    found.fill("BTCUSDT", 2, 2)
    found.fill("BTCUSDT", 3, 3)
    assert [closed.outcome for closed in found.take_closed()] == [GapOutcome.REPAIRED]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(replace(REJECTED_2_3, rejection=None), id="release without coordinates"),
        pytest.param(
            replace(REJECTED_2_3, rejection=Rejection(REASON, CONTRACT_VERSION)), id="dead letter not acknowledged"
        ),
    ],
)
def test_rejected_trades_without_an_acknowledged_dead_letter_are_requested_again(left: TradeGap) -> None:
    found = tracker()
    found.resume([left])
    assert found.missing() == [MissingRange("BTCUSDT", 2, 3)]
    assert found.reject("BTCUSDT", 2, REASON, was_fetched=True), "its dead letter may be lost"


def test_partly_filled_gap_of_an_earlier_process_is_requested_in_full() -> None:
    found = tracker()
    found.resume([replace(REJECTED_2_3, ids_missing=1)])
    assert found.missing() == [MissingRange("BTCUSDT", 2, 3)], "the ledger does not name the ids that arrived"
    assert not found.reject("BTCUSDT", 2, REASON, was_fetched=True)


def lost(first: int, last: int | None = None) -> TradeGap:
    """Return a gap of records lost in Kafka; without `last`, its end is unknown."""
    found = gap(first, last or first)
    ids_missing = found.ids_missing if last else 0
    return replace(found, ids_missing=ids_missing, before_us=99, open_because=OpenBecause.LOST_IN_KAFKA)


def test_lost_records_are_missing_up_to_the_newest_trade() -> None:
    found = fed(range(1, 21))
    found.take_over_lost([lost(11)])
    assert opened(found) == [(11, 20, 10)]
    assert found.missing() == [MissingRange("BTCUSDT", 11, 20)]
    fed([21, 23], found)
    for trade_id in range(11, 21):
        found.fill("BTCUSDT", trade_id, trade_id)
    assert [one.first_missing_id for one in found.take_closed()] == [11]
    assert opened(found) == [(22, 22, 1)]


def test_repaired_gap_of_lost_records_proves_the_time_from_its_begin() -> None:
    us = 1_000_000
    found = tracker()
    for trade_id in range(20, 30):
        found.see("BTCUSDT", trade_id, trade_id * us)
    found.take_over_lost([replace(lost(11), after_us=10 * us, before_us=25 * us)])
    for trade_id in range(11, 30):
        found.fill("BTCUSDT", trade_id, trade_id * us)
    assert found.tracked(["BTCUSDT"]) == {"BTCUSDT": (10_001, 29_000)}


def test_lost_repair_is_missing_again_with_all_ids() -> None:
    found = fed([1, 5, 6])
    found.fill("BTCUSDT", 3, 3)
    found.take_over_lost([lost(2, 4)])
    assert found.missing() == [MissingRange("BTCUSDT", 2, 4)]
    assert opened(found) == [(2, 4, 3)]


def test_lost_records_without_a_known_trade_wait_for_the_first_one() -> None:
    found = tracker()
    found.take_over_lost([lost(11)])
    assert found.missing() == []
    fed([15], found)
    found.take_over_lost([lost(11)])
    assert found.missing() == [MissingRange("BTCUSDT", 11, 15)]


async def test_writer_reopens_gaps_whose_closing_is_not_written_yet() -> None:
    found, sink = fed([1, 5]), MemoryGaps()
    reported = [[], [lost(6)]]
    writer = GapWriter(sink, found, lambda: reported.pop(0) if reported else [])
    assert await writer.write()
    for trade_id in (2, 3, 4, 6, 7):
        found.see("BTCUSDT", trade_id, trade_id)
    writer.close(found.take_closed(), lambda _: 0, {0: 9})
    assert await writer.write()
    assert {key[3]: (one.last_missing_id, one.closed_at) for key, one in sink.gaps.items()} == {
        2: (4, None),
        6: (7, None),
    }
