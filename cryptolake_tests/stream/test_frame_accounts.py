"""What becomes of control messages and of rejected frames, with the whole producer on a real socket."""

from __future__ import annotations

import json

from structlog.testing import capture_logs

from cryptolake_assets.stream.producer_status import RejectedSymbol, StreamCounts
from cryptolake_tests.support.fakes import NOON_MS, trade, until
from cryptolake_tests.support.producing import stage

SHUTDOWN = {"e": "serverShutdown", "E": NOON_MS}


async def test_control_messages_are_counted_and_no_dead_letters() -> None:
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


async def test_shutdown_notice_has_its_connection_replaced_before_it_ends() -> None:
    async with stage() as on:
        await on.exchange.send(trade(1, NOON_MS), json.dumps({"stream": "!serverShutdown", "data": SHUTDOWN}))
        await until(lambda: len(on.exchange.sockets) == 2)
        assert on.exchange.sockets[0].close_code is None, "the old connection stays until the new one is open"
        await until(lambda: on.producer.status().renewals == 1)
        assert [socket.close_code is None for socket in on.exchange.sockets] == [False, True]
        assert await on.ended()


def odd(symbol: str, trade_id: int, event_ms: int) -> str:
    return trade(trade_id, event_ms, symbol, price="6.21e-2")


async def test_symbol_whose_frames_are_rejected_is_not_covered_and_is_told() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), odd("ETHUSDT", 1, NOON_MS + 20), trade(2, NOON_MS + 30))
        await on.exchange.send(odd("ETHUSDT", 2, NOON_MS + 40))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 10)], "up to the last frame before the rejected ones"
        (told,) = on.producer.status().rejecting.items()
        assert told == ("ETHUSDT", RejectedSymbol(2, "price_format: p is '6.21e-2'"))
        assert await on.ended()


async def test_coverage_of_a_symbol_begins_with_its_first_accepted_trade_after_rejected_ones() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(odd("ETHUSDT", 1, NOON_MS + 20), trade(2, NOON_MS + 30, "ETHUSDT"))
        await on.exchange.send(trade(1, NOON_MS + 35))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans("ETHUSDT") == [(NOON_MS + 31, NOON_MS + 1_000)])
        assert on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)]
        assert on.producer.status().rejecting == {}
        assert await on.ended()


async def test_rejected_trade_between_accepted_ones_is_a_gap() -> None:
    async with stage() as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), odd("BTCUSDT", 2, NOON_MS + 20), trade(3, NOON_MS + 30))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        (gap,) = on.gaps.gaps.values()
        assert (gap.first_missing_id, gap.last_missing_id, gap.closed_at) == (2, 2, None)
        assert await on.ended()


async def test_frame_that_names_no_symbol_leaves_all_symbols_open_until_their_next_trade() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), trade(1, NOON_MS + 10, "ETHUSDT"), "{broken")
        await on.exchange.send(trade(2, NOON_MS + 20))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sink.spans("ETHUSDT") == [(NOON_MS, NOON_MS + 10)]
        assert await on.ended()
