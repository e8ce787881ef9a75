"""Gaps of aggregates are filled from the exchange's history, and what it does not have stays missing."""

from __future__ import annotations

from cryptolake_assets.contract import AcceptedFrame, parse_frame
from cryptolake_assets.exchange.records import AggTrade
from cryptolake_assets.lake.gaps import ClosedBy, GapOutcome
from cryptolake_assets.stream import repair
from cryptolake_assets.stream.gaps import GapTracker, MissingRange
from cryptolake_assets.stream.repair import GapRepairer, frame_of
from cryptolake_tests.stream.fakes import NOON_MS, MemoryHistory


def row(agg_id: int) -> AggTrade:
    return AggTrade(agg_id, "63943.90", "0.001", 2 * agg_id, 2 * agg_id + 1, NOON_MS + agg_id, is_buyer_maker=True)


class Stage:
    """A tracker of aggregates, and a repairer whose frames reach it through the contract."""

    def __init__(self, history: MemoryHistory) -> None:
        self.now_s = 100.0
        self.tracker = GapTracker("binance_futures", "aggTrade")
        self.history = history
        self.repairer = GapRepairer(self.tracker, history, self.put, page_pause_s=0.0, monotonic=lambda: self.now_s)
        self.fetched: list[int] = []

    def see(self, *ids: int) -> None:
        for agg_id in ids:
            self.tracker.see("BTCUSDT", agg_id, (NOON_MS + agg_id) * 1000)

    async def put(self, raw: bytes) -> None:
        parsed = parse_frame(raw, ingest_time_us=0, exchange="binance_futures")
        assert isinstance(parsed, AcceptedFrame)
        self.fetched.append(parsed.event.trade_id)
        self.tracker.fill(parsed.event.symbol, parsed.event.trade_id)


async def test_what_is_missing_is_fetched_page_by_page_and_no_more() -> None:
    on = Stage(MemoryHistory(map(row, range(1, 40)), page=4))
    on.see(1, 12, 13, 20)
    await on.repairer.repair()
    assert on.fetched == [*range(2, 12), *range(14, 20)]
    assert on.tracker.missing() == []
    closed = on.tracker.take_closed()
    assert {(gap.closed_by, gap.outcome) for gap in closed} == {(ClosedBy.REST, GapOutcome.REPAIRED)}
    assert [gap.first_missing_id for gap in closed] == [2, 14]


async def test_what_the_exchange_does_not_have_stays_missing_and_is_asked_for_less_and_less_often() -> None:
    on = Stage(MemoryHistory([row(1), row(2), row(6)]))
    on.see(1, 6)
    await on.repairer.repair()
    assert on.tracker.missing() == [MissingRange("BTCUSDT", 3, 5)]
    asked = len(on.history.asked)
    await on.repairer.repair()  # the range that is left is another one
    assert len(on.history.asked) == asked + 1
    for waited_s, more in ((0, 1), (repair.FIRST_PAUSE_S, 2), (repair.FIRST_PAUSE_S, 2), (repair.FIRST_PAUSE_S, 3)):
        on.now_s += waited_s
        await on.repairer.repair()
        assert len(on.history.asked) == asked + more
    assert on.tracker.take_closed() == []


async def test_a_history_that_cannot_be_asked_is_asked_again() -> None:
    on = Stage(MemoryHistory(map(row, range(1, 9))))
    on.history.failures_left = 1
    on.see(1, 4)
    await on.repairer.repair()
    assert on.fetched == []
    on.now_s += repair.FIRST_PAUSE_S
    await on.repairer.repair()
    assert on.fetched == [2, 3]


def test_a_fetched_aggregate_is_the_same_event_as_the_streams() -> None:
    parsed = parse_frame(frame_of("BTCUSDT", row(7)), ingest_time_us=5, exchange="binance_futures")
    assert isinstance(parsed, AcceptedFrame)
    event = parsed.event
    assert (event.price, event.qty, event.side, event.stream) == ("63943.90", "0.001", "sell", "aggTrade")
    assert (event.trade_id, event.first_trade_id, event.last_trade_id) == (7, 14, 15)
    assert (event.event_time, event.trade_type) == ((NOON_MS + 7) * 1000, "MARKET")
