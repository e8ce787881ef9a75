"""Kafka access outside the data path: topics, offsets, records of a topic, the dead-letter record.

The functions without `_async` may be called from anywhere, with or without a running event loop in the thread. All
raise `BrokerError`, naming the servers, if the brokers cannot be reached, and its subclass `BrokerAccessError` if they
reject the client permanently.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import structlog

from cryptolake_assets.captures.tracked_symbols import streams_in_use
from cryptolake_assets.errors import BrokerAccessError, BrokerError, SettingsError
from cryptolake_assets.kafka.access import aiokafka_options
from cryptolake_assets.kafka.broker_errors import (
    broker_error,
    broker_error_without_probe,
    cause_of,
    find_problem,
    java_access_error,
)
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.settings import Settings, env_name

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

log = structlog.get_logger(__name__)
# The client logs every attempt while a broker is unavailable; this process logs the relevant errors itself.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

REQUEST_TIMEOUT_S: Final = 15.0  # maximum duration of a request; after it, the brokers count as unreachable
PEEK_TIMEOUT_S: Final = 120.0  # the same for a peek, which may read an entire topic
# Maximum raw bytes stored of a rejected frame: under the brokers' default limit of 1,048,588 bytes per record.
MAX_REJECTED_BYTES: Final = 900_000

_TOPIC_EXISTS: Final = 36
_JAVA_CLIENT_FAILED: Final = "Failed to create new KafkaAdminClient"
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PeekedRecord:
    """One record of a topic; `timestamp_ms` is Kafka's record timestamp, ms since 1970, UTC."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


async def ensure_topics_async(settings: Settings) -> dict[str, bool]:
    """Create the topics of all streams in use and the dead-letter topics of their families, where missing.

    Return, per topic, whether this call created it. Existing topics stay unchanged; if their partitions or replication
    differ from the settings, a warning is logged (see `topic_differences`).
    """
    from aiokafka.admin import NewTopic
    from aiokafka.errors import for_code

    required = await _required_topics(settings)
    async with broker_request(settings, "create topics"), open_admin(settings) as admin:
        # Describe first: a user without the permission to create topics can still use existing ones.
        layouts = _layouts(await admin.describe_topics(), required)
        missing = [topic for topic in required if topic not in layouts]
        created = dict.fromkeys(required, False)
        for difference in _differences(settings, layouts):
            log.warning("topic_difference_found", difference=difference)
        if not missing:
            return created
        response = await admin.create_topics(
            [NewTopic(topic, settings.kafka_partitions, settings.kafka_replication) for topic in missing]
        )
    for topic, code, *detail in response.topic_errors:
        if code not in (0, _TOPIC_EXISTS):
            message = next((str(text) for text in detail if text), "")
            raise BrokerAccessError(
                f"kafka: the brokers at {settings.bootstrap_servers} rejected the creation of topic {topic} "
                f"({for_code(code).__name__}{': ' + message if message else ''}). Check CRYPTOLAKE_KAFKA_PARTITIONS "
                f"({settings.kafka_partitions}), CRYPTOLAKE_KAFKA_REPLICATION ({settings.kafka_replication}) and the "
                "user's permission to create topics."
            )
        created[topic] = code == 0
    log.info("topics_created", topics=[topic for topic, now in created.items() if now])
    return created


async def topic_differences_async(settings: Settings) -> list[str]:
    """Return the differences of existing topics from the settings in partitions or replication, with the next step.

    One line per difference. Missing topics are ignored.
    """
    required = await _required_topics(settings)
    async with broker_request(settings, "describe topics"), open_admin(settings) as admin:
        return _differences(settings, _layouts(await admin.describe_topics(), required))


@dataclass(frozen=True, slots=True)
class TopicLayout:
    """A topic's partition count, and the minimum replica count of its partitions."""

    partitions: int
    replication: int


async def _required_topics(settings: Settings) -> tuple[str, ...]:
    streams = await asyncio.to_thread(streams_in_use, settings)
    return (*(of.topic(settings) for of in streams), *(of.topic_rejected for of in settings.each_family))


def _layouts(described: Sequence[Mapping[str, Any]], required: Sequence[str]) -> dict[str, TopicLayout]:
    """Return the layouts in the order of `required`; the brokers' own order varies."""
    partitions = {topic["topic"]: topic["partitions"] for topic in described}
    return {
        topic: TopicLayout(
            len(partitions[topic]), min((len(part["replicas"]) for part in partitions[topic]), default=0)
        )
        for topic in required
        if topic in partitions
    }


def _differences(settings: Settings, layouts: Mapping[str, TopicLayout]) -> list[str]:
    found = []
    for topic, layout in layouts.items():
        if layout.partitions != settings.kafka_partitions:
            found.append(
                f"topic {topic}: it has {layout.partitions} partitions, but {env_name('kafka_partitions')} is "
                f"{settings.kafka_partitions}. The topic stays unchanged, because another partition count would move a "
                f"symbol's trades to another partition. Set the variable to {layout.partitions}, or configure a new "
                "topic."
            )
        if layout.replication != settings.kafka_replication:
            found.append(
                f"topic {topic}: it has {layout.replication} replicas, but {env_name('kafka_replication')} is "
                f"{settings.kafka_replication}. The topic stays unchanged. Reassign its partitions with Kafka's own "
                f"tools, or set the variable to {layout.replication}."
            )
    return found


def access_problem(settings: Settings) -> str | None:
    """Return a short reason why Kafka rejects a client; None if a broker accepts one."""
    try:
        problem = _run(find_problem(settings))
    except SettingsError as error:
        return str(error)
    return None if problem is None else cause_of(problem)


def error_of_spark(settings: Settings, message: str) -> BrokerError | None:
    """Return the error for a message of Java's client in Spark; None if it is not about the brokers.

    A client without a token only reports that it could not be created. This process then probes with the same settings.
    """
    if (access_error := java_access_error(settings, message)) is not None:
        return access_error
    if _JAVA_CLIENT_FAILED in message:
        with contextlib.suppress(SettingsError):
            if (problem := _run(find_problem(settings))) is not None:
                return broker_error_without_probe(settings, "read with Spark", problem)
    return None


async def end_offsets_async(settings: Settings, topic: str) -> dict[int, int]:
    """Return, per partition, the offset of the next record."""
    async with broker_request(settings, f"read the end offsets of {topic}"), open_consumer(settings) as consumer:
        partitions = await partitions_of(settings, topic)
        return {tp.partition: offset for tp, offset in (await consumer.end_offsets(partitions)).items()}


async def peek_async(settings: Settings, topic: str, count: int, from_end: bool = True) -> list[PeekedRecord]:
    """Return at most `count` records of a topic: the newest, or the oldest if not `from_end`; in Kafka's time order.

    Reads only the records present at the call; joins no consumer group and commits no offsets.
    """
    async with broker_request(settings, f"read topic {topic}", PEEK_TIMEOUT_S), open_consumer(settings) as consumer:
        partitions = await partitions_of(settings, topic)
        begin = await consumer.beginning_offsets(partitions)
        end = await consumer.end_offsets(partitions)
        start = {tp: max(begin[tp], end[tp] - count) if from_end else begin[tp] for tp in partitions}
        stop = {tp: end[tp] if from_end else min(end[tp], begin[tp] + count) for tp in partitions}
        records = await _read(consumer, start, stop)
    records.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
    return records[-count:] if from_end else records[:count]


async def read_async(settings: Settings, topic: str, spans: Mapping[int, tuple[int, int]]) -> list[PeekedRecord]:
    """Return the records still present in [first, end) of each given partition, by partition and offset."""
    async with broker_request(settings, f"read topic {topic}", PEEK_TIMEOUT_S), open_consumer(settings) as consumer:
        partitions = [tp for tp in await partitions_of(settings, topic) if tp.partition in spans]
        begin = await consumer.beginning_offsets(partitions)
        start = {tp: max(begin[tp], spans[tp.partition][0]) for tp in partitions}
        records = await _read(consumer, start, {tp: spans[tp.partition][1] for tp in partitions})
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def _read(
    consumer: AIOKafkaConsumer, start: Mapping[TopicPartition, int], stop: Mapping[TopicPartition, int]
) -> list[PeekedRecord]:
    """Return the records in [start, stop) of each partition, unordered."""
    consumer.assign(list(start))
    for tp, offset in start.items():
        consumer.seek(tp, offset)
    records: list[PeekedRecord] = []
    open_partitions = {tp for tp in start if start[tp] < stop[tp]}
    while open_partitions:
        for tp, batch in (await consumer.getmany(*open_partitions, timeout_ms=500)).items():
            records.extend(
                PeekedRecord(tp.partition, item.offset, item.timestamp, item.key, item.value, tuple(item.headers))
                for item in batch
                if item.offset < stop[tp]
            )
        # The position also passes removed records (compaction, transaction markers).
        open_partitions = {tp for tp in open_partitions if await consumer.position(tp) < stop[tp]}
    return records


def dead_letter(frame: RejectedFrame, *, stream: str, received_at_us: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return value and headers of a rejected frame's dead-letter record; it has no key.

    The value is the raw frame. Headers: `reason` (see `RejectedFrame`), `stream` (the subscribed stream, such as
    `trade` or `aggTrade`), `received_at_us` (ASCII digits, µs since 1970, UTC). A frame over `MAX_REJECTED_BYTES` is
    truncated to that size, and a header `truncated_from_bytes` holds its original size.
    """
    headers = [
        ("reason", frame.reason.encode()),
        ("stream", stream.encode()),
        ("received_at_us", str(received_at_us).encode()),
    ]
    if len(frame.raw) > MAX_REJECTED_BYTES:
        headers.append(("truncated_from_bytes", str(len(frame.raw)).encode()))
    return frame.raw[:MAX_REJECTED_BYTES], headers


@contextlib.asynccontextmanager
async def broker_request(
    settings: Settings, purpose: str, limit_s: float = REQUEST_TIMEOUT_S
) -> AsyncIterator[asyncio.Timeout]:
    """Limit the block's duration; raise errors of Kafka's client as a `BrokerError`. Yield the limit."""
    from aiokafka.errors import KafkaError

    try:
        async with asyncio.timeout(limit_s) as limit:
            yield limit
    except (KafkaError, OSError) as error:  # TimeoutError is an OSError
        raise await broker_error(settings, purpose, error) from error


@contextlib.asynccontextmanager
async def open_consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Start a consumer without a group; stop it after the block."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        **aiokafka_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="none",
        request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000),
    )
    try:
        await consumer.start()
        # Its tasks begin now: one that is canceled before it began would end `stop` with a CancelledError.
        await asyncio.sleep(0)
        yield consumer
    finally:
        await consumer.stop()


@contextlib.asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Start an admin client; close it after the block."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**aiokafka_options(settings), request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def partitions_of(settings: Settings, topic: str) -> Sequence[TopicPartition]:
    from aiokafka import TopicPartition

    async with open_admin(settings) as admin:
        # All topics: a request by name would create the topic on brokers with automatic creation.
        found = [described for described in await admin.describe_topics() if described["topic"] == topic]
    if not found:
        raise BrokerError(
            f"kafka: topic {topic} does not exist at {settings.bootstrap_servers}. Create it with `cryptolake topics`, "
            f"or check {env_name('kafka_topic_futures')} and {env_name('kafka_topic_spot')}."
        )
    return [TopicPartition(topic, number) for number in sorted(part["partition"] for part in found[0]["partitions"])]


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    if not _loop_is_running():
        return asyncio.run(work)
    # The caller occupies this thread's event loop: run the work in a loop on another thread.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka") as pool:
        return pool.submit(asyncio.run, work).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def blocking(work: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, _T]:
    """Return a blocking version of `work`, callable with or without a running event loop."""

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return _run(work(*args, **kwargs))

    return call


ensure_topics = blocking(ensure_topics_async)
topic_differences = blocking(topic_differences_async)
end_offsets = blocking(end_offsets_async)
read = blocking(read_async)
peek = blocking(peek_async)
