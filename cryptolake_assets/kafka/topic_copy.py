"""Copy the end of a topic to another topic: same partitions, keys, values, headers, times and order; resumable.

The target's records from `base` on are the copies made so far, so an interrupted copy continues after the last one. The
functions raise the errors of `kafka.topics`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from cryptolake_assets.kafka.access import aiokafka_options
from cryptolake_assets.kafka.topics import blocking, broker_request, open_admin, open_consumer
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

log = structlog.get_logger(__name__)

STALL_S: Final = 120.0  # without any progress for this long, the brokers count as unreachable
LOG_INTERVAL_S: Final = 10.0
BATCH_BYTES: Final = 262_144

Offsets = Mapping[int, int]  # by partition


@dataclass(frozen=True, slots=True)
class Retained:
    """The offsets of a partition's records: `begin` inclusive, `end` exclusive."""

    begin: int
    end: int


@dataclass(frozen=True)
class Copied:
    """Result of a copy: the end of the source, and the target's offsets that correspond to the marks, by partition."""

    source_end: dict[int, int]
    marks: dict[int, dict[int, int]]


async def retained_async(settings: Settings, topic: str) -> dict[int, Retained]:
    """Return the retained offsets by partition; empty if the topic does not exist."""
    async with broker_request(settings, f"read the offsets of {topic}"), open_admin(settings) as admin:
        partitions = await _partitions(admin, topic)
        async with open_consumer(settings) as consumer:
            return await _retained(consumer, partitions)


async def copy_async(
    settings: Settings, source: str, target: str, start: Offsets, base: Offsets, marks: Mapping[int, Collection[int]]
) -> Copied:
    """Copy the source's records from `start` on; return at which offset of the target each mark is.

    `base` are the target's end offsets before the first copy. The mark of an offset of the source is the target's
    offset of the first copy from there on.
    """
    from aiokafka import AIOKafkaProducer

    async with broker_request(settings, f"copy topic {source} to {target}", STALL_S) as limit:
        async with open_admin(settings) as admin:
            partitions = await _partitions(admin, source)
        producer = AIOKafkaProducer(
            **aiokafka_options(settings), enable_idempotence=True, acks="all", max_batch_size=BATCH_BYTES
        )
        async with open_consumer(settings) as consumer, producer:
            copy = _Copy(consumer, producer, target, start, base, marks)
            return await copy.run(partitions, limit)


class _Copy:
    """One copy. `_count` holds the records read by partition, from `start` on."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        target: str,
        start: Offsets,
        base: Offsets,
        marks: Mapping[int, Collection[int]],
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._target = target
        self._start = start
        self._base = base
        self._marks = marks
        self._count: defaultdict[int, int] = defaultdict(int)
        self._found: defaultdict[int, dict[int, int]] = defaultdict(dict)

    async def run(self, partitions: Collection[TopicPartition], limit: asyncio.Timeout) -> Copied:
        from aiokafka import TopicPartition

        retained = await _retained(self._consumer, partitions)
        targets = await self._consumer.end_offsets([TopicPartition(self._target, tp.partition) for tp in partitions])
        done = {tp.partition: end - self._base.get(tp.partition, 0) for tp, end in targets.items()}
        self._consumer.assign(list(partitions))
        for tp in partitions:
            first = max(self._start.get(tp.partition, 0), retained[tp.partition].begin)
            # Records deleted by retention since an earlier attempt are already copied or lost.
            self._count[tp.partition] = first - self._start.get(tp.partition, first)
            self._consumer.seek(tp, first)
        ends: dict[TopicPartition, int] = {}
        while (now := await self._consumer.end_offsets(partitions)) != ends:
            ends = now
            await self._copy_until(ends, done, limit)
        for tp in partitions:
            for mark in self._marks.get(tp.partition, ()):
                self._found[tp.partition].setdefault(mark, self._position(tp.partition))
        return Copied({tp.partition: end for tp, end in ends.items()}, dict(self._found))

    async def _copy_until(
        self, ends: Mapping[TopicPartition, int], done: Mapping[int, int], limit: asyncio.Timeout
    ) -> None:
        loop = asyncio.get_running_loop()
        logged = time.monotonic()
        remaining = {tp for tp, end in ends.items() if await self._consumer.position(tp) < end}
        while remaining:
            for tp, records in (await self._consumer.getmany(*remaining, timeout_ms=500)).items():
                limit.reschedule(loop.time() + STALL_S)
                for record in records:
                    await self._take(tp.partition, record, done)
            await self._producer.flush()
            # The position also passes removed records (transaction markers).
            remaining = {tp for tp in remaining if await self._consumer.position(tp) < ends[tp]}
            if time.monotonic() - logged > LOG_INTERVAL_S:
                logged = time.monotonic()
                left = sum([ends[tp] - await self._consumer.position(tp) for tp in remaining])
                log.info("records_copying", topic=self._target, records=sum(self._count.values()), remaining=left)
        log.info("records_copied", topic=self._target, records=sum(self._count.values()))

    async def _take(self, partition: int, record: Any, done: Mapping[int, int]) -> None:
        for mark in self._marks.get(partition, ()):
            if record.offset >= mark:
                self._found[partition].setdefault(mark, self._position(partition))
        if self._count[partition] >= done[partition]:
            await self._producer.send(
                self._target,
                record.value,
                record.key,
                partition,
                record.timestamp,
                list(record.headers),
            )
        self._count[partition] += 1

    def _position(self, partition: int) -> int:
        """Return the target's offset of the next record to read."""
        return self._base.get(partition, 0) + self._count[partition]


async def _partitions(admin: AIOKafkaAdminClient, topic: str) -> list[TopicPartition]:
    from aiokafka import TopicPartition

    # All topics: a request by name would create the topic on brokers with automatic creation.
    found = [described for described in await admin.describe_topics() if described["topic"] == topic]
    return [TopicPartition(topic, part["partition"]) for described in found for part in described["partitions"]]


async def _retained(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> dict[int, Retained]:
    if not partitions:
        return {}
    begin, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    return {tp.partition: Retained(begin[tp], end[tp]) for tp in partitions}


retained = blocking(retained_async)
copy = blocking(copy_async)
