"""Topics and publishers without a broker; the integration tests cover the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.producer.publisher import FailureVerdict
from cryptolake_assets.producer.publisher_aiokafka import AiokafkaPublisher
from cryptolake_assets.producer.publisher_confluent import ConfluentPublisher, DeliveryError
from cryptolake_assets.settings import Settings, load_settings

REQUESTS: list[Callable[[Settings], object]] = [
    kafka.ensure_topics,
    lambda settings: kafka.end_offsets(settings, "trades"),
    lambda settings: kafka.peek(settings, "trades", 5),
]


@pytest.mark.parametrize("request_of", REQUESTS)
def test_unreachable_broker_is_named(request_of: Callable[[Settings], object]) -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9 .*KAFKA_BOOTSTRAP_SERVERS") as caught:
        request_of(load_settings(kafka_bootstrap_servers="127.0.0.1:9"))
    assert not isinstance(caught.value, BrokerAccessError)


async def test_blocking_functions_work_inside_a_running_loop() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9"):
        kafka.end_offsets(load_settings(kafka_bootstrap_servers="127.0.0.1:9"), "trades")


def test_dead_letter_is_the_raw_frame_with_its_reason() -> None:
    value, headers = kafka.dead_letter(RejectedFrame(b"\xff{", "not_json: x"), stream="aggTrade", received_at_us=17)
    assert value == b"\xff{"
    assert headers == [("reason", b"not_json: x"), ("stream", b"aggTrade"), ("received_at_us", b"17")]


def test_oversized_frame_is_truncated_and_marked() -> None:
    raw = b"x" * (kafka.MAX_REJECTED_BYTES + 1)
    value, headers = kafka.dead_letter(RejectedFrame(raw, "not_json: x"), stream="trade", received_at_us=17)
    assert value == raw[:-1]
    assert headers[-1] == ("truncated_from_bytes", b"900001")


def test_failures_are_classified() -> None:
    from aiokafka import errors

    publisher = AiokafkaPublisher(load_settings())
    for error in (
        errors.KafkaTimeoutError(),
        errors.KafkaConnectionError(),
        errors.NotLeaderForPartitionError(),
        errors.ProducerClosed(),
        ConnectionResetError(),
        BrokerError("unavailable"),
    ):
        assert publisher.judge(error) is FailureVerdict.RETRY, error
    for error in (
        errors.TopicAuthorizationFailedError("t"),
        errors.ClusterAuthorizationFailedError(),
        errors.MessageSizeTooLargeError(),
        BrokerAccessError("no"),
    ):
        assert publisher.judge(error) is FailureVerdict.FATAL, error
    for error in (errors.OutOfOrderSequenceNumber(), errors.ProducerFenced(), errors.UnknownError()):
        assert publisher.judge(error) is FailureVerdict.RESTART, error


def test_failures_of_librdkafka_are_classified_the_same_way() -> None:
    from confluent_kafka import KafkaError, KafkaException

    publisher = ConfluentPublisher(load_settings())

    def verdict_of(code: int, **more: Any) -> FailureVerdict:
        verdict = publisher.judge(DeliveryError(KafkaError(code, **more)))
        assert publisher.judge(KafkaException(KafkaError(code, **more))) is verdict
        return verdict

    assert verdict_of(KafkaError._PURGE_QUEUE) is FailureVerdict.RETRY
    assert verdict_of(KafkaError.NOT_LEADER_FOR_PARTITION, retriable=True) is FailureVerdict.RETRY
    assert publisher.judge(BufferError("full")) is FailureVerdict.RETRY
    assert publisher.judge(BrokerError("unavailable")) is FailureVerdict.RETRY
    for code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.MSG_SIZE_TOO_LARGE):
        assert verdict_of(code) is FailureVerdict.FATAL
    for code in (KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        assert verdict_of(code) is FailureVerdict.RESTART, "a starting broker does not know the topic yet"
    assert publisher.judge(BrokerAccessError("no")) is FailureVerdict.FATAL
    assert verdict_of(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True) is FailureVerdict.RESTART
    assert verdict_of(KafkaError.UNKNOWN) is FailureVerdict.RESTART
