"""The entire producer on a real socket: sent messages, claimed coverage, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.errors import BrokerAccessError
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.connection_pool import ConnectionPoolOptions
from cryptolake_assets.producer.process import ProducerOptions
from cryptolake_assets.producer.publisher import FailureVerdict
from cryptolake_assets.producer.status_file import read_status
from cryptolake_assets.producer.subscriptions import refresh_symbols
from cryptolake_tests.support.fakes import (
    NOON_MS,
    FakeClock,
    FakePublisher,
    trade,
    until,
)
from cryptolake_tests.support.producing import OPTIONS, stage


async def test_trades_go_to_the_trade_topic_keyed_by_symbol() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.exchange.send(trade(1, NOON_MS), trade(2, NOON_MS, "ETHUSDT"), trade(3, NOON_MS, price="0"))
        await until(lambda: len(on.publisher.log) == 3)
        assert [message.topic for message in on.publisher.log] == [on.topic] * 3
        assert [message.key for message in on.publisher.log] == [b"BTCUSDT", b"ETHUSDT", b"BTCUSDT"]
        assert [message.partition for message in on.publisher.log] == [
            on.publisher.partition_for(on.topic, key) for key in (b"BTCUSDT", b"ETHUSDT", b"BTCUSDT")
        ]
        event = json.loads(on.publisher.log[0].value)
        assert (event["price"], event["event_time"], event["exchange"]) == ("1.50", NOON_MS * 1000, "binance_futures")
        assert await on.ended()


async def test_rejected_frames_become_dead_letters_and_the_stream_continues() -> None:
    async with stage() as on:
        broken = trade(2, NOON_MS)[:-9]
        await on.exchange.send(trade(1, NOON_MS), broken, b'{"data":{"e":"trade","\xff', trade(3, NOON_MS))
        await until(lambda: len(on.publisher.log) == 4)
        assert on.sent() == [1, 3]
        letters = [message for message in on.publisher.log if message.topic == on.settings.topic_rejected]
        assert [letter.value for letter in letters] == [broken.encode(), b'{"data":{"e":"trade","\xff']
        assert letters[0].key is None
        headers = dict(letters[0].headers or [])
        assert headers["reason"].startswith(b"not_json: ")
        assert headers["stream"] == b"trade"
        assert headers["received_at_us"].isdigit()
        assert await on.ended()


async def test_gap_is_written_before_the_coverage_of_its_time() -> None:
    async with stage() as on:
        on.gaps.failures_left = 3
        await on.exchange.send(
            trade(1, NOON_MS), trade(2, NOON_MS + 10), trade(5, NOON_MS + 900), trade(6, NOON_MS + 901)
        )
        await until(lambda: on.sink.rows)
        assert on.gaps.failures_left == 0, "no coverage while the ledger write fails"
        (gap,) = on.gaps.gaps.values()
        assert (gap.first_missing_id, gap.last_missing_id, gap.closed_at) == (3, 4, None)
        assert (gap.after_us, gap.before_us) == ((NOON_MS + 10) * 1000, (NOON_MS + 900) * 1000)
        await on.exchange.send(trade(4, NOON_MS + 20), trade(3, NOON_MS + 20))
        await until(lambda: not on.gaps.open_gaps())
        (gap,) = on.gaps.gaps.values()
        assert gap.kafka_offset == 6, "all late trades are below it"
        assert await on.ended()


async def test_trade_of_an_unsubscribed_symbol_is_published_without_coverage() -> None:
    async with stage() as on:
        await on.exchange.send(trade(1, NOON_MS, ""), trade(2, NOON_MS, "DOGEUSDT"))
        await until(lambda: len(on.publisher.log) == 2)
        assert [message.key for message in on.publisher.log] == [b"", b"DOGEUSDT"]
        assert await on.ended()
        assert {message.topic for message in on.publisher.log} == {on.topic}
        assert on.sink.rows == [], "no coverage is claimed"


async def test_ids_of_unsubscribed_symbols_open_no_gap() -> None:
    async with stage() as on:
        for number in range(3):
            await on.exchange.send(trade(1, NOON_MS, f"DOGE{number}USDT"), trade(9, NOON_MS, f"DOGE{number}USDT"))
        await on.exchange.send(trade(1, NOON_MS), trade(2, NOON_MS))
        await until(lambda: len(on.publisher.log) == 8)
        assert on.feed.status().ids_missing == 0
        assert await on.ended()
        assert on.gaps.gaps == {}


async def test_coverage_spans_the_first_frame_to_the_exchange_clock() -> None:
    async with stage(publisher=FakePublisher(start_offset=40)) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 5), trade(2, NOON_MS + 90))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        partition = on.publisher.partition_for(on.topic, b"BTCUSDT")
        assert on.sink.rows[0] == CoverageRow(
            "binance_futures",
            "BTCUSDT",
            "trade",
            NOON_MS,
            NOON_MS + 1_000,
            partition,
            42,
            on.exchange.url,
            Evidence.BARRIER,
        )
        assert await on.ended()
        assert on.publisher.stopped


async def test_clock_ahead_of_the_frames_claims_no_time_to_come() -> None:
    async with stage(replay_speed=1.0) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 5), trade(2, NOON_MS + 90))
        await until(lambda: on.sent() == [1, 2])
        on.clock.now_ms = NOON_MS + 600_000
        await until(lambda: on.clock.requests >= 6)
        assert on.sink.spans()[-1] == (NOON_MS, NOON_MS + 90)
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans()[-1] == (NOON_MS, NOON_MS + 1_000))
        assert await on.ended()


async def test_symbol_without_trades_is_covered_at_its_start_offset() -> None:
    async with stage(publisher=FakePublisher(start_offset=7), symbols=("BTCUSDT", "B")) as on:
        await on.opened()
        await on.exchange.connected()
        on.clock.now_ms = NOON_MS + 500
        await until(lambda: len(on.sink.spans("B")) == 1)
        assert {row.kafka_offset for row in on.sink.rows} == {7}
        assert await on.ended()


async def test_unacknowledged_trades_are_not_claimed() -> None:
    async with stage() as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10))
        await until(lambda: on.sent() == [1])
        await until(lambda: on.sink.spans() or on.exchange.requests)
        on.publisher.holds_acks = True
        await on.exchange.send(trade(2, NOON_MS + 20))
        requests = on.exchange.requests
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.exchange.requests > requests)
        await asyncio.sleep(0.2)  # several intervals: no claim may extend past the frame in flight
        assert all(end < NOON_MS + 1_000 for _, end in on.sink.spans())
        on.publisher.holds_acks = False
        on.publisher.release()
        await until(lambda: on.sink.spans() and on.sink.spans()[0][1] == NOON_MS + 1_000)
        assert next(iter(on.sink.rows)).kafka_offset == 2
        assert await on.ended()


async def test_disconnect_ends_the_claim_at_the_last_frame_and_begins_another() -> None:
    async with stage(coverage_interval_s=30.0) as on:
        await on.opened()
        await on.exchange.send(trade(1, NOON_MS + 10), trade(2, NOON_MS + 200))
        await until(lambda: on.sent() == [1, 2])
        on.clock.now_ms = NOON_MS + 9_000  # frames sent between 200 and 9,000 ms are unknown
        on.exchange.sockets[0].transport.abort()
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 200)])
        await on.exchange.connected(2)
        await on.exchange.send(trade(9, NOON_MS + 9_100))
        await until(lambda: on.sent() == [1, 2, 9])
        assert await on.ended()
        assert on.sink.spans() == [(NOON_MS, NOON_MS + 200), (NOON_MS + 9_000, NOON_MS + 9_100)]


async def test_coverage_without_responses_ends_with_the_latest_frame() -> None:
    async with stage() as on:
        await on.opened()
        on.exchange.responds = False
        await on.exchange.send(trade(1, NOON_MS + 10), trade(2, NOON_MS + 300))
        on.clock.now_ms = NOON_MS + 5_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 300)])
        assert await on.ended()


async def test_coverage_without_a_clock_uses_the_frame_times() -> None:
    async with stage(clock=FakeClock(None)) as on:
        await on.exchange.send(trade(1, NOON_MS + 10), trade(2, NOON_MS + 300))
        await until(lambda: on.sink.spans() == [(NOON_MS + 10, NOON_MS + 300)])
        assert await on.ended()


async def test_recorded_response_does_not_complete_a_barrier() -> None:
    async with stage(coverage_interval_s=30.0) as on:
        await on.exchange.send('{"result":null,"id":1}', trade(1, NOON_MS + 10))
        await until(lambda: on.sent() == [1])
        assert on.sink.spans() == []
        assert await on.ended()


async def test_failed_coverage_write_is_retried_without_stopping_the_stream() -> None:
    async with stage() as on:
        await on.opened()
        on.sink.failures_left = 2
        await on.exchange.send(trade(1, NOON_MS + 10))
        on.clock.now_ms = NOON_MS + 1_000
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 1_000)])
        assert on.sent() == [1]
        assert await on.ended()


async def test_stop_delivers_and_claims_all_received_trades() -> None:
    publisher = FakePublisher()
    async with stage(publisher=publisher, coverage_interval_s=30.0) as on:
        publisher.holds_acks = True
        count = 2_000
        await on.exchange.send(*(trade(number, NOON_MS + number) for number in range(count)))
        await until(lambda: (status := read_status(on.settings)) is not None and status.in_flight == count)
        on.stop.set()
        await asyncio.sleep(0.05)
        assert not on.run.done()
        publisher.holds_acks = False
        publisher.release()
        assert await on.ended()
        assert on.sent() == list(range(count))
        assert on.sink.spans() == [(NOON_MS, NOON_MS + count - 1)]
        status = read_status(on.settings)
        assert status is not None
        assert (status.state, status.events_acked, status.queued_frames) == ("stopped", count, 0)


async def test_stop_without_delivery_reports_failure_and_claims_nothing() -> None:
    options = ProducerOptions(connection=OPTIONS.connection, drain_timeout_s=0.1, claim_wait_s=0.1)
    publisher = FakePublisher()
    async with stage(publisher=publisher, options=options, coverage_interval_s=30.0) as on:
        publisher.holds_acks = True
        await on.exchange.send(trade(1, NOON_MS + 10))
        await until(lambda: (status := read_status(on.settings)) is not None and status.state == "streaming")
        await on.exchange.connected()
        assert not await on.ended()
        assert on.sink.spans() == []


async def test_permanent_rejection_by_the_broker_ends_the_producer() -> None:
    publisher = FakePublisher()
    publisher.verdicts = {PermissionError: FailureVerdict.FATAL}
    publisher.fails_delivery = [PermissionError("not yours")]
    async with stage(publisher=publisher) as on:
        await on.exchange.send(trade(1, NOON_MS + 10))
        with pytest.raises(BrokerAccessError, match="not yours"):
            await asyncio.wait_for(asyncio.shield(on.run), 10)
        status = read_status(on.settings)
        assert status is not None
        assert status.state == "failed"
        assert publisher.stopped


async def test_stop_while_waiting_for_the_broker_ends_at_once() -> None:
    class UnreachablePublisher(FakePublisher):
        async def start(self, listener: object) -> None:
            await asyncio.Event().wait()

    async with stage(publisher=UnreachablePublisher()) as on:
        await until(lambda: (status := read_status(on.settings)) is not None and status.state == "waiting_for_broker")
        assert await on.ended()
        assert on.exchange.sockets == []


async def test_status_shows_a_stalled_broker() -> None:
    def state() -> str | None:
        status = read_status(on.settings)
        return status.state if status else None

    async with stage() as on:
        await until(lambda: state() == "streaming")
        on.publisher.holds_acks = True
        await on.exchange.send(trade(1, NOON_MS + 10))
        await until(lambda: state() == "waiting_for_broker")
        on.publisher.holds_acks = False
        on.publisher.release()
        await until(lambda: state() == "streaming")
        assert await on.ended()


async def test_status_counts_messages_and_times() -> None:
    async with stage() as on:
        await on.opened()
        on.publisher.fails_delivery = [TimeoutError()]
        await on.exchange.send(trade(1, NOON_MS + 10), "not json", trade(2, NOON_MS + 40))
        on.clock.now_ms = NOON_MS + 700
        await until(lambda: on.sink.spans() == [(NOON_MS, NOON_MS + 700)])
        assert await on.ended()
        status = read_status(on.settings)
        assert status is not None
        assert (status.events_acked, status.rejected, status.messages_resent) == (2, 1, 1)
        market = status.markets[Market.USD_M]
        assert (market.last_event_time_ms, market.exchange_time_ms) == (NOON_MS + 40, NOON_MS + 700)
        assert market.coverage_to_ms == {"BTCUSDT": NOON_MS + 700}
        assert [(link.name, link.symbols) for link in market.connections] == [("usdm-trade-0", 1)]


def run_module(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cryptolake_assets.producer.process"],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CRYPTOLAKE_SYMBOLS", "NOPEUSDT", "unknown symbol NOPEUSDT"),
        ("CRYPTOLAKE_TRADE_STREAM", "aggTrade", "does not contain aggTrade frames"),
        ("CRYPTOLAKE_COVERAGE_INTERVAL_S", "-1", "CRYPTOLAKE_COVERAGE_INTERVAL_S"),
    ],
)
def test_wrong_settings_end_the_process_with_a_message(variable: str, value: str, message: str) -> None:
    process = run_module(**{variable: value})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message in errors
    assert "Traceback" not in errors


def test_sigterm_ends_a_process_waiting_for_its_broker(tmp_path: Any) -> None:
    process = run_module(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9", CRYPTOLAKE_HOME=str(tmp_path))
    assert process.stderr is not None
    for line in process.stderr:
        if "broker_unreachable" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


async def test_replaced_connection_leaves_no_gap_in_the_coverage() -> None:
    options = replace(OPTIONS, pool=ConnectionPoolOptions(life_s=0.15, connect_apart_s=0.0))
    async with stage(options=options) as on:
        await on.opened()
        for number in range(400):
            on.clock.now_ms = NOON_MS + number * 100
            open_sockets = [socket for socket in on.exchange.sockets if socket.close_code is None]
            for socket in open_sockets:
                with suppress(ConnectionClosed):
                    await socket.send(trade(number, NOON_MS + number * 100))
            await asyncio.sleep(0.002)
        await until(lambda: on.feed.pool.replacements >= 2)
        assert await on.ended()
        assert set(on.sent()) == set(range(400))
        assert on.gaps.gaps == {}
        (by_barrier,) = [row for row in on.sink.rows if row.evidence is Evidence.BARRIER]
        assert by_barrier.connected_from_ms == NOON_MS
        assert by_barrier.connected_to_ms >= NOON_MS + 399 * 100


async def test_stale_symbol_is_reported_and_its_connection_replaced() -> None:
    async with stage(symbols=("BTCUSDT", "ETHUSDT")) as on:
        await on.opened()
        for number in range(2):  # a rate is known from the second check on
            now_ms = on.clock.now_ms = NOON_MS + 1_000 * (number + 1)
            await on.exchange.send(trade(number, now_ms - 1), trade(number, now_ms - 1, "ETHUSDT"))
            await until(lambda: on.feed.status().coverage_to_ms.get("ETHUSDT") == on.clock.now_ms)
        on.clock.now_ms = NOON_MS + 120_000
        await on.exchange.send(trade(2, NOON_MS + 119_000))
        await until(lambda: on.feed.status().stale_symbols == ("ETHUSDT",))
        await until(lambda: on.feed.pool.replacements == 1)
        await on.exchange.send(trade(2, NOON_MS + 119_500, "ETHUSDT"))
        await until(lambda: on.feed.status().stale_symbols == ())
        assert await on.ended()


async def test_changed_symbols_file_changes_the_tracked_symbols(tmp_path: Path) -> None:
    path = tmp_path / "symbols.txt"
    path.write_text("BTCUSDT\n")
    async with stage(symbols=("BTCUSDT",), symbols_file=path) as on, AsyncExchangeRest("http://127.0.0.1:1") as rest:
        await on.opened()
        refreshing = asyncio.create_task(refresh_symbols(on.settings, ("BTCUSDT",), rest, on.feed.pool))
        try:
            with capture_logs() as logs:
                path.write_text("NOPE\n")
                await until(lambda: [entry for entry in logs if entry["event"] == "symbol_refresh_rejected"])
            assert on.feed.pool.symbols == ("BTCUSDT",)
            path.write_text("BTCUSDT\nETHUSDT\n")
            await until(lambda: on.exchange.paths[-1] == "/market/stream?streams=btcusdt@trade/ethusdt@trade")
            await until(lambda: on.exchange.sockets[0].close_code is not None)
            await on.exchange.send(trade(1, NOON_MS, "ETHUSDT"))
            await until(lambda: on.sent() == [1])
            assert on.feed.status().symbols == 2
        finally:
            await cancel_and_wait([refreshing])
        assert await on.ended()
