"""The publisher of the optional extra `fast`: librdkafka through confluent-kafka.

librdkafka has its own threads, buffers and retries, and calls back for each message while it is polled. Messages of a
batch are reported as a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka.access import librdkafka_options
from cryptolake_assets.kafka.broker_errors import broker_error, is_access_error
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.publisher import (
    BATCH_BYTES,
    COMPRESSION,
    LINGER_MS,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    DeliveryListener,
    FailureVerdict,
    Message,
    Session,
    SessionPublisher,
)
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

POLL_S: Final = 0.005
MAX_BUFFERED: Final = 1_000_000  # above the delivery's own bound, so that the library never applies one


class DeliveryError(BrokerError):
    """librdkafka's error for a message that it did not deliver."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(f"kafka: {error.name()}: {error.str()}")
        self.error = error


def client_configuration(settings: Settings) -> dict[str, Any]:
    """Return librdkafka options that match aiokafka's producer: acks=all, idempotent, in order, zstd."""
    return {
        **librdkafka_options(settings),
        "enable.idempotence": True,
        "compression.type": COMPRESSION,
        "batch.size": BATCH_BYTES,
        "linger.ms": LINGER_MS,
        # No timeout: the delivery would only resend the message, and out of order.
        "message.timeout.ms": 0,
        "queue.buffering.max.messages": MAX_BUFFERED,
        "reconnect.backoff.max.ms": 1_000,
        # The client logs every attempt while a broker is unavailable.
        "log_level": 2,
    }


class _InFlight:
    """A batch of messages of one partition, acknowledged or failed as a batch.

    The library calls back for each message. The callback only counts: identifying messages and keeping their records
    would cost more than the rest of the delivery.
    """

    __slots__ = ("_error", "_left", "_listener", "messages")

    def __init__(self, messages: Sequence[Message], listener: DeliveryListener) -> None:
        self.messages = messages
        self._listener = listener
        self._left = len(messages)
        self._error: KafkaError | None = None

    def truncate(self, number: int) -> Sequence[Message]:
        """Keep the first `number` messages; return the others, which the library did not accept."""
        rest, self.messages, self._left = self.messages[number:], self.messages[:number], number
        return rest

    def on_delivery(self, error: KafkaError | None, record: Any) -> None:
        """Handle the library's callback for one message; called in the partition's order."""
        self._left -= 1
        if error is not None:
            self._error = error
        if not self._left:
            self._report(record)

    def _report(self, last: Any) -> None:
        if self._error is not None:
            # Report the entire batch as failed: duplicates are allowed, and the order is kept.
            self._listener.failed(self.messages, DeliveryError(self._error))
            return
        # Counted back from the last record: the next offset is then the one after the batch.
        first_offset = last.offset() - len(self.messages) + 1
        self._listener.acknowledged(self.messages, last.partition(), first_offset)


class _ConfluentSession:
    """One librdkafka producer, polled while messages are in flight."""

    def __init__(self, configuration: dict[str, Any], listener: DeliveryListener) -> None:
        from confluent_kafka import Producer

        self.producer: Producer = Producer(configuration)
        self._listener = listener
        self._wake = asyncio.Event()
        self._poll_task = asyncio.create_task(self._poll())

    def send(self, messages: Sequence[Message]) -> None:
        by_partition: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        for message in messages:
            partition = message.partition
            if partition is None or message.headers is not None:
                self._produce_alone(message)
            else:
                by_partition[message.topic, partition].append(message)
        for (topic, partition), batch in by_partition.items():
            self._produce(topic, partition, batch)
        self._wake.set()

    def _produce(self, topic: str, partition: int, messages: list[Message]) -> None:
        in_flight = _InFlight(messages, self._listener)
        produce, on_delivery, number = self.producer.produce, in_flight.on_delivery, 0
        try:
            for message in messages:
                produce(topic, message.value, message.key, partition, on_delivery)
                number += 1
        except Exception as error:
            # The later messages fail as well: otherwise they would overtake this one.
            self._listener.failed(in_flight.truncate(number), error)

    def _produce_alone(self, message: Message) -> None:
        """Produce a message that has no partition or has headers."""
        partition_argument: dict[str, Any] = {} if message.partition is None else {"partition": message.partition}
        try:
            self.producer.produce(
                message.topic,
                message.value,
                message.key,
                headers=message.headers,  # type: ignore[arg-type] # a list is invariant
                on_delivery=_InFlight([message], self._listener).on_delivery,
                **partition_argument,
            )
        except Exception as error:
            self._listener.failed([message], error)

    def _poll_once(self) -> None:
        try:
            self.producer.poll(0)
        except Exception as error:
            # A listener raised this; other messages must still be reported.
            context = {"message": "a listener of the Kafka publisher failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _poll(self) -> None:
        while True:
            self._wake.clear()
            while len(self.producer):
                await asyncio.sleep(POLL_S)
                self._poll_once()
            await self._wake.wait()

    async def close(self) -> None:
        await cancel_and_wait([self._poll_task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while len(self.producer):
                    self._poll_once()
                    await asyncio.sleep(POLL_S)
        # The library calls back for each remaining message with a purge error.
        self.producer.purge()
        while len(self.producer):
            self._poll_once()
            await asyncio.sleep(0)


class ConfluentPublisher(SessionPublisher):
    """A `Publisher` on librdkafka's idempotent producer."""

    async def _open(self, listener: DeliveryListener) -> Session:
        from confluent_kafka import KafkaException

        session = _ConfluentSession(client_configuration(self._settings), listener)
        try:
            # librdkafka connects lazily. This blocking call verifies the connection, hence the thread.
            for topic in self._topics:
                listed = await asyncio.to_thread(session.producer.list_topics, topic, START_TIMEOUT_S)
                self._require_partitions(topic, len(listed.topics[topic].partitions))
        except BrokerAccessError:
            await session.close()
            raise
        except KafkaException as error:
            await session.close()
            cause = DeliveryError(error.args[0])
            access_error = self.judge(cause) is FailureVerdict.FATAL
            raise await broker_error(
                self._settings, "connect the producer", cause, access_error=access_error
            ) from error
        return session

    def _require_partitions(self, topic: str, number: int) -> None:
        """Raise `BrokerAccessError` if the topic has fewer partitions than at the start.

        None are listed while a starting broker does not know the topic yet: the session then fails and is restarted.
        """
        expected = len(self._start_offsets.get(topic, ()))
        if 0 < number < expected:
            raise BrokerAccessError(
                f"kafka: topic {topic} has {number} partitions, and had {expected} when the producer started. Restart "
                "the producer, or add the partitions with Kafka's own tools."
            )

    def judge(self, error: BaseException) -> FailureVerdict:
        from confluent_kafka import KafkaError, KafkaException

        if isinstance(error, KafkaException):
            error = DeliveryError(error.args[0])
        if isinstance(error, DeliveryError):
            if error.error.code() in _access_error_codes():
                return FailureVerdict.FATAL
            # Retry messages that a closed session purged, and retriable errors; after others librdkafka must restart.
            purged = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
            if error.error.code() in purged or (error.error.retriable() and not error.error.fatal()):
                return FailureVerdict.RETRY
            return FailureVerdict.RESTART
        if is_access_error(error):
            return FailureVerdict.FATAL
        # A full buffer or a missing session.
        return (
            FailureVerdict.RETRY if isinstance(error, (BufferError, BrokerError, OSError)) else FailureVerdict.RESTART
        )


def _access_error_codes() -> frozenset[int]:
    """Return the error codes that retries cannot fix: permissions, settings, versions. See `is_access_error`."""
    from confluent_kafka import KafkaError

    return frozenset(
        (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.SASL_AUTHENTICATION_FAILED,
            KafkaError.UNSUPPORTED_SASL_MECHANISM,
            KafkaError.ILLEGAL_SASL_STATE,
            KafkaError._AUTHENTICATION,
            KafkaError.MSG_SIZE_TOO_LARGE,
            KafkaError.RECORD_LIST_TOO_LARGE,
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.UNSUPPORTED_VERSION,
            KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
            KafkaError.POLICY_VIOLATION,
        )
    )
