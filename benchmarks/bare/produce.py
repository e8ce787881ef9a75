"""Send prepared bytes to Kafka with one of the producer's Kafka libraries: acks=all, idempotent, zstd."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from benchmarks.bare.clock import Clock, report
from benchmarks.events import Event, events

BATCH_BYTES = 256 * 1024
LINGER_MS = 10
MAX_IN_FLIGHT = 50_000


async def by_aiokafka(servers: str, topic: str, prepared: list[Event]) -> Clock:
    """Send full batches: aiokafka's `send()` per message costs several times as much."""
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        enable_idempotence=True,
        acks="all",
        compression_type="zstd",
        max_batch_size=BATCH_BYTES,
    )
    await producer.start()
    await producer.partitions_for(topic)
    clock = Clock()
    sent = []
    batches: dict[int, Any] = {}
    for value, key, partition in prepared:
        batch = batches.get(partition)
        if batch is None or batch.append(timestamp=None, key=key, value=value) is None:
            if batch is not None:
                sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = batches[partition] = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value)
    for partition, batch in batches.items():
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sent)
    await producer.stop()
    return clock


def by_confluent(servers: str, topic: str, prepared: list[Event]) -> Clock:
    from confluent_kafka import Producer

    delivered = 0

    def note(error: object, _message: object) -> None:
        nonlocal delivered
        assert error is None, error
        delivered += 1

    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "compression.type": "zstd",
            "batch.size": BATCH_BYTES,
            "linger.ms": LINGER_MS,
            "queue.buffering.max.messages": 2 * MAX_IN_FLIGHT,
            "on_delivery": note,
        }
    )
    producer.list_topics(topic)
    time.sleep(0.2)
    clock = Clock()
    produce = producer.produce
    for number, (value, key, partition) in enumerate(prepared):
        produce(topic, value, key, partition)
        if number % 500 == 0:
            producer.poll(0)
            while len(producer) > MAX_IN_FLIGHT:
                producer.poll(0.005)
    producer.flush()
    assert delivered == len(prepared)
    return clock


def main(library: str, servers: str, topic: str, frames: str) -> None:
    prepared = list(events(int(frames)))
    if library == "confluent-kafka":
        clock = by_confluent(servers, topic, prepared)
    else:
        clock = asyncio.run(by_aiokafka(servers, topic, prepared))
    report(f"produce, {library}", clock, frames=len(prepared))


if __name__ == "__main__":
    main(*sys.argv[1:])
