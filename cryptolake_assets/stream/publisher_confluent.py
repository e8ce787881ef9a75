"""The publisher of the optional extra `fast`: librdkafka by confluent-kafka.

The library has threads, buffers and repetition of its own, and calls back for each message while it is polled. What
was acknowledged at one poll is reported at once: neighbours of a partition as one run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import BrokerError, BrokerRefusedError
from cryptolake_assets.settings import Settings
from cryptolake_assets.stream import kafka
from cryptolake_assets.stream.publisher import (
    BATCH_BYTES,
    COMPRESSION,
    LINGER_MS,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    DeliveryListener,
    Message,
    Session,
    SessionPublisher,
    Verdict,
    not_reached,
)
from cryptolake_assets.stream.tasks import cancelled

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

POLL_S: Final = 0.005
MAX_BUFFERED: Final = 1_000_000
"""More messages than ever are under way: the outbox bounds them, not the library."""


class DeliveryError(BrokerError):
    """What librdkafka says of a message that it did not deliver."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(f"kafka: {error.name()}: {error.str()}")
        self.error = error


def client_configuration(settings: Settings) -> dict[str, Any]:
    """How librdkafka is made to do what aiokafka's producer does: acks=all, idempotent, in order, zstd."""
    options = kafka.client_options(settings)
    return {
        "bootstrap.servers": options["bootstrap_servers"],
        "client.id": options["client_id"],
        "enable.idempotence": True,
        "compression.type": COMPRESSION,
        "batch.size": BATCH_BYTES,
        "linger.ms": LINGER_MS,
        # Given up by nobody: the outbox would only send it again, and out of order.
        "message.timeout.ms": 0,
        "queue.buffering.max.messages": MAX_BUFFERED,
        "reconnect.backoff.max.ms": 1_000,
        # The client's own log repeats itself at every attempt while a broker is away.
        "log_level": 2,
    }


class _ConfluentSession:
    """One librdkafka producer, polled for as long as messages are under way."""

    def __init__(self, configuration: dict[str, Any], topic: str, listener: DeliveryListener) -> None:
        from confluent_kafka import Producer

        self.producer: Producer = Producer({**configuration, "on_delivery": self._delivered})
        self._topic = topic
        self._listener = listener
        self._under_way: defaultdict[int, deque[Message]] = defaultdict(deque)
        """Per partition of the topic, in the order in which they were sent."""
        self._run: list[Any] = []
        """Records acknowledged and not yet reported: neighbours on `_run_partition`, up to just before `_run_end`."""
        self._run_partition = -1
        self._run_end = -1
        self._news = asyncio.Event()
        self._polling = asyncio.create_task(self._poll())

    def send(self, messages: Sequence[Message]) -> None:
        produce, topic, under_way = self.producer.produce, self._topic, self._under_way
        for message in messages:
            partition = message.partition
            try:
                if message.topic == topic and partition is not None and message.headers is None:
                    produce(topic, message.value, message.key, partition)
                    under_way[partition].append(message)
                else:
                    self._produce_alone(message)
            except Exception as error:
                self._listener.failed([message], error)
        self._news.set()

    def _produce_alone(self, message: Message) -> None:
        """With a callback of the message's own, which costs a microsecond more."""
        place: dict[str, Any] = {} if message.partition is None else {"partition": message.partition}
        self.producer.produce(
            message.topic,
            message.value,
            message.key,
            headers=message.headers,  # type: ignore[arg-type] # a list is invariant
            on_delivery=partial(self._delivered_alone, message),
            **place,
        )

    def _delivered(self, error: KafkaError | None, record: Any) -> None:
        """Called by the library for each message, while it is polled: in the partition's order, unless it fails."""
        offset, partition = record.offset(), record.partition()
        if error is None and offset == self._run_end and partition == self._run_partition:
            self._run.append(record)
            self._run_end += 1
            return
        self._report_run()
        if error is not None:
            self._listener.failed(self._sent([record], partition), DeliveryError(error))
            return
        self._run, self._run_partition, self._run_end = [record], partition, offset + 1

    def _sent(self, records: list[Any], partition: int) -> list[Message]:
        """The messages that these neighbours were sent for, which are under way no longer.

        A callback names no message. They are the oldest of the partition, in order, if both ends have their bytes: one
        that was left out before the last would have moved it. Else each is looked for; two of the same bytes are as
        good as each other.
        """
        under_way = self._under_way[partition]
        found = [under_way.popleft() for _ in range(min(len(records), len(under_way)))]
        ends = (0, -1)
        if len(found) == len(records) and all(found[end].value == records[end].value() for end in ends):
            return found
        under_way.extendleft(reversed(found))
        found = []
        for record in records:
            value = record.value()
            found.append(next(message for message in under_way if message.value == value))
            under_way.remove(found[-1])
        return found

    def _delivered_alone(self, message: Message, error: KafkaError | None, record: Any) -> None:
        self._report_run()  # offsets are told in their order
        if error is not None:
            self._listener.failed([message], DeliveryError(error))
        else:
            self._listener.acknowledged([message], record.partition(), record.offset())

    def _report_run(self) -> None:
        run, end, self._run, self._run_end = self._run, self._run_end, [], -1
        if run:
            self._listener.acknowledged(self._sent(run, self._run_partition), self._run_partition, end - len(run))

    def _serve(self) -> None:
        try:
            self.producer.poll(0)
            self._report_run()
        except Exception as error:
            # Raised by whoever is told; the other messages are to be told of all the same.
            context = {"message": "a listener of the Kafka publisher failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _poll(self) -> None:
        while True:
            self._news.clear()
            while len(self.producer):
                await asyncio.sleep(POLL_S)
                self._serve()
            await self._news.wait()

    async def close(self) -> None:
        await cancelled([self._polling])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while len(self.producer):
                    self._serve()
                    await asyncio.sleep(POLL_S)
        # Each message that is left is called back for, as purged.
        self.producer.purge()
        while len(self.producer):
            self._serve()
            await asyncio.sleep(0)


class ConfluentPublisher(SessionPublisher):
    """A `Publisher` on librdkafka's idempotent producer."""

    async def _open(self, listener: DeliveryListener) -> Session:
        from confluent_kafka import KafkaException

        topic = self._settings.kafka_topic_futures
        session = _ConfluentSession(client_configuration(self._settings), topic, listener)
        try:
            # The producer itself connects when it likes; whether it can is asked here, in a thread, as it blocks.
            await asyncio.to_thread(session.producer.list_topics, topic, START_TIMEOUT_S)
        except KafkaException as error:
            await session.close()
            cause = DeliveryError(error.args[0])
            kind = BrokerRefusedError if self.judge(cause) is Verdict.FATAL else BrokerError
            raise kind(not_reached(self._settings, cause)) from error
        return session

    def judge(self, error: BaseException) -> Verdict:
        from confluent_kafka import KafkaError, KafkaException

        if isinstance(error, KafkaException):
            error = DeliveryError(error.args[0])
        if isinstance(error, DeliveryError):
            if error.error.code() in _refusals():
                return Verdict.FATAL
            # What a closed session left behind, and a librdkafka that is in no state to go on.
            purged = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
            if error.error.code() in purged or (error.error.retriable() and not error.error.fatal()):
                return Verdict.RETRY
            return Verdict.RESTART
        if kafka.is_refusal(error):
            return Verdict.FATAL
        # A full buffer, or a session that is not there.
        return Verdict.RETRY if isinstance(error, (BufferError, BrokerError, OSError)) else Verdict.RESTART


def _refusals() -> frozenset[int]:
    """Errors that come again however often one tries: rights, settings, versions. As `kafka.is_refusal`."""
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
            # The topic has fewer partitions than it had at the start.
            KafkaError._UNKNOWN_PARTITION,
        )
    )
