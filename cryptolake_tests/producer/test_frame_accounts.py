"""Control messages and rejected frames, with the entire producer on a real socket."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from cryptolake_assets.lake.gap_ledger import GapOutcome
from cryptolake_assets.model.exchange_records import AggTrade
from cryptolake_assets.producer.status_file import RejectedSymbol, StreamCounts
from cryptolake_tests.support.captures import agg_trade_frame
from cryptolake_tests.support.fakes import NOON_MS, MemoryHistory, trade, until
from cryptolake_tests.support.producing import stage

SHUTDOWN = {"e": "serverShutdown", "E": NOON_MS}


async def test_control_messages_are_counted_and_are_no_dead_letters() -> None:
    with capture_logs() as logs:
        async with stage() as on:
            await on.exchange.send(
                trade(1, NOON_MS),
                json.dumps({"result": None, "id": 1}),
                json.dumps({"error": {"code": 3, "msg": "Invalid JSON"}}),
                json.dumps({"lastUpdateId": 1, "bids": [], "asks": []}),
                "broken",
                trade(2, NOON_MS),
            )
            await until(lambda: on.sent() == [1, 2])
            assert on.producer.status().streams == {"trade": StreamCounts(accepted=2, rejected=1, control=3)}
            letters = [message.value for message in on.publisher.log if message.topic == on.settings.topic_rejected]
            assert letters == [b"broken"]
            assert await on.ended()
    assert [line["error"] for line in logs if line["event"] == "exchange_error_received"] == [
        "{'code': 3, 'msg': 'Invalid JSON'}"
    ]


async def test_shutdown_notice_replaces_its_connection_before_it_ends() -> None:
    async with stage() as on:
        await on.exchange.send(trade(1, NOON_MS), json.dumps({"stream": "!serverShutdown", "data": SHUTDOWN}))
        await until(lambda: len(on.exchange.sockets) == 2)
        assert on.exchange.sockets[0].close_code is None, "the old connection stays open until the new one is open"
        await until(lambda: on.feed.status().connections_replaced == 1)
        assert [socket.close_code is None for socket in on.exchange.sockets] == [False, True]
        assert await on.ended()


def malformed(symbol: str, trade_id: int, event_ms: int) -> str:
    return trade(trade_id, event_ms, symbol, price="6.21e-2")


async def test_symbol_with_rejected_frames_is_not_covered_and_is_reported() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), malformed("ETHUSDT", 1, NOON_MS + 20), trade(2, NOON_MS + 30))
        await on.exchange.send(malformed("ETHUSDT", 2, NOON_MS + 40))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 10)], "up to the last frame before the rejected ones"
        (entry,) = on.feed.status().rejecting.items()
        assert entry == ("ETHUSDT", RejectedSymbol(2, "price_format: p is '6.21e-2'"))
        assert await on.ended()


async def test_coverage_begins_with_the_first_accepted_trade_after_rejected_ones() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(malformed("ETHUSDT", 1, NOON_MS + 20), trade(2, NOON_MS + 30, "ETHUSDT"))
        await on.exchange.send(trade(1, NOON_MS + 35))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans("ETHUSDT") == [(NOON_MS + 31, NOON_MS + 1_000)])
        assert on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)]
        assert on.feed.status().rejecting == {}
        assert await on.ended()


@pytest.mark.parametrize(
    "next_id",
    [pytest.param(1, id="duplicate"), pytest.param(0, id="older trade"), pytest.param(10**12, id="unconfirmed id")],
)
async def test_coverage_resumes_after_a_rejected_frame_only_with_the_next_trade(next_id: int) -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), trade(1, NOON_MS + 20, "ETHUSDT"))
        await on.exchange.send(malformed("ETHUSDT", 2, NOON_MS + 30), trade(next_id, NOON_MS + 40, "ETHUSDT"))
        await on.exchange.send(trade(2, NOON_MS + 50))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 20)]
        await on.exchange.send(trade(3, NOON_MS + 60, "ETHUSDT"))
        await until(lambda: on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 1_000)])
        assert [(gap.first_missing_id, gap.before_us) for gap in on.gaps.gaps.values()] == [(2, (NOON_MS + 60) * 1000)]
        assert await on.ended()


async def test_trade_that_fills_an_older_gap_bounds_the_time_of_the_rejected_ones() -> None:
    async with stage() as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), trade(5, NOON_MS + 20), malformed("BTCUSDT", 6, NOON_MS + 30))
        await on.exchange.send(trade(2, NOON_MS + 40))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        await until(lambda: {(gap.first_missing_id, gap.before_us) for gap in on.gaps.gaps.values()} == WITH_6)
        assert await on.ended()


WITH_6 = {(2, (NOON_MS + 20) * 1000), (6, (NOON_MS + 40) * 1000)}


async def test_trade_that_fills_an_older_gap_does_not_explain_a_frame_without_an_id() -> None:
    without_id = json.loads(trade(6, NOON_MS + 30))
    del without_id["data"]["t"]
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), trade(5, NOON_MS + 20), json.dumps(without_id))
        await on.exchange.send(trade(2, NOON_MS + 40), trade(1, NOON_MS + 50, "ETHUSDT"))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sink.spans() == [(NOON_MS, NOON_MS + 20)]
        assert await on.ended()


async def test_rejected_trade_between_accepted_ones_is_a_gap() -> None:
    async with stage() as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), malformed("BTCUSDT", 2, NOON_MS + 20), trade(3, NOON_MS + 30))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        (gap,) = on.gaps.gaps.values()
        assert (gap.first_missing_id, gap.last_missing_id, gap.closed_at) == (2, 2, None)
        assert await on.ended()


async def test_rejected_frame_without_a_symbol_stops_coverage_of_all_until_their_next_trade() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), trade(1, NOON_MS + 10, "ETHUSDT"), "{broken")
        await on.exchange.send(trade(2, NOON_MS + 20))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 10)]
        assert await on.ended()


def without_trade(agg_id: int, event_ms: int, **changes: object) -> str:
    frame = json.loads(agg_trade_frame("BTCUSDT", agg_id, event_ms, price="0.00000000", qty="0.0"))
    frame["data"] |= {"f": -1, "l": -1, **changes}
    return json.dumps(frame)


async def test_aggregate_without_a_trade_is_covered_and_is_neither_event_nor_dead_letter() -> None:
    async with stage(stream="aggTrade") as on:
        await on.opened()
        await on.exchange.send(agg_trade_frame("BTCUSDT", 1, NOON_MS + 10), without_trade(2, NOON_MS + 20))
        await on.exchange.send(without_trade(-1, NOON_MS + 25), agg_trade_frame("BTCUSDT", 3, NOON_MS + 30))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sent() == [1, 3]
        assert on.gaps.gaps == {}
        assert on.producer.status().streams == {"aggTrade": StreamCounts(accepted=4, rejected=0, control=0)}
        assert {message.topic for message in on.publisher.log} == {on.topic}
        assert await on.ended()


async def test_frame_marked_as_no_trade_is_covered_and_is_no_dead_letter() -> None:
    mark = json.loads(trade(-1, NOON_MS + 20, price="0"))
    mark["data"]["q"] = "0"
    async with stage() as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), json.dumps(mark), trade(2, NOON_MS + 30))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sent() == [1, 2]
        assert {message.topic for message in on.publisher.log} == {on.topic}
        assert await on.ended()


async def test_fetched_aggregate_without_a_trade_closes_its_gap() -> None:
    rows = [AggTrade(1, "1.5", "1", 2, 3, NOON_MS, is_buyer_maker=False)]
    rows += [AggTrade(number, "0.00", "0", -1, -1, NOON_MS, is_buyer_maker=False) for number in (2, 3)]
    async with stage(stream="aggTrade", history=MemoryHistory(rows)) as on:
        await on.opened()
        await on.exchange.send(agg_trade_frame("BTCUSDT", 1, NOON_MS + 10), agg_trade_frame("BTCUSDT", 4, NOON_MS + 30))
        await until(lambda: [gap.closed_at is None for gap in on.gaps.gaps.values()] == [False])
        (gap,) = on.gaps.gaps.values()
        assert (gap.first_missing_id, gap.last_missing_id, gap.outcome) == (2, 3, GapOutcome.NOT_ORDER_BOOK)
        assert on.sent() == [1, 4]
        assert {message.topic for message in on.publisher.log} == {on.topic}
        assert await on.ended()


@pytest.mark.parametrize("changes", [{"l": 5}, {"p": "0.01"}, {"q": "0.001"}, {"s": ""}, {"f": -1.0}, {"a": -2}])
async def test_other_frames_with_negative_ids_are_dead_letters(changes: dict[str, object]) -> None:
    async with stage(stream="aggTrade") as on:
        await on.exchange.send(without_trade(2, NOON_MS, **changes))
        await until(lambda: [message.topic for message in on.publisher.log] == [on.settings.topic_rejected])
        assert await on.ended()


async def test_symbol_without_a_subscription_is_logged_once_and_its_trades_are_published() -> None:
    with capture_logs() as logs:
        async with stage(symbols=("BTCUSDT", "币安人生USDT")) as on:
            frames = [trade(number, NOON_MS, symbol) for number in range(3) for symbol in ("btcusdt", "币安人生USDT")]
            await on.exchange.send(
                *frames, malformed("ETHUSDT", 1, NOON_MS), malformed("ETHUSDT", 2, NOON_MS), "{broken"
            )
            await until(lambda: on.producer.status().streams == {"trade": StreamCounts(6, 3, 0)})
            assert on.sent() == [0, 0, 1, 1, 2, 2]
            assert await on.ended()
    logged = [(line["stream"], line["symbol"]) for line in logs if line["event"] == "symbol_not_subscribed"]
    assert logged == [("trade", "btcusdt"), ("trade", "ETHUSDT")]
