"""What becomes of control messages and of rejected frames, with the whole producer on a real socket."""

from __future__ import annotations

import json

from structlog.testing import capture_logs

from cryptolake_assets.stream.producer_status import StreamCounts
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
