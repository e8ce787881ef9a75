"""Gaps are filled from the exchange's history; ids that it lacks stay missing, with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from cryptolake_assets.binance.rest_responses import parse_agg_trades, parse_historical_trades
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, OpenBecause
from cryptolake_assets.model.events import MAX_ID, RejectedFrame
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, MalformedRow
from cryptolake_assets.producer import gap_repair as repair
from cryptolake_assets.producer.gap_repair import GapRepairer
from cryptolake_assets.producer.gap_tracker import GapTracker
from cryptolake_assets.producer.open_gap import MissingRange
from cryptolake_assets.producer.rest_history import StreamHistory, agg_trade_frame, trade_frame
from cryptolake_tests.support.fakes import NOON_MS, MemoryHistory


def row(agg_id: int) -> AggTrade:
    return AggTrade(agg_id, "63943.90", "0.001", 2 * agg_id, 2 * agg_id + 1, NOON_MS + agg_id, is_buyer_maker=True)


def single(trade_id: int) -> HistoricalTrade:
    return HistoricalTrade(trade_id, "63943.90", "0.001", NOON_MS + trade_id, is_buyer_maker=True)


class JsonHistory(MemoryHistory):
    """Returns JSON, as REST does; `malformed` is the JSON of malformed rows, by the id of the row they replace."""

    malformed: dict[int, str]

    async def agg_trades_from(self, symbol: str, first_id: int) -> Sequence[AggTrade | MalformedRow]:
        rows = [row for row in self.rows if row.agg_trade_id >= first_id][: self.page]
        texts = [self.malformed.get(row.agg_trade_id) or json.dumps(row.to_rest()) for row in rows]
        return parse_agg_trades(f"[{','.join(texts)}]".encode())

    async def historical_trades_from(self, symbol: str, first_id: int) -> Sequence[HistoricalTrade | MalformedRow]:
        rows = [row for row in self.trades if row.trade_id >= first_id][: self.page]
        texts = [self.malformed.get(row.trade_id) or json.dumps(row.to_rest()) for row in rows]
        return parse_historical_trades(f"[{','.join(texts)}]".encode())


class Stage:
    """A tracker, and a repairer whose frames pass through the contract to the tracker."""

    def __init__(self, history: MemoryHistory, stream: str = "aggTrade", max_ids: int = MAX_ID) -> None:
        self.now_s = 100.0
        self.tracker = GapTracker("binance_futures", stream, max_ids=max_ids)
        self.history = history
        self.repairer = GapRepairer(
            self.tracker, StreamHistory(history, stream), self.put, monotonic=lambda: self.now_s
        )
        self.fetched: list[int] = []
        self.rejected: list[RejectedFrame] = []

    def see(self, *ids: int) -> None:
        for trade_id in ids:
            self.tracker.see("BTCUSDT", trade_id, (NOON_MS + trade_id) * 1000)

    async def put(self, raw: bytes) -> None:
        parsed = parse_frame(raw, ingest_time_us=0, exchange="binance_futures")
        if isinstance(parsed, RejectedFrame):
            self.rejected.append(parsed)
            return
        assert isinstance(parsed, AcceptedFrame)
        event = parsed.event
        self.fetched.append(event.trade_id)
        self.tracker.fill(event.symbol, event.trade_id, event.event_time)

    def reasons(self) -> dict[int, OpenBecause | None]:
        """Return the reason of each changed open gap, by its first id."""
        return {gap.first_missing_id: gap.open_because for gap in self.tracker.take_open().values()}


async def test_missing_trades_only_are_fetched_page_by_page() -> None:
    on = Stage(MemoryHistory(map(row, range(1, 40)), page=4))
    on.see(1, 12, 13, 20)
    await on.repairer.repair()
    assert on.fetched == [*range(2, 12), *range(14, 20)]
    assert on.tracker.missing() == []
    closed = on.tracker.take_closed()
    assert {(gap.closed_by, gap.outcome) for gap in closed} == {(ClosedBy.REST, GapOutcome.REPAIRED)}
    assert [gap.first_missing_id for gap in closed] == [2, 14]


async def test_trades_missing_at_the_exchange_are_requested_with_growing_pauses() -> None:
    on = Stage(MemoryHistory([row(1), row(2), row(6)]))
    on.see(1, 6)
    await on.repairer.repair()
    assert on.tracker.missing() == [MissingRange("BTCUSDT", 3, 5)]
    assert on.reasons() == {2: OpenBecause.NOT_AT_EXCHANGE}
    requested = len(on.history.requested_ids)
    await on.repairer.repair()  # the remaining range is a new one
    assert len(on.history.requested_ids) == requested + 1
    for waited_s, more in ((0, 1), (repair.FIRST_PAUSE_S, 2), (repair.FIRST_PAUSE_S, 2), (repair.FIRST_PAUSE_S, 3)):
        on.now_s += waited_s
        await on.repairer.repair()
        assert len(on.history.requested_ids) == requested + more
    assert on.tracker.take_closed() == []


async def test_rejected_trade_that_the_history_does_not_show_yet_is_requested_again() -> None:
    on = Stage(MemoryHistory([row(1)]))  # of ids 1 to 5, the history shows only the first
    on.see(1)
    on.tracker.reject("BTCUSDT", 2, "price_format: p is 'x'", was_fetched=False)
    on.see(3, 5)
    await on.repairer.repair()
    assert on.reasons() == {2: OpenBecause.NOT_AT_EXCHANGE, 4: OpenBecause.NOT_AT_EXCHANGE}
    on.history.rows = [row(number) for number in range(1, 6)]
    on.now_s += repair.FIRST_PAUSE_S
    await on.repairer.repair()
    assert on.fetched == [2, 4]
    assert on.tracker.missing() == []


async def test_rejected_trade_that_the_history_lacks_is_not_requested_again() -> None:
    on = Stage(MemoryHistory([row(1), row(3)]))
    on.see(1)
    on.tracker.reject("BTCUSDT", 2, "price_format: p is 'x'", was_fetched=False)
    on.see(3)
    await on.repairer.repair()
    assert on.reasons() == {2: OpenBecause.REJECTED}
    assert on.tracker.missing() == []


async def test_rejected_trade_without_a_key_is_rejected() -> None:
    on = Stage(MemoryHistory(trades=map(single, range(1, 5))), "trade")
    on.see(1)
    on.tracker.reject("BTCUSDT", 2, "price_format: p is 'x'", was_fetched=False)
    on.see(3)
    await on.repairer.repair()
    assert on.reasons() == {2: OpenBecause.REJECTED}, "the reason and the dead letter are named, with and without a key"


@pytest.mark.parametrize("stream", ["aggTrade", "trade"])
async def test_failed_request_is_retried_after_a_pause(stream: str) -> None:
    on = Stage(MemoryHistory(map(row, range(1, 9)), trades=map(single, range(1, 9)), has_key=True), stream)
    on.history.failures_left = 1
    on.see(1, 4)
    await on.repairer.repair()
    assert on.fetched == []
    on.now_s += repair.FIRST_PAUSE_S
    await on.repairer.repair()
    assert on.fetched == [2, 3]


async def test_single_trades_without_a_key_stay_missing_with_that_reason() -> None:
    on = Stage(MemoryHistory(trades=map(single, range(1, 9))), "trade")
    on.see(1, 4)
    await on.repairer.repair()
    assert on.history.requested_ids == []
    assert on.reasons() == {2: OpenBecause.NEEDS_KEY}
    await on.repairer.repair()
    assert on.reasons() == {}, "reported once"
    on.see(2, 3)
    (closed,) = on.tracker.take_closed()
    assert (closed.outcome, closed.open_because) == (GapOutcome.ARRIVED, None)


async def test_ids_skipped_by_the_history_are_not_order_book_trades() -> None:
    on = Stage(MemoryHistory(trades=map(single, (1, 2, 5, 8, 9)), has_key=True, page=2), "trade")
    on.see(1, 2, 5, 9)
    await on.repairer.repair()
    assert on.fetched == [8]
    first, second = on.tracker.take_closed()
    assert (first.first_missing_id, first.outcome, first.ids_not_order_book) == (3, GapOutcome.NOT_ORDER_BOOK, 2)
    assert (second.first_missing_id, second.outcome, second.ids_not_order_book) == (6, GapOutcome.REPAIRED, 2)
    assert on.tracker.missing() == []


async def test_ids_older_than_the_history_stay_missing() -> None:
    """The history begins inside the gap, so it does not show what the older ids are."""
    on = Stage(MemoryHistory(trades=map(single, range(6, 20)), has_key=True), "trade")
    on.see(1, 9)
    await on.repairer.repair()
    assert on.fetched == [6, 7, 8]
    assert on.tracker.missing() == [MissingRange("BTCUSDT", 2, 5)]
    assert on.reasons() == {2: OpenBecause.NOT_AT_EXCHANGE}


async def test_ids_newer_than_the_history_stay_missing() -> None:
    on = Stage(MemoryHistory(trades=map(single, (1, 2)), has_key=True), "trade")
    on.see(1, 5)
    await on.repairer.repair()
    assert on.fetched == [2]
    assert on.tracker.missing() == [MissingRange("BTCUSDT", 3, 4)]
    assert on.tracker.take_closed() == []


MALFORMED_ROWS = {
    "number instead of string": ('{"a":5,"id":5,"p":1.10,"price":1.10,"q":"1","qty":"1","T":7,"time":7}', 5),
    "id only": ('{"a":5,"id":5}', 5),
    "null": ("null", None),
    "id as a string": ('{"a":"5","id":"5"}', None),
    "id out of range": ('{"a":-5,"id":9223372036854775808}', None),
}


@pytest.mark.parametrize("stream", ["aggTrade", "trade"])
@pytest.mark.parametrize("page", [3, 4, 1_000])
@pytest.mark.parametrize("name", MALFORMED_ROWS)
async def test_malformed_row_does_not_affect_other_rows_of_its_page(stream: str, page: int, name: str) -> None:
    history = JsonHistory(map(row, range(1, 12)), page, map(single, range(1, 12)), has_key=True)
    text, malformed_id = MALFORMED_ROWS[name]
    history.malformed = {5: text}
    on = Stage(history, stream)
    on.see(1, 10)
    await on.repairer.repair()
    assert on.fetched == [2, 3, 4, 6, 7, 8, 9]
    assert on.tracker.missing() == [MissingRange("BTCUSDT", 5, 5)], (
        "a malformed row is not an id outside the order book"
    )
    assert [(frame.symbol, frame.trade_id) for frame in on.rejected] == (
        [] if malformed_id is None else [("BTCUSDT", 5)]
    )
    if "1.10" in text:
        assert b'"p":1.10' in on.rejected[0].raw, "the raw value stays unchanged"


async def test_large_gap_does_not_block_other_gaps() -> None:
    on = Stage(MemoryHistory(map(row, range(1, 200)), page=2))
    on.see(1, 100, 102)
    await on.repairer.repair()
    assert on.fetched == [*range(2, 2 + 2 * repair.PAGES_PER_ROUND), 101]
    await on.repairer.repair()
    await on.repairer.repair()
    assert sorted(on.fetched) == [*range(2, 100), 101]


async def test_newest_part_of_a_gap_beyond_the_limit_is_fetched() -> None:
    on = Stage(MemoryHistory(map(row, range(1, 200))), max_ids=10)
    on.see(1, 100)
    await on.repairer.repair()
    assert on.fetched == list(range(90, 100))
    assert on.tracker.missing() == []
    (left,) = on.tracker.take_open().values()
    assert (left.first_missing_id, left.last_missing_id, left.open_because) == (2, 89, OpenBecause.BEYOND_LIMIT)
    assert (left.after_us, left.before_us) == ((NOON_MS + 1) * 1000, (NOON_MS + 90) * 1000), (
        "up to the first fetched trade"
    )


def test_fetched_aggregate_is_the_same_event_as_the_streamed_one() -> None:
    parsed = parse_frame(agg_trade_frame("BTCUSDT", row(7)), ingest_time_us=5, exchange="binance_futures")
    assert isinstance(parsed, AcceptedFrame)
    event = parsed.event
    assert (event.price, event.qty, event.side, event.stream) == ("63943.90", "0.001", "sell", "aggTrade")
    assert (event.trade_id, event.first_trade_id, event.last_trade_id) == (7, 14, 15)
    assert (event.event_time, event.trade_type) == ((NOON_MS + 7) * 1000, "MARKET")


def test_fetched_trade_has_type_market() -> None:
    parsed = parse_frame(trade_frame("BTCUSDT", single(7)), ingest_time_us=5, exchange="binance_futures")
    assert isinstance(parsed, AcceptedFrame)
    event = parsed.event
    assert (event.price, event.qty, event.side, event.stream) == ("63943.90", "0.001", "sell", "trade")
    assert (event.trade_id, event.first_trade_id, event.last_trade_id) == (7, 7, 7)
    assert (event.event_time, event.trade_type) == ((NOON_MS + 7) * 1000, "MARKET")
