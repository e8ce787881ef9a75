"""The broker of the simulation: one offset sequence per partition, acknowledgements with faults, restarts.

A `SimulatedPublisher` is one process's client. Its messages are stored after a delay, in order per session, and
acknowledged after another; a killed process loses those not stored yet.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from cryptolake_assets.errors import BrokerError
from cryptolake_assets.producer.publisher import DeliveryListener, FailureVerdict, Message

REQUEST_TIMEOUT_S = 8.0
TICK_S = 1e-6  # between two batches: the loop does not keep the order of timers of the same time

# Arguments: topic, partition, offset, message.
Stored = Callable[[str, int, int, Message], None]


class SessionBrokenError(BrokerError):
    """The session cannot continue; the publisher must be restarted."""


@dataclass
class SimulatedBroker:
    """Topics with partitions, and the state of the broker."""

    partitions: Mapping[str, int]
    random: Random
    stored: Stored
    latency_s: float = 0.02
    is_away: bool = False
    slow_until: float = 0.0  # acknowledgements take up to `slow_s` until then
    slow_s: float = 0.0
    lose_acks: int = 0  # batches that are stored and reported as failed
    unknown_offsets: int = 0  # batches that are acknowledged without their offset, as recognized duplicates
    break_sessions: int = 0  # batches that break their session
    topics: dict[str, list[list[Message]]] = field(init=False)

    def __post_init__(self) -> None:
        self.topics = {topic: [[] for _ in range(number)] for topic, number in self.partitions.items()}

    def heal(self) -> None:
        """End all faults."""
        self.is_away = False
        self.slow_until = 0.0
        self.lose_acks = self.unknown_offsets = self.break_sessions = 0

    def check_reachable(self) -> None:
        """Raise `BrokerError` while the broker is away."""
        if self.is_away:
            raise BrokerError("kafka: no broker can be reached")

    def end_offsets(self, topic: str) -> dict[int, int]:
        return {number: len(records) for number, records in enumerate(self.topics[topic])}

    def store(self, topic: str, partition: int, messages: Sequence[Message]) -> int:
        """Store messages; return the offset of the first."""
        records = self.topics[topic][partition]
        first = len(records)
        for offset, message in enumerate(messages, first):
            records.append(Message(topic, message.value, message.key, partition, message.headers))
            self.stored(topic, partition, offset, message)
        return first


@dataclass(eq=False)
class _Batch:
    topic: str
    partition: int
    messages: list[Message]
    offset: int | None = None  # of the first message; None: not stored


class SimulatedPublisher:
    """A `Publisher` of one process."""

    def __init__(self, broker: SimulatedBroker, trade_topics: Sequence[str], loop: asyncio.AbstractEventLoop) -> None:
        self._broker = broker
        self._trade_topics = trade_topics
        self._loop = loop
        self._listener: DeliveryListener | None = None
        self._start_offsets: dict[str, dict[int, int]] = {}
        self._open: dict[_Batch, None] = {}  # sent, not reported
        self._free_at = 0.0  # when the last sent batch is stored
        self._acknowledged_at = 0.0  # when the last stored batch is acknowledged: in order, as on one connection
        self.is_dead = False
        self.is_hung = False  # the session reports nothing, and tries nothing, until it is restarted

    @property
    def start_offsets(self) -> dict[str, dict[int, int]]:
        return self._start_offsets

    @property
    def in_flight(self) -> list[Message]:
        """Messages that were neither acknowledged nor reported as failed."""
        return [message for batch in self._open for message in batch.messages]

    async def start(self, listener: DeliveryListener) -> None:
        await asyncio.sleep(self._broker.latency_s)
        self._broker.check_reachable()
        self._listener = listener
        self._start_offsets = {topic: self._broker.end_offsets(topic) for topic in self._trade_topics}

    def partition_for(self, topic: str, key: bytes) -> int:
        return zlib.crc32(key) % self._broker.partitions[topic]

    def send(self, messages: Sequence[Message]) -> None:
        batches: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        for message in messages:
            partition = message.partition
            batches[message.topic, 0 if partition is None else partition].append(message)
        for (topic, partition), of_partition in batches.items():
            batch = _Batch(topic, partition, of_partition)
            self._open[batch] = None
            self._free_at = max(self._free_at + TICK_S, self._loop.time() + self._latency_s())
            self._loop.call_at(self._free_at, self._store, batch)

    def _latency_s(self) -> float:
        broker = self._broker
        is_slow = self._loop.time() < broker.slow_until
        return broker.random.uniform(0.0, broker.slow_s) if is_slow else broker.latency_s

    def _store(self, batch: _Batch) -> None:
        broker = self._broker
        if self.is_dead or self.is_hung or batch not in self._open:
            return
        if broker.is_away:
            self._loop.call_later(REQUEST_TIMEOUT_S, self._fail, batch, BrokerError("kafka: no response"))
            return
        if broker.break_sessions:
            broker.break_sessions -= 1
            self._fail(batch, SessionBrokenError("kafka: the session is broken"))
            return
        batch.offset = broker.store(batch.topic, batch.partition, batch.messages)
        if broker.lose_acks:
            broker.lose_acks -= 1
            self._loop.call_later(REQUEST_TIMEOUT_S, self._fail, batch, BrokerError("kafka: request timed out"))
        else:
            self._acknowledged_at = max(self._acknowledged_at + TICK_S, self._loop.time() + self._latency_s())
            self._loop.call_at(self._acknowledged_at, self._acknowledge, batch)

    def _acknowledge(self, batch: _Batch) -> None:
        if self.is_dead or self.is_hung or batch not in self._open or self._listener is None or batch.offset is None:
            return
        del self._open[batch]
        offset = batch.offset
        if self._broker.unknown_offsets:
            self._broker.unknown_offsets -= 1
            offset = -1
        self._listener.acknowledged(batch.messages, batch.partition, offset)

    def _fail(self, batch: _Batch, error: BrokerError) -> None:
        if not (self.is_dead or self.is_hung) and batch in self._open and self._listener is not None:
            del self._open[batch]
            self._listener.failed(batch.messages, error)

    def lose_connection(self, error: BrokerError) -> None:
        """Report all open batches as failed; some of them are stored."""
        for batch in list(self._open):
            self._fail(batch, error)

    def judge(self, error: BaseException) -> FailureVerdict:
        return FailureVerdict.RESTART if isinstance(error, SessionBrokenError) else FailureVerdict.RETRY

    async def restart(self) -> None:
        await asyncio.sleep(self._broker.latency_s)
        self._broker.check_reachable()
        self.is_hung = False
        self.lose_connection(BrokerError("kafka: the session was restarted"))

    async def stop(self) -> None:
        self.is_dead = True
