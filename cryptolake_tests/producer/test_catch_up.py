"""Catch-up of symbols without trades: requests trades that the stream does not reveal, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, MalformedRow
from cryptolake_assets.producer.catch_up import CatchUp, CatchUpOptions
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.gap_tracker import GapTracker, LastTrade
from cryptolake_assets.producer.rest_history import StreamHistory
from cryptolake_tests.support.fakes import NOON_MS, MemoryHistory

OPTIONS = CatchUpOptions(settle_s=0.0)


def row(agg_id: int) -> AggTrade:
    return AggTrade(agg_id, "1", "1", agg_id, agg_id, NOON_MS + agg_id, is_buyer_maker=True)


MALFORMED = [MalformedRow(6, b'{"a":6}'), MalformedRow(None, b"null")]


class Stage:
    """One symbol on one connection; its last trade in an earlier process had id 3."""

    def __init__(self, last_at_exchange: int, *, page: int = 1_000, stream: str = "aggTrade") -> None:
        self.now_s = 0.0
        self.is_idle = True
        self.history = MemoryHistory(map(row, range(1, last_at_exchange + 1)), page)
        self.tracker = GapTracker("binance_futures", stream)
        self.tracker.resume_from((), {"BTCUSDT": LastTrade(3, (NOON_MS + 3) * 1000)})
        self.spans = [ConnectionSpan("one", ("BTCUSDT",))]
        self.catch_up = CatchUp(
            self.tracker,
            StreamHistory(self.history, stream),
            spans=lambda: self.spans,
            is_idle=lambda: self.is_idle,
            options=OPTIONS,
            monotonic=lambda: self.now_s,
        )

    def see(self, *ids: int) -> None:
        for trade_id in ids:
            self.tracker.see("BTCUSDT", trade_id, (NOON_MS + trade_id) * 1000)

    async def after(self, seconds: float) -> list[int]:
        """Check after this many seconds; return the first ids of the requests."""
        self.now_s += seconds
        before = len(self.history.requested_ids)
        await self.catch_up.check()
        return self.history.requested_ids[before:]

    def missing(self) -> list[tuple[int, int]]:
        return [(gap.first, gap.last) for gap in self.tracker.missing()]


async def test_symbol_without_trades_is_requested_shortly_after_the_connection_opens() -> None:
    on = Stage(last_at_exchange=6)
    assert await on.after(0) == []
    assert await on.after(OPTIONS.after_opening_s - 1) == []
    assert await on.after(1) == [4]
    assert on.missing() == [(4, 6)]
    assert on.tracker.last("BTCUSDT") == LastTrade(6, (NOON_MS + 6) * 1000)
    (gap,) = on.tracker.take_open().values()
    assert (gap.after_us, gap.before_us) == ((NOON_MS + 3) * 1000, (NOON_MS + 6) * 1000)


async def test_symbol_with_trades_reveals_its_gap_without_a_request() -> None:
    on = Stage(last_at_exchange=9)
    await on.after(0)
    on.see(6)
    assert on.missing() == [(4, 5)]
    assert await on.after(OPTIONS.after_opening_s) == []


async def test_new_connection_triggers_a_request_and_a_stale_symbol_ever_fewer() -> None:
    on = Stage(last_at_exchange=3)
    await on.after(0)
    assert await on.after(OPTIONS.after_opening_s) == [4]
    assert await on.after(2 * OPTIONS.stale_s - 1) == []
    assert await on.after(1) == [4]
    assert await on.after(4 * OPTIONS.stale_s - 1) == []
    on.spans = [ConnectionSpan("two", ("BTCUSDT",))]
    assert await on.after(0) == []
    assert await on.after(OPTIONS.after_opening_s) == [4]
    on.spans = []
    assert await on.after(10_000) == [], "without a connection, no request"


async def test_full_page_is_followed_by_the_next_request_at_once() -> None:
    on = Stage(last_at_exchange=1_500)
    await on.after(0)
    assert await on.after(OPTIONS.after_opening_s) == [4]
    assert await on.after(0) == [1_004]
    assert await on.after(0) == []
    assert on.missing() == [(4, 1_003), (1_004, 1_500)]


async def test_request_waits_for_queued_frames() -> None:
    on = Stage(last_at_exchange=6)
    on.is_idle = False
    await on.after(0)
    assert await on.after(1_000) == []
    on.is_idle = True
    assert await on.after(0) == [4]


async def test_trades_delivered_during_the_request_are_not_missing() -> None:
    on = Stage(last_at_exchange=6)
    request = on.history.agg_trades_from

    async def deliver_meanwhile(symbol: str, first_id: int) -> Sequence[AggTrade | MalformedRow]:
        page = await request(symbol, first_id)
        on.see(4, 5, 6, 7)
        return page

    on.history.agg_trades_from = deliver_meanwhile  # type: ignore[method-assign]
    await on.after(0)
    await on.after(OPTIONS.after_opening_s)
    assert on.missing() == []
    assert on.tracker.last("BTCUSDT") == LastTrade(7, (NOON_MS + 7) * 1000)


async def test_failed_request_is_retried_soon() -> None:
    on = Stage(last_at_exchange=6)
    on.history.failures_left = 1
    await on.after(0)
    assert await on.after(OPTIONS.after_opening_s) == [4]
    assert on.missing() == []
    assert await on.after(OPTIONS.retry_s) == [4]
    assert on.missing() == [(4, 6)]


async def test_single_trades_are_requested_only_with_a_key() -> None:
    on = Stage(last_at_exchange=6, stream="trade")
    on.history.trades = [HistoricalTrade(it, "1", "1", NOON_MS + it, is_buyer_maker=True) for it in range(1, 7)]
    await on.after(0)
    assert await on.after(OPTIONS.after_opening_s) == []
    on.history.has_key = True
    await on.after(0)
    assert await on.after(OPTIONS.stale_s) == [4]
    assert on.missing() == [(4, 6)]


@pytest.mark.parametrize(("page", "missing"), [([row(4), row(5), *MALFORMED], [(4, 5)]), (MALFORMED, [])])
async def test_malformed_rows_are_not_the_newest_trade(
    monkeypatch: pytest.MonkeyPatch, page: list[AggTrade | MalformedRow], missing: list[tuple[int, int]]
) -> None:
    on = Stage(last_at_exchange=5)

    async def return_page(*_: object) -> list[AggTrade | MalformedRow]:
        return page

    monkeypatch.setattr(on.history, "agg_trades_from", return_page)
    await on.after(0)
    await on.after(OPTIONS.after_opening_s)
    assert on.missing() == missing
