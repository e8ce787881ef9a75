"""Recover the checkpoint of a Bronze query before it starts: damaged, deleted, or behind Kafka's oldest record.

The query rewrites a damaged or deleted checkpoint from the newest records in the table. Each batch is one commit, so
all records of a partition below its newest one in the table are there too. The new checkpoint has a new query id,
because Iceberg's sink skips the batches that the table has of an id.

If Kafka no longer has the records after those in the table, they are lost: `record_lost` records them as gaps before
the query continues with the oldest record that Kafka retains.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import structlog

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.bronze.lost_records import record_lost
from cryptolake_assets.kafka.topic_copy import Retained, retained
from cryptolake_assets.kafka.topics import read
from cryptolake_assets.lake import stream_checkpoints as checkpoints
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.newest_records import newest_records
from cryptolake_assets.lake.stream_checkpoints import TopicOffsets
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

RetainedTopics = Mapping[str, Mapping[int, Retained]]


def recover_checkpoint(
    settings: Settings, query: str, stream_type: StreamType, table: TableSpec, topics: Sequence[str]
) -> None:
    """Make the query's checkpoint one from which Spark continues without loss; do nothing if it is sound.

    `topics` are those that the query reads into `table`. The caller holds the checkpoint lock. Blocks; raises
    `BrokerError` and the catalog's errors.
    """
    location = checkpoints.checkpoint(settings, query)
    if batches := checkpoints.remove_damaged_commits(settings, location):
        log.warning("checkpoint_commits_removed", query=query, batches=batches)
    kept = {topic: retained(settings, topic) for topic in topics}
    newest = checkpoints.newest_batch(load_table(settings, table), checkpoints.query_id(settings, location))
    offsets = checkpoints.read_offsets(settings, location, newest)
    is_sound = checkpoints.is_sound(settings, location, newest)
    if not is_sound:
        offsets = _offsets_of_table(settings, table, kept, offsets)
    lost = _lost(offsets, kept)
    if is_sound and not lost:
        return
    if not offsets and not lost:
        checkpoints.remove(settings, location)  # files of a query that has not stored any record
        return
    topic = stream_type.topic(settings)
    if stream_type.is_trades and table is stream_type.bronze and topic in lost:
        record_lost(settings.of_family(stream_type.family), offsets.get(topic, {}), lost[topic])
    continued = {
        topic: {
            number: one.begin if number in lost.get(topic, ()) else offsets.get(topic, {}).get(number, one.begin)
            for number, one in of_topic.items()
        }
        for topic, of_topic in kept.items()
    }
    checkpoints.write(settings, location, str(uuid.uuid4()), continued)
    log.warning("checkpoint_written", query=query, was_sound=is_sound, offsets=continued, lost_partitions=lost)


def _offsets_of_table(
    settings: Settings, spec: TableSpec, kept: RetainedTopics, checkpointed: TopicOffsets
) -> TopicOffsets:
    """Return the offsets below which the table has all records, at least those of the damaged checkpoint.

    Kafka's record must equal that of the table: offsets restart at 0 in a topic that was deleted and created again.
    """
    table = load_table(settings, spec)
    found: TopicOffsets = {}
    for topic, of_topic in kept.items():
        newest = newest_records(table, topic, [number for number, one in of_topic.items() if one.end])
        spans = {
            number: (offset, offset + 1)
            for number, (offset, _) in newest.items()
            if of_topic[number].begin <= offset < of_topic[number].end
        }
        in_kafka = {record.partition: record.timestamp_ms for record in read(settings, topic, spans)} if spans else {}
        of_table = {
            number: offset + 1
            for number, (offset, timestamp_ms) in newest.items()
            if in_kafka.get(number, timestamp_ms) == timestamp_ms
        }
        known = checkpointed.get(topic, {})
        both = {number: max(of_table.get(number, 0), known.get(number, 0)) for number in of_table.keys() | known.keys()}
        if both:
            found[topic] = both
    return found


def _lost(offsets: TopicOffsets, kept: RetainedTopics) -> dict[str, list[int]]:
    """Return, per topic, the partitions of which Kafka has deleted records that the table lacks.

    Offsets above a partition's end are of a deleted topic of the same name.
    """
    lost = {
        topic: [
            number
            for number, one in of_topic.items()
            if not one.begin <= offsets.get(topic, {}).get(number, 0) <= one.end
        ]
        for topic, of_topic in kept.items()
    }
    return {topic: partitions for topic, partitions in lost.items() if partitions}
