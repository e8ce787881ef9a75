"""Callbacks of librdkafka and the messages that they stand for; the rest is in the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaError

from cryptolake_assets.settings import load_settings
from cryptolake_assets.stream import publisher_confluent
from cryptolake_assets.stream.publisher import Message
from cryptolake_assets.stream.publisher_confluent import _ConfluentSession, client_configuration

TOPIC = "trades"
BROKEN = KafkaError(KafkaError._PURGE_QUEUE)


@dataclass
class Record:
    """What the library hands to a callback."""

    number: int
    at: int = -1001
    partition_number: int = 0

    def offset(self) -> int:
        return self.at

    def partition(self) -> int:
        return self.partition_number

    def value(self) -> bytes:
        return b"%d" % self.number


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.acknowledged_runs: list[tuple[int, int, list[int]]] = []
        self.failed_numbers: list[int] = []

    def acknowledged(self, messages: Sequence[Message], partition: int, first_offset: int) -> None:
        self.acknowledged_runs.append((partition, first_offset, [int(message.value) for message in messages]))

    def failed(self, messages: Sequence[Message], error: BaseException) -> None:
        self.failed_numbers += [int(message.value) for message in messages]


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_ConfluentSession]:
    """With messages 0 to 9 under way to partition 0 and 10 to 12 to partition 1; no broker is there."""
    monkeypatch.setattr(publisher_confluent, "STOP_TIMEOUT_S", 0.05)
    settings = load_settings(kafka_bootstrap_servers="127.0.0.1:1")
    session = _ConfluentSession(client_configuration(settings), TOPIC, Told())
    session.send([Message(TOPIC, b"%d" % number, b"key", number // 10) for number in range(13)])
    yield session
    await session.close()


def told(session: _ConfluentSession) -> Told:
    listener = session._listener
    assert isinstance(listener, Told)
    return listener


async def test_neighbours_are_reported_as_one_run(session: _ConfluentSession) -> None:
    for number in range(4):
        session._delivered(None, Record(number, 70 + number))
    session._delivered(None, Record(10, 5, 1))
    session._delivered(None, Record(4, 80))
    session._report_run()
    assert told(session).acknowledged_runs == [(0, 70, [0, 1, 2, 3]), (1, 5, [10]), (0, 80, [4])]


async def test_a_failure_between_them_is_credited_to_the_message_that_failed(session: _ConfluentSession) -> None:
    session._delivered(None, Record(0, 70))
    session._delivered(BROKEN, Record(1))
    session._delivered(None, Record(2, 71))
    session._report_run()
    assert told(session).acknowledged_runs == [(0, 70, [0]), (0, 71, [2])]
    assert told(session).failed_numbers == [1]


async def test_a_report_out_of_order_is_credited_to_its_message(session: _ConfluentSession) -> None:
    for record in (Record(0, 70), Record(2, 71), Record(3, 72)):
        session._delivered(None, record)
    session._delivered(BROKEN, Record(1))
    session._report_run()
    assert told(session).acknowledged_runs == [(0, 70, [0, 2, 3])]
    assert told(session).failed_numbers == [1]


async def test_an_acknowledgement_without_an_offset_is_passed_on_as_it_is(session: _ConfluentSession) -> None:
    session._delivered(None, Record(0))
    session._delivered(None, Record(1))
    session._report_run()
    assert [first for _, first, _ in told(session).acknowledged_runs] == [-1001, -1001]


async def test_a_closed_session_reports_what_is_left_as_failed(session: _ConfluentSession) -> None:
    await session.close()
    assert sorted(told(session).failed_numbers) == list(range(13))
