"""The `Publisher` interface to Kafka, and the base class of its implementations.

A publisher takes messages and later reports each exactly once, as acknowledged or as failed. The delivery decides which
messages to resend. Messages are taken and reported in batches: the budget per message is a microsecond or two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Protocol

from msgspec import Struct

from cryptolake_assets.errors import BrokerError
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.settings import Settings

BATCH_BYTES: Final = 256 * 1024
COMPRESSION: Final = "zstd"  # half the bytes of lz4 for these events, at an eighth of its CPU time in aiokafka
LINGER_MS: Final = 10  # how long a batch waits for more messages; at low rates, most of the latency into Kafka
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0


class Message(Struct, eq=False, gc=False):
    """One record to send to Kafka."""

    topic: str
    value: bytes
    key: bytes | None = None
    partition: int | None = None  # None: the client chooses
    headers: list[tuple[str, bytes]] | None = None
    tag: Any = None  # for the sender's own use
    # Called with partition and offset; only for topics whose offsets the delivery does not report.
    when_acknowledged: Callable[[int, int], None] | None = None


class FailureVerdict(Enum):
    """How the delivery reacts to a failure."""

    RETRY = "retry"  # resend after a pause: the broker is unavailable or busy
    RESTART = "restart"  # restart the publisher, then resend: its session with the broker is broken
    FATAL = "fatal"  # retries cannot help: a permission is missing or a cluster setting does not fit


class DeliveryListener(Protocol):
    """Receives the outcome of messages."""

    def acknowledged(self, messages: Sequence[Message], partition: int, first_offset: int) -> None:
        """All required replicas have these messages of one topic, at consecutive offsets from `first_offset`.

        `first_offset` is -1 if the broker did not report it.
        """

    def failed(self, messages: Sequence[Message], error: BaseException) -> None:
        """The messages may or may not be in Kafka."""


class Publisher(Protocol):
    """Takes messages; reports each exactly once to its listener."""

    async def start(self, listener: DeliveryListener) -> None:
        """Connect. Raises `BrokerError` if no broker can be reached; the caller may retry."""

    def send(self, messages: Sequence[Message]) -> None:
        """Take over messages, in order for each partition. Never waits: the caller bounds the messages in flight.

        Messages that cannot be taken over are reported as failed.
        """

    def judge(self, error: BaseException) -> FailureVerdict:
        """Return how to react to an error that was reported to `failed`."""

    async def restart(self) -> None:
        """Begin a new session; report the unacknowledged messages of the old one as failed."""

    async def stop(self) -> None:
        """Disconnect after a short wait for messages in flight."""

    def partition_for(self, topic: str, key: bytes) -> int:
        """Return a trade topic's partition for this key; known after `start`, then stable."""

    @property
    def start_offsets(self) -> dict[str, dict[int, int]]:
        """End offset of each partition of the trade topics before anything was sent."""


class Session(Protocol):
    """A connection to the brokers and its unacknowledged messages."""

    def send(self, messages: Sequence[Message]) -> None:
        """As `Publisher.send`."""

    async def close(self) -> None:
        """End the session in bounded time; report the remaining messages as failed."""


class SessionPublisher(ABC):
    """A `Publisher` that uses one session with the brokers at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._listener: DeliveryListener | None = None
        self._topics = tuple(of_family.topic_trades for of_family in settings.each_family)
        self._start_offsets: dict[str, dict[int, int]] = {}

    @property
    def start_offsets(self) -> dict[str, dict[int, int]]:
        return self._start_offsets

    async def start(self, listener: DeliveryListener) -> None:
        self._listener = listener
        await kafka.ensure_topics_async(self._settings)
        self._start_offsets = {topic: await kafka.end_offsets_async(self._settings, topic) for topic in self._topics}
        self._session = await self._open(listener)

    @abstractmethod
    async def _open(self, listener: DeliveryListener) -> Session:
        """Return a new session.

        Raises `BrokerError` if no broker can be reached, `BrokerAccessError` if they reject the client permanently.
        """

    @abstractmethod
    def judge(self, error: BaseException) -> FailureVerdict:
        """As `Publisher.judge`."""

    def partition_for(self, topic: str, key: bytes) -> int:
        from aiokafka.partitioner import DefaultPartitioner

        numbers = sorted(self._start_offsets[topic])
        # Kafka's own key hash, so that other producers choose the same partition.
        return int(DefaultPartitioner()(key, numbers, numbers))

    def send(self, messages: Sequence[Message]) -> None:
        if self._session is not None:
            self._session.send(messages)
        elif self._listener is not None:
            self._listener.failed(
                messages, BrokerError("kafka: the producer is not connected. Wait until it reconnects.")
            )

    async def restart(self) -> None:
        if self._listener is None:
            raise BrokerError("kafka: the producer was not started. Start it first.")
        # A broker that lost its data lacks the topics, too.
        await kafka.ensure_topics_async(self._settings)
        # Open the new session first: while no broker responds, the old one may still deliver.
        new = await self._open(self._listener)
        old, self._session = self._session, new
        if old is not None:
            await old.close()

    async def stop(self) -> None:
        old, self._session = self._session, None
        if old is not None:
            await old.close()
