"""The delivery: no message is lost, marks wait for acknowledgements, memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.publisher import FailureVerdict, Message
from cryptolake_tests.support.fakes import FakePublisher, until

TOPICS = {"trades": 2, "spot": 1}


def message(number: int, topic: str = "trades", partition: int = 0) -> Message:
    return Message(topic, b"%d" % number, b"key", partition)


@asynccontextmanager
async def running(
    publisher: FakePublisher, max_in_flight: int = 1000, stalled_session_s: float = 60.0
) -> AsyncIterator[ReliableDelivery]:
    delivery = ReliableDelivery(
        publisher, max_in_flight=max_in_flight, retry_first_s=0.001, stalled_session_s=stalled_session_s
    )
    await delivery.start()
    resend = asyncio.create_task(delivery.run())
    try:
        yield delivery
    finally:
        resend.cancel()
        await asyncio.gather(resend, return_exceptions=True)


def sent_values(publisher: FakePublisher) -> list[bytes]:
    return [sent.value for sent in publisher.log]


async def test_message_that_cannot_be_sent_is_resent() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.fails_send = [OSError("gone"), OSError("still gone")]
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        await delivery.put(message(2))
        await delivery.put(message(3))
        async with asyncio.timeout(5):
            await delivery.drained()
        assert sorted(sent_values(publisher)) == [b"1", b"2", b"3"]
        assert delivery.acked == {"trades": 3}
        assert delivery.messages_resent == 2
        assert delivery.in_flight == 0


async def test_message_without_acknowledgement_is_resent() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.fails_delivery = [TimeoutError()]
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        async with asyncio.timeout(5):
            await delivery.drained()
        assert sent_values(publisher) == [b"1"]
        assert delivery.messages_resent == 1


async def test_mark_waits_for_earlier_messages_only() -> None:
    publisher = FakePublisher(TOPICS, start_offset=100)
    publisher.holds_acks = True
    marks: list[tuple[str, dict[int, int]]] = []
    async with running(publisher) as delivery:
        delivery.mark("trades", lambda offsets: marks.append(("empty", offsets)))
        assert marks == [("empty", {0: 100, 1: 100})]
        await delivery.put(message(1))
        await delivery.put(message(2, partition=1))
        delivery.mark("trades", lambda offsets: marks.append(("first", offsets)))
        delivery.mark("trades", lambda offsets: marks.append(("second", offsets)))
        assert len(marks) == 1
        publisher.fails_delivery = [TimeoutError()]
        publisher.holds_acks = False
        publisher.release()  # 1 fails, 2 is acknowledged
        await delivery.put(message(3))
        assert len(marks) == 1
        await until(lambda: len(marks) == 3)
        # Message 3 now precedes the resent message 1, which is the last one below the offset.
        assert marks[1:] == [("first", {0: 102, 1: 101}), ("second", {0: 102, 1: 101})]


async def test_marks_are_called_in_order_even_if_later_messages_are_faster() -> None:
    publisher = FakePublisher(TOPICS)
    marks: list[int] = []
    async with running(publisher) as delivery:
        publisher.fails_delivery = [TimeoutError()]
        await delivery.put(message(1))
        delivery.mark("trades", lambda _: marks.append(1))
        await delivery.put(message(2))
        delivery.mark("trades", lambda _: marks.append(2))
        assert marks == []
        await until(lambda: len(marks) == 2)
        assert marks == [1, 2]


async def test_messages_of_other_topics_delay_marks_but_do_not_advance_offsets() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.holds_acks = True
    marks: list[dict[int, int]] = []
    async with running(publisher) as delivery:
        await delivery.put(message(1, topic="trades_rejected"))
        delivery.mark("trades", marks.append)
        assert marks == []
        publisher.release()
        assert marks == [{0: 0, 1: 0}]


async def test_topics_have_their_own_offsets_and_marks_wait_for_all_of_them() -> None:
    publisher = FakePublisher(TOPICS, start_offset=100)
    publisher.holds_acks = True
    marks: list[tuple[str, dict[int, int]]] = []
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        await delivery.put(message(2, topic="spot"))
        await delivery.put(message(3, topic="spot"))
        delivery.mark("trades", lambda offsets: marks.append(("trades", offsets)))
        delivery.mark("spot", lambda offsets: marks.append(("spot", offsets)))
        assert marks == []
        publisher.release()
        assert marks == [("trades", {0: 101, 1: 100}), ("spot", {0: 102})]
        assert delivery.acked == {"trades": 1, "spot": 2}


async def test_message_acknowledged_without_an_offset_is_resent() -> None:
    publisher = FakePublisher(TOPICS, start_offset=10)
    publisher.offsets = [-1]
    marks: list[dict[int, int]] = []
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        delivery.mark("trades", marks.append)
        assert marks == []
        await until(lambda: marks)
        assert marks == [{0: 12, 1: 10}]  # the first attempt is at offset 10, the duplicate at 11
        assert delivery.messages_resent == 1


async def test_message_is_resent_until_its_offset_is_known() -> None:
    publisher = FakePublisher(TOPICS, start_offset=10)
    publisher.offsets = [-1, -1, -1]
    marks: list[dict[int, int]] = []
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        delivery.mark("trades", marks.append)
        await until(lambda: marks)
        assert marks == [{0: 14, 1: 10}]


async def test_recreated_topic_does_not_stop_the_delivery() -> None:
    publisher = FakePublisher(TOPICS, start_offset=500)
    publisher.offsets = [0, 1]
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        async with asyncio.timeout(5):
            await delivery.drained()
        assert delivery.next_offsets["trades"][0] == 2


async def test_full_delivery_makes_the_caller_wait() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.holds_acks = True
    async with running(publisher, max_in_flight=2) as delivery:
        await delivery.put(message(1))
        await delivery.put(message(2))
        third = asyncio.create_task(delivery.put(message(3)))
        await asyncio.sleep(0)
        assert not third.done()
        publisher.release()
        await third
        assert delivery.in_flight == 1


async def test_broken_session_is_restarted_and_its_messages_are_resent() -> None:
    class SequenceError(Exception):
        pass

    publisher = FakePublisher(TOPICS)
    publisher.verdicts = {SequenceError: FailureVerdict.RESTART}
    publisher.holds_acks = True
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        publisher.fails_delivery = [SequenceError()]
        publisher.release()
        await delivery.put(message(2))  # the old session never acknowledges this one
        publisher.holds_acks = False
        async with asyncio.timeout(5):
            await delivery.drained()
        assert publisher.restarts == 1
        assert sorted(sent_values(publisher)) == [b"1", b"2"]


async def test_restart_without_a_broker_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    class SequenceError(Exception):
        pass

    publisher = FakePublisher(TOPICS)
    publisher.verdicts = {SequenceError: FailureVerdict.RESTART}
    publisher.fails_delivery = [SequenceError()]
    restart = publisher.restart
    failures = [BrokerError("kafka: unavailable"), BrokerError("kafka: unavailable")]

    async def restart_later() -> None:
        if failures:
            raise failures.pop()
        await restart()

    monkeypatch.setattr(publisher, "restart", restart_later)
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        async with asyncio.timeout(5):
            await delivery.drained()
        assert sent_values(publisher) == [b"1"]
        assert not failures


async def test_session_that_reports_nothing_is_replaced_once_a_broker_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = FakePublisher(TOPICS)
    publisher.holds_acks = True
    restart = publisher.restart
    failures = [BrokerError("kafka: unavailable"), BrokerError("kafka: unavailable")]

    async def restart_later() -> None:
        if failures:
            raise failures.pop()
        publisher.holds_acks = False
        await restart()

    monkeypatch.setattr(publisher, "restart", restart_later)
    async with running(publisher, stalled_session_s=0.05) as delivery:
        await delivery.put(message(1))
        async with asyncio.timeout(5):
            await delivery.drained()
        assert sent_values(publisher) == [b"1"]
        assert publisher.restarts == 1


async def test_session_whose_messages_all_fail_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = FakePublisher(TOPICS)
    publisher.fails_delivery = [TimeoutError() for _ in range(1_000_000)]
    restart = publisher.restart

    async def restart_with_success() -> None:
        publisher.fails_delivery = []
        await restart()

    monkeypatch.setattr(publisher, "restart", restart_with_success)
    async with running(publisher, stalled_session_s=0.05) as delivery:
        await delivery.put(message(1))
        async with asyncio.timeout(10):
            await delivery.drained()
        assert publisher.restarts == 1


async def test_permanent_rejection_is_raised() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.verdicts = {PermissionError: FailureVerdict.FATAL}
    publisher.fails_delivery = [PermissionError("not yours")]
    async with running(publisher) as delivery:
        await delivery.put(message(1))
        with pytest.raises(BrokerAccessError, match=r"permanently reject records on topic trades .*not yours"):
            await delivery.fatal


async def test_start_waits_for_the_broker() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.fails_start = [BrokerError("kafka: unavailable"), BrokerError("kafka: unavailable")]
    async with running(publisher) as delivery:
        assert delivery.next_offsets == {"trades": {0: 0, 1: 0}, "spot": {0: 0}}
    assert not publisher.fails_start


async def test_start_raises_if_the_broker_rejects_the_client() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.fails_start = [BrokerAccessError("kafka: no")]
    with pytest.raises(BrokerAccessError, match="kafka: no"):
        async with running(publisher):
            pass


async def test_stall_is_reported_while_messages_are_in_flight() -> None:
    publisher = FakePublisher(TOPICS)
    publisher.holds_acks = True
    async with running(publisher) as delivery:
        assert delivery.stalled_s == 0
        await delivery.put(message(1))
        await until(lambda: delivery.stalled_s > 0.01)
        publisher.release()
        assert delivery.stalled_s == 0
