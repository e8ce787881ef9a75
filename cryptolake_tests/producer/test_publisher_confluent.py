"""Callbacks of librdkafka and their messages; the integration tests cover the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaError

from cryptolake_assets.errors import BrokerAccessError
from cryptolake_assets.producer import publisher_confluent
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.publisher_confluent import (
    ConfluentPublisher,
    _ConfluentSession,
    _InFlight,
    client_configuration,
)
from cryptolake_assets.settings import load_settings

TOPIC = "trades"
BROKEN = KafkaError(KafkaError._PURGE_QUEUE)


@dataclass
class Record:
    """The record that the library passes to a callback."""

    at: int = -1001
    partition_number: int = 0

    def offset(self) -> int:
        return self.at

    def partition(self) -> int:
        return self.partition_number


class RecordingListener:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.acknowledged_runs: list[tuple[int, int, list[int]]] = []
        self.failures: list[list[int]] = []

    def acknowledged(self, messages: Sequence[Message], partition: int, first_offset: int) -> None:
        self.acknowledged_runs.append((partition, first_offset, _numbers(messages)))

    def failed(self, messages: Sequence[Message], error: BaseException) -> None:
        self.failures.append(_numbers(messages))


def _numbers(messages: Sequence[Message]) -> list[int]:
    return [int(message.value) for message in messages]


def messages(*numbers: int, partition: int = 0) -> list[Message]:
    return [Message(TOPIC, b"%d" % number, b"key", partition) for number in numbers]


def outcome_of(*results: KafkaError | Record) -> RecordingListener:
    """Return the listener after messages 0, 1, … got these results."""
    listener = RecordingListener()
    batch = _InFlight(messages(*range(len(results))), listener)
    for number, result in enumerate(results):
        assert not listener.acknowledged_runs, f"reported before result {number}"
        assert not listener.failures, f"reported before result {number}"
        record = Record() if isinstance(result, KafkaError) else result
        batch.on_delivery(result if isinstance(result, KafkaError) else None, record)
    return listener


def test_messages_of_a_batch_are_acknowledged_as_a_batch() -> None:
    assert outcome_of(Record(70, 3), Record(71, 3), Record(72, 3)).acknowledged_runs == [(3, 70, [0, 1, 2])]


def test_first_offset_is_counted_back_from_the_last_record() -> None:
    """Another producer wrote in between. Coverage needs the offset after the last record to be exact."""
    assert outcome_of(Record(70), Record(75)).acknowledged_runs == [(0, 74, [0, 1])]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_single_failure_fails_the_entire_batch(failing: int) -> None:
    results: list[KafkaError | Record] = [Record(70), Record(71), Record(72)]
    results[failing] = BROKEN
    listener = outcome_of(*results)
    assert listener.acknowledged_runs == []
    assert listener.failures == [[0, 1, 2]]


def test_missing_offset_is_reported_as_negative() -> None:
    """The delivery then resends the messages."""
    ((_, first_offset, numbers),) = outcome_of(Record(70), Record()).acknowledged_runs
    assert first_offset < 0
    assert numbers == [0, 1]


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_ConfluentSession]:
    """A session without a broker, whose library buffers ten messages."""
    monkeypatch.setattr(publisher_confluent, "STOP_TIMEOUT_S", 0.05)
    configuration = client_configuration(load_settings(kafka_bootstrap_servers="127.0.0.1:1"))
    session = _ConfluentSession({**configuration, "queue.buffering.max.messages": 10}, RecordingListener())
    yield session
    await session.close()


def listener_of(session: _ConfluentSession) -> RecordingListener:
    listener = session._listener
    assert isinstance(listener, RecordingListener)
    return listener


async def test_message_beyond_the_buffer_fails_with_all_later_ones(session: _ConfluentSession) -> None:
    session.send(messages(*range(13)))
    assert listener_of(session).failures == [[10, 11, 12]]
    session.send(messages(13))
    assert listener_of(session).failures == [[10, 11, 12], [13]]


async def test_closed_session_reports_remaining_messages_as_failed(session: _ConfluentSession) -> None:
    alone = Message(TOPIC, b"9", headers=[("name", b"value")])
    session.send([*messages(0, 2), *messages(1, partition=1), *messages(4), alone])
    assert listener_of(session).failures == []
    await session.close()
    assert sorted(listener_of(session).failures) == [[0, 2, 4], [1], [9]]


def test_topic_with_fewer_partitions_than_at_the_start_is_rejected() -> None:
    publisher = ConfluentPublisher(load_settings())
    publisher._start_offsets = {TOPIC: dict.fromkeys(range(4), 0)}
    for number in (0, 4, 5):  # none: a starting broker does not know the topic yet
        publisher._require_partitions(TOPIC, number)
    with pytest.raises(BrokerAccessError, match="has 3 partitions, and had 4"):
        publisher._require_partitions(TOPIC, 3)
