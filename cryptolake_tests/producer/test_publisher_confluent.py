"""Callbacks of librdkafka and the messages that they stand for; the rest is in the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaError

from cryptolake_assets.producer import publisher_confluent
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.publisher_confluent import _ConfluentSession, _InFlight, client_configuration
from cryptolake_assets.settings import load_settings

TOPIC = "trades"
BROKEN = KafkaError(KafkaError._PURGE_QUEUE)


@dataclass
class Record:
    """What the library hands to a callback."""

    at: int = -1001
    partition_number: int = 0

    def offset(self) -> int:
        return self.at

    def partition(self) -> int:
        return self.partition_number


class Told:
    """A listener that remembers."""

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


def reported(*answers: KafkaError | Record) -> Told:
    """What is said of messages 0, 1, … once each has its answer."""
    listener = Told()
    together = _InFlight(messages(*range(len(answers))), listener)
    for number, answer in enumerate(answers):
        assert not listener.acknowledged_runs, f"reported before answer {number}"
        assert not listener.failures, f"reported before answer {number}"
        record = Record() if isinstance(answer, KafkaError) else answer
        together.told(answer if isinstance(answer, KafkaError) else None, record)
    return listener


def test_messages_that_were_handed_over_together_are_reported_together() -> None:
    assert reported(Record(70, 3), Record(71, 3), Record(72, 3)).acknowledged_runs == [(3, 70, [0, 1, 2])]


def test_another_producer_between_them_does_not_take_offsets_from_the_end() -> None:
    """Coverage waits for Bronze to have read up to behind the last one."""
    assert reported(Record(70), Record(75)).acknowledged_runs == [(0, 74, [0, 1])]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_among_them_has_all_of_them_sent_again(failing: int) -> None:
    answers: list[KafkaError | Record] = [Record(70), Record(71), Record(72)]
    answers[failing] = BROKEN
    listener = reported(*answers)
    assert listener.acknowledged_runs == []
    assert listener.failures == [[0, 1, 2]]


def test_an_acknowledgement_without_an_offset_is_one_before_the_first() -> None:
    """The delivery does not believe it before it comes a second time."""
    ((_, first_offset, numbers),) = reported(Record(70), Record()).acknowledged_runs
    assert first_offset < 0
    assert numbers == [0, 1]


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_ConfluentSession]:
    """No broker is there, and the library takes ten messages."""
    monkeypatch.setattr(publisher_confluent, "STOP_TIMEOUT_S", 0.05)
    configuration = client_configuration(load_settings(kafka_bootstrap_servers="127.0.0.1:1"))
    session = _ConfluentSession({**configuration, "queue.buffering.max.messages": 10}, Told())
    yield session
    await session.close()


def told(session: _ConfluentSession) -> Told:
    listener = session._listener
    assert isinstance(listener, Told)
    return listener


async def test_what_the_library_does_not_take_fails_with_all_behind_it(session: _ConfluentSession) -> None:
    session.send(messages(*range(13)))
    assert told(session).failures == [[10, 11, 12]]
    session.send(messages(13))
    assert told(session).failures == [[10, 11, 12], [13]]


async def test_a_closed_session_reports_what_is_left_as_failed(session: _ConfluentSession) -> None:
    alone = Message(TOPIC, b"9", headers=[("how", b"alone")])
    session.send([*messages(0, 2), *messages(1, partition=1), *messages(4), alone])
    assert told(session).failures == []
    await session.close()
    assert sorted(told(session).failures) == [[0, 2, 4], [1], [9]]
