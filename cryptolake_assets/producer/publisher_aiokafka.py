"""The default publisher: aiokafka's idempotent producer, which gets complete batches.

aiokafka's `send()` creates a future and passes through the client for every message, which costs more than the rest of
the producer. Here each partition has a lane: messages wait in a list for a few milliseconds, then become one batch with
one future. A lane sends one batch at a time, so the order per key is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import BrokerError
from cryptolake_assets.kafka.access import aiokafka_options
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

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

REQUEST_TIMEOUT_MS: Final = 30_000
RETRY_BACKOFF_MS: Final = 250
FULL_BATCH_MESSAGES: Final = 1_000  # send without waiting from this many messages on: about the size of a batch

_LaneKey = tuple[str, int | None]


class _PartitionLane:
    """The lane of one partition: turns its messages into batches."""

    __slots__ = ("_full", "_session", "_topic", "_wake", "number", "task", "waiting")

    def __init__(self, session: _AiokafkaSession, topic: str, number: int | None) -> None:
        self._session = session
        self._topic = topic
        self.number = number
        self.waiting: list[Message] = []
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Wake the lane after messages were added to `waiting`."""
        if not self._wake.is_set():
            self._wake.set()
        if len(self.waiting) >= FULL_BATCH_MESSAGES and not self._full.is_set():
            self._full.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_MS / 1000):
                    await self._full.wait()
            while self.waiting:
                await self._send_one()
                if len(self.waiting) < FULL_BATCH_MESSAGES:
                    break
            if not self.waiting:
                self._wake.clear()
            self._full.clear()

    async def _send_one(self) -> None:
        """Send a batch of the oldest messages; they leave `waiting` once the client has accepted or rejected them."""
        builder = self._session.producer.create_batch()
        append, accepted = builder.append, 0
        for message in self.waiting:
            if append(timestamp=None, key=message.key, value=message.value, headers=message.headers) is None:
                break
            accepted += 1
        builder.close()
        number = self.number if self.number is not None else await self._session.any_partition(self._topic)
        batch = self.waiting[:accepted]
        try:
            future = await self._hand_over(builder, number)
        except Exception as error:
            del self.waiting[:accepted]
            self._session.listener.failed(batch, error)
            return
        del self.waiting[:accepted]
        self._session.in_flight[future] = batch
        future.add_done_callback(partial(self._session.done, number))

    async def _hand_over(self, builder: Any, number: int) -> asyncio.Future[Any]:
        from aiokafka.errors import KafkaTimeoutError

        while True:
            # After a timeout (no broker responds) the client has sent nothing of the batch; a retry keeps the order.
            with contextlib.suppress(KafkaTimeoutError):
                future: asyncio.Future[Any] = await self._session.producer.send_batch(
                    builder, self._topic, partition=number
                )
                return future


class _AiokafkaSession:
    """One producer, its lanes, and its unacknowledged batches."""

    def __init__(self, producer: AIOKafkaProducer, listener: DeliveryListener) -> None:
        self.producer = producer
        self.listener = listener
        self.in_flight: dict[asyncio.Future[Any], list[Message]] = {}
        self._lanes: dict[_LaneKey, _PartitionLane] = {}

    def send(self, messages: Sequence[Message]) -> None:
        touched: set[_PartitionLane] = set()
        lane_of = self._lanes.get
        last_partition, last_topic, lane = None, None, None
        for message in messages:
            # Consecutive messages often go to the same partition.
            if lane is None or message.partition != last_partition or message.topic != last_topic:
                last_partition, last_topic = message.partition, message.topic
                lane = lane_of((last_topic, last_partition)) or self._new_lane(last_topic, last_partition)
                touched.add(lane)
            lane.waiting.append(message)
        for lane in touched:
            lane.wake()

    def _new_lane(self, topic: str, partition: int | None) -> _PartitionLane:
        lane = self._lanes[topic, partition] = _PartitionLane(self, topic, partition)
        return lane

    async def any_partition(self, topic: str) -> int:
        """Return a random partition, for messages without one."""
        return int(random.choice(sorted(await self.producer.partitions_for(topic))))  # noqa: S311

    def done(self, partition: int, future: asyncio.Future[Any]) -> None:
        """Report the outcome of a batch."""
        batch = self.in_flight.pop(future, None)
        if batch is None:
            return  # already reported when the session was closed
        if future.cancelled():
            self.listener.failed(batch, asyncio.CancelledError())
        elif error := future.exception():
            self.listener.failed(batch, error)
        else:
            self.listener.acknowledged(batch, partition, future.result().offset)

    async def close(self) -> None:
        """Stop the producer in bounded time: without a broker, aiokafka's own stop never returns."""
        await cancel_and_wait([lane.task for lane in self._lanes.values()])
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.producer.stop()
        in_flight, self.in_flight = self.in_flight, {}
        unsent = [message for batch in in_flight.values() for message in batch]
        for lane in self._lanes.values():
            unsent += lane.waiting
        if unsent:
            self.listener.failed(
                unsent,
                BrokerError("kafka: the producer's session was closed before the brokers acknowledged the messages."),
            )


class AiokafkaPublisher(SessionPublisher):
    """A `Publisher` on aiokafka's idempotent producer: acks=all, zstd, one future per batch."""

    async def _open(self, listener: DeliveryListener) -> Session:
        from aiokafka import AIOKafkaProducer
        from aiokafka.errors import KafkaError

        producer = AIOKafkaProducer(
            **aiokafka_options(self._settings),
            enable_idempotence=True,
            acks="all",
            compression_type=COMPRESSION,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        session = _AiokafkaSession(producer, listener)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await producer.start()
        except (KafkaError, OSError) as error:
            await session.close()
            raise await broker_error(self._settings, "connect the producer", error) from error
        return session

    def judge(self, error: BaseException) -> FailureVerdict:
        from aiokafka import errors

        # aiokafka asserts that a partition exists; the assertion fails if the topic has fewer than at the start.
        if is_access_error(error) or isinstance(error, AssertionError):
            return FailureVerdict.FATAL
        # An abandoned batch breaks the idempotent sequence, and the broker rejects the batches after it.
        # Sessions with unknown errors are restarted as well.
        unavailable = (errors.KafkaTimeoutError, errors.ProducerClosed, BrokerError, OSError)
        if isinstance(error, unavailable) or getattr(error, "retriable", False):
            return FailureVerdict.RETRY
        return FailureVerdict.RESTART
