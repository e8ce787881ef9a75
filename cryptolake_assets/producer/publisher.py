"""How messages get into Kafka: the `Publisher` interface and what its implementations have in common.

A publisher takes messages and later reports on each one exactly once, as acknowledged or as failed. It decides nothing
about what is sent again; that is the delivery's business. Messages are taken and reported many at a time: per message
there is a microsecond or two.
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
COMPRESSION: Final = "zstd"
"""Half the bytes of lz4 for these events, and an eighth of its CPU time as aiokafka calls it."""
LINGER_MS: Final = 10
"""How long a batch waits for more: of a message's way into Kafka the larger part while there is little to send."""
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
    when_acknowledged: Callable[[int, int], None] | None = None
    """Called with partition and offset; of a message on a topic whose offsets the delivery does not report."""


class FailureVerdict(Enum):
    """What to do after a failure."""

    RETRY = "retry"
    """Send again after a pause; the broker is away or busy."""
    RESTART = "restart"
    """Restart the publisher, then send again: its session with the broker is broken."""
    FATAL = "fatal"
    """No repetition can help: a right is missing or a setting of the cluster does not fit."""


class DeliveryListener(Protocol):
    """Who is told what became of the messages."""

    def acknowledged(self, messages: Sequence[Message], partition: int, first_offset: int) -> None:
        """Every replica that must have these messages of one topic has them, one behind the other from this offset on
        (-1 when the broker did not say)."""

    def failed(self, messages: Sequence[Message], error: BaseException) -> None:
        """The messages may or may not be in Kafka."""


class Publisher(Protocol):
    """Takes messages; reports each exactly once to its listener."""

    async def start(self, listener: DeliveryListener) -> None:
        """Connects. Raises `BrokerError` when no broker can be reached; may be called again then."""

    def send(self, messages: Sequence[Message]) -> None:
        """Takes messages over, in order for each partition. Never waits: how many are under way is for the caller to
        bound. What cannot be taken is reported as failed."""

    def judge(self, error: BaseException) -> FailureVerdict:
        """What to do after `failed` was told this error."""

    async def restart(self) -> None:
        """Begins a new session; messages of the old one that have no verdict yet are reported as failed."""

    async def stop(self) -> None:
        """Disconnects, after a short wait for what is still under way."""

    def partition_for(self, key: bytes) -> int:
        """The partition of the trade topic that this key goes to; known after `start`, stable until the end."""

    @property
    def start_offsets(self) -> dict[int, int]:
        """Per partition of the trade topic its end offset before anything was sent."""


class Session(Protocol):
    """A connection to the brokers and the messages that it has not answered for yet."""

    def send(self, messages: Sequence[Message]) -> None:
        """As `Publisher.send`."""

    async def close(self) -> None:
        """Ends, without waiting for ever, and reports what is left as failed."""


class SessionPublisher(ABC):
    """A `Publisher` that speaks to the brokers through one session at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
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

    @abstractmethod
    async def _open(self, listener: DeliveryListener) -> Session:
        """A new session. Raises `BrokerError` when no broker can be reached, `BrokerAccessError` when they refuse."""

    @abstractmethod
    def judge(self, error: BaseException) -> FailureVerdict:
        """As `Publisher.judge`."""

    def partition_for(self, key: bytes) -> int:
        from aiokafka.partitioner import DefaultPartitioner

        numbers = sorted(self._start_offsets)
        # Kafka's own hash of the key, so that every other producer would choose the same.
        return int(DefaultPartitioner()(key, numbers, numbers))

    def send(self, messages: Sequence[Message]) -> None:
        if self._session is not None:
            self._session.send(messages)
        elif self._listener is not None:
            self._listener.failed(
                messages, BrokerError("kafka: the producer is not connected. Wait for it to connect again.")
            )

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
