"""The tail has every minute that Silver lacks, whole, and nothing that would make a reader wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptolake_assets.live.tail import KEPT_US, Tail
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.windows import MINUTE_US, epoch_us
from cryptolake_assets.quality.rules import RuleContext

START = datetime(2024, 12, 24, 10, tzinfo=UTC)
BTC, ETH = ("binance_futures", "BTCUSDT"), ("binance_futures", "ETHUSDT")
CONTEXT = RuleContext(("binance_futures",), (BTC, ETH), START - timedelta(days=1), START + timedelta(days=1))
START_US = epoch_us(START)


def trade(trade_id: int, second: float, price: str = "2.5", topic: tuple[str, str] = BTC) -> TradeEvent:
    when_us = START_US + round(second * 1_000_000)
    return TradeEvent(
        topic[1], when_us, price, "1", "buy", trade_id, topic[0], when_us, trade_id, trade_id, "MARKET", "trade"
    )


def tail_of(*trades: TradeEvent, max_minutes: int = 1_000) -> Tail:
    """Return a tail of these records of one partition; Bronze had nothing before."""
    found = Tail(CONTEXT, START_US - 1, max_minutes)
    for offset, one in enumerate(trades):
        found.add(0, offset, one)
    return found


def closes(tail: Tail, topic: tuple[str, str] = BTC) -> dict[int, str]:
    """Return the closes by minute."""
    return {(epoch_us(bar["window_start"]) - START_US) // MINUTE_US: f"{bar['close']:f}" for bar in tail.bars(topic)}


def settled(tail: Tail, offsets: Mapping[int, int]) -> list[int]:
    return [(start_us - START_US) // MINUTE_US for start_us, _ in (one.key for one in tail.settle(lambda _: offsets))]


def test_bars_grow_with_every_trade() -> None:
    tail = tail_of(trade(1, 0), trade(2, 59.9, "3"), trade(3, 60, "4"))
    assert closes(tail) == {0: "3.00000000", 1: "4.00000000"}
    assert [bar["trades"] for bar in tail.bars(BTC, START_US + MINUTE_US)] == [1]
    assert tail.bars(BTC, START_US, START_US) == []
    assert not tail.bars(ETH)


def test_changed_bars_are_taken_once_and_versions_count_changes() -> None:
    tail = tail_of(trade(1, 0), trade(1, 0), trade(2, 61))
    assert [bar["trades"] for _, bar in tail.take_changed()] == [1, 1]
    assert not tail.take_changed()
    assert tail.versions[BTC] == 2


def test_minute_that_bronze_may_have_begun_waits_for_its_trades() -> None:
    tail = Tail(CONTEXT, START_US + 30_000_000)
    tail.add(0, 7, trade(5, 40, "5"))
    tail.add(0, 8, trade(6, 61, "6"))
    assert closes(tail) == {1: "6.00000000"}
    assert tail.to_load() == [(START_US, BTC)]
    tail.load((START_US, BTC), [trade(4, 20, "4"), trade(5, 40, "5")], {0: 8})
    assert closes(tail) == {0: "5.00000000", 1: "6.00000000"}
    assert [bar["trades"] for bar in tail.bars(BTC)] == [2, 1]
    assert not tail.to_load()


def test_minute_is_settled_once_silver_contains_its_last_record() -> None:
    tail = tail_of(trade(1, 0), trade(2, 59), trade(3, 61), trade(9, 0, topic=ETH))
    assert settled(tail, {0: 1}) == []
    assert settled(tail, {0: 2}) == [0]
    assert settled(tail, {0: 2}) == []
    assert closes(tail) == {1: "2.50000000"}
    assert not tail.has(BTC, START_US)
    assert len(tail.bars(ETH)) == 1


def test_minute_of_bronze_stays_until_silver_contains_its_records() -> None:
    tail = tail_of()
    tail.load((START_US, BTC), [trade(1, 0)], {0: 5})
    assert settled(tail, {0: 4}) == []
    assert closes(tail) == {0: "2.50000000"}
    assert settled(tail, {0: 5}) == [0]


def test_duplicate_leaves_a_minute_settled_and_another_trade_does_not() -> None:
    tail = tail_of(trade(1, 0), trade(2, 61))
    assert settled(tail, {0: 1}) == [0]
    version = tail.versions[BTC]
    tail.add(0, 2, trade(1, 0))
    assert (0 in closes(tail), tail.versions[BTC]) == (False, version)
    tail.add(0, 3, trade(3, 1, "7"))
    assert closes(tail)[0] == "7.00000000"
    assert settled(tail, {0: 3}) == [1]
    assert settled(tail, {0: 4}) == [0]


def test_old_settled_minute_is_evicted_and_a_late_trade_reads_it_again() -> None:
    tail = tail_of(trade(1, 0), trade(2, 61))
    assert settled(tail, {0: 1}) == [0]
    assert len(tail) == 2
    tail.add(0, 2, trade(3, (MINUTE_US + KEPT_US) / 1_000_000))
    assert settled(tail, {0: 1}) == []
    assert len(tail) == 2, "the old minute is gone, and a new one has come"
    tail.add(0, 3, trade(4, 1, "7"))
    assert 0 not in closes(tail)
    assert tail.to_load() == [(START_US, BTC)]
    tail.load((START_US, BTC), [trade(1, 0)], {0: 1})
    assert closes(tail)[0] == "7.00000000"


def test_minute_that_silver_contains_before_it_was_read_needs_no_read_until_another_trade() -> None:
    tail = tail_of(trade(1, 200))
    tail.add(0, 1, trade(2, -30))
    assert len(tail.to_load()) == 1
    assert settled(tail, {0: 2}) == [3], "the other one was not whole: nothing to compare"
    assert not tail.to_load()
    tail.add(0, 3, trade(4, -20))
    assert len(tail.to_load()) == 1


def test_trades_from_before_their_symbol_was_known_count_once_it_is() -> None:
    tail = Tail(replace(CONTEXT, symbols=(ETH,)), START_US - 1)
    tail.add(0, 0, trade(1, 0, "3"))
    tail.add(0, 1, trade(2, 61))
    assert settled(tail, {0: 1}) == [], "Silver has no bar of it either"
    assert (tail.bars(BTC), list(tail.take_changed()), tail.has(BTC, START_US)) == ([], [], False)
    tail.set_rules(CONTEXT)
    assert closes(tail) == {1: "2.50000000"}
    assert [topic for topic, _ in tail.take_changed()] == [BTC]
    tail.add(0, 2, trade(3, 30, "4"))
    assert closes(tail) == {0: "4.00000000", 1: "2.50000000"}
    assert [bar["trades"] for bar in tail.bars(BTC)] == [2, 1]


def test_minutes_are_bounded_the_oldest_go_first() -> None:
    tail = tail_of(*(trade(number, 60 * number) for number in range(10)), max_minutes=3)
    assert sorted(closes(tail)) == [7, 8, 9]
    assert tail.minutes_evicted_early == 7
