"""How messages get into Kafka: the `Publisher` interface and its aiokafka implementation.

A publisher takes messages and later reports on each one exactly once, as acknowledged or as failed. It decides nothing
about what is sent again; that is the outbox's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from msgspec import Struct

from cryptolake_assets.errors import BrokerError, BrokerRefusedError
from cryptolake_assets.settings import Settings
from cryptolake_assets.stream import kafka

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

log = structlog.get_logger(__name__)

BATCH_BYTES: Final = 256 * 1024
LINGER_MS: Final = 20
REQUEST_TIMEOUT_MS: Final = 30_000
RETRY_BACKOFF_MS: Final = 250
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0


class Message(Struct, eq=False, gc=False):
    """One record on its way to Kafka."""

    topic: str
    value: bytes
    key: bytes | None = None
    partition: int | None = None
    """None lets the client choose."""
    headers: list[tuple[str, bytes]] | None = None
    tag: Any = None
    """The sender's own."""


class Verdict(Enum):
    """What to do after a failure."""

    RETRY = "retry"
    """Send again after a pause; the broker is away or busy."""
    RESTART = "restart"
    """Restart the publisher, then send again: its session with the broker is broken."""
    FATAL = "fatal"
    """No repetition can help: a right is missing or a setting of the cluster does not fit."""


class DeliveryListener(Protocol):
    """Who is told what became of the messages."""

    def acknowledged(self, message: Message, partition: int, offset: int) -> None:
        """Every replica that must have the message has it, at this offset (-1 when the broker did not say)."""

    def failed(self, message: Message, error: BaseException) -> None:
        """The message may or may not be in Kafka."""


class Publisher(Protocol):
    """Takes messages; reports each exactly once to its listener unless `send` raised."""

    async def start(self, listener: DeliveryListener) -> None:
        """Connects. Raises `BrokerError` when no broker can be reached; may be called again then."""

    async def send(self, message: Message) -> None:
        """Takes a message over, waiting while buffers are full. When it raises, the message was not taken."""

    def judge(self, error: BaseException) -> Verdict:
        """What to do after `send` raised, or `failed` was told, this error."""

    async def restart(self) -> None:
        """Begins a new session; messages of the old one that have no verdict yet are reported as failed."""

    async def stop(self) -> None:
        """Disconnects, after a short wait for what is still under way."""

    def partition_for(self, key: bytes) -> int:
        """The partition of the trade topic that this key goes to; known after `start`, stable until the end."""

    @property
    def start_offsets(self) -> dict[int, int]:
        """Per partition of the trade topic its end offset before anything was sent."""


class _Session:
    """One producer and the messages it has not answered for yet."""

    __slots__ = ("listener", "pending", "producer")

    def __init__(self, producer: AIOKafkaProducer, listener: DeliveryListener) -> None:
        self.producer = producer
        self.listener = listener
        self.pending: dict[asyncio.Future[Any], Message] = {}

    async def send(self, message: Message) -> None:
        future = await self.producer.send(
            message.topic, message.value, key=message.key, partition=message.partition, headers=message.headers
        )
        self.pending[future] = message
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Any]) -> None:
        message = self.pending.pop(future, None)
        if message is None:
            return  # already reported when the session was closed
        if future.cancelled():
            self.listener.failed(message, asyncio.CancelledError())
        elif error := future.exception():
            self.listener.failed(message, error)
        else:
            metadata = future.result()
            self.listener.acknowledged(message, metadata.partition, metadata.offset)

    async def close(self) -> None:
        """Stops the producer without waiting for ever: with the broker away its own stop never returns."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.producer.stop()
        left, self.pending = self.pending, {}
        for message in left.values():
            self.listener.failed(message, BrokerError("kafka: the producer's session was closed."))


class KafkaPublisher:
    """A `Publisher` on aiokafka's idempotent producer: acks=all, lz4, one future a message."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: _Session | None = None
        self._listener: DeliveryListener | None = None
        self._start_offsets: dict[int, int] = {}

    @property
    def start_offsets(self) -> dict[int, int]:
        return self._start_offsets

    async def start(self, listener: DeliveryListener) -> None:
        self._listener = listener
        await kafka.ensure_topics_async(self._settings)
        self._start_offsets = await kafka.end_offsets_async(self._settings, self._settings.kafka_topic_futures)
        self._session = await self._open(listener)

    async def _open(self, listener: DeliveryListener) -> _Session:
        from aiokafka import AIOKafkaProducer
        from aiokafka.errors import KafkaError

        producer = AIOKafkaProducer(
            **kafka.client_options(self._settings),
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            max_batch_size=BATCH_BYTES,
            linger_ms=LINGER_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        session = _Session(producer, listener)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await producer.start()
        except (KafkaError, OSError) as error:
            await session.close()
            kind = BrokerRefusedError if kafka.is_refusal(error) else BrokerError
            raise kind(
                f"kafka: the producer could not connect to {self._settings.bootstrap_servers} "
                f"({type(error).__name__}: {error}). Is the broker up (`cryptolake status`), and is "
                "KAFKA_BOOTSTRAP_SERVERS right?"
            ) from error
        return session

    def partition_for(self, key: bytes) -> int:
        from aiokafka.partitioner import DefaultPartitioner

        numbers = sorted(self._start_offsets)
        # Kafka's own hash of the key, so that every other producer would choose the same.
        return int(DefaultPartitioner()(key, numbers, numbers))

    async def send(self, message: Message) -> None:
        if self._session is None:
            raise BrokerError("kafka: the producer is not connected. Wait for it to connect again.")
        await self._session.send(message)

    def judge(self, error: BaseException) -> Verdict:
        from aiokafka import errors

        # aiokafka asserts that a partition exists: the topic has fewer of them than it had at the start.
        if kafka.is_refusal(error) or isinstance(error, AssertionError):
            return Verdict.FATAL
        # A batch that was given up leaves a hole in the idempotent sequence: the broker refuses what follows. A session
        # that fails for reasons unknown is not trusted either.
        away = (errors.KafkaTimeoutError, errors.ProducerClosed, BrokerError, OSError)
        if isinstance(error, away) or getattr(error, "retriable", False):
            return Verdict.RETRY
        return Verdict.RESTART

    async def restart(self) -> None:
        if self._listener is None:
            raise BrokerError("kafka: the producer was never started. Start it first.")
        # The new session first: while no broker answers, the old one may yet deliver.
        new = await self._open(self._listener)
        old, self._session = self._session, new
        if old is not None:
            await old.close()

    async def stop(self) -> None:
        old, self._session = self._session, None
        if old is not None:
            await old.close()
