"""Move a Spot home of an earlier release: its rows were in tables, a topic and checkpoints named after futures.

`rename_tables` gives the tables their names in the catalog; files stay where they are. `move_stream` moves the rest,
with its plan in a property of the trades table: undrained Kafka records are copied to the Spot topic, new checkpoints
continue there, coverage and gaps get that topic's offsets, and the follower's cursor goes with the stream. Every step
may run again after a crash.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from cryptolake_assets.binance.stream_types import SPOT_TRADES, TRADES
from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka import topic_copy
from cryptolake_assets.kafka.topic_copy import Copied, Retained
from cryptolake_assets.kafka.topics import ensure_topics
from cryptolake_assets.lake import stream_checkpoints as checkpoints
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import data_files, swap_files
from cryptolake_assets.lake.files import open_filesystem, read_text, write_text
from cryptolake_assets.lake.pages import read_files
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.lake.stream_checkpoints import TopicOffsets
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import Family, Market
from cryptolake_assets.model.ops_tables import OPS_COVERAGE, OPS_RUN_METRICS
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

    Row = dict[str, Any]

log = structlog.get_logger(__name__)

SPOT: Final = FAMILY_TABLES[Family.SPOT]
# Set by earlier releases, whose lakes held one family: a property of the trades table, which keeps it when renamed.
FAMILY_PROPERTY: Final = "cryptolake.family"
PLAN_PROPERTY: Final = "cryptolake.spot-plan"
MOVED_PROPERTY: Final = "cryptolake.spot-moved"  # of a table whose rows name the Spot topic and assets
NEVER: Final = 2**62  # an offset that Bronze does not reach: the records were lost


def is_spot_lake(settings: Settings) -> bool:
    """Return whether an earlier release made the lake for Spot, and its tables are not renamed yet."""
    catalog = get_catalog(settings)
    return catalog.table_exists(FUTURES.trades.identifier) and _made_for_spot(load_table(settings, FUTURES.trades))


def is_moved(settings: Settings) -> bool:
    """Return whether an earlier release made the lake for Spot, and its tables have been renamed."""
    catalog = get_catalog(settings)
    return catalog.table_exists(SPOT.trades.identifier) and _made_for_spot(load_table(settings, SPOT.trades))


def was_made_for_spot(settings: Settings) -> bool:
    """Return whether an earlier release made the lake for Spot."""
    return is_spot_lake(settings) or is_moved(settings)


def _made_for_spot(trades: Table) -> bool:
    return bool(trades.properties.get(FAMILY_PROPERTY) == Family.SPOT.value)


def rename_tables(settings: Settings) -> list[str]:
    """Rename the tables of a Spot lake of an earlier release; return the actions, one line each.

    The table of trades, which names the family, is the last one.
    """
    from pyiceberg.exceptions import NoSuchTableError

    if not is_spot_lake(settings):
        return []
    catalog, actions = get_catalog(settings), []
    for old, new in reversed(list(zip(FUTURES, SPOT, strict=True))):
        try:
            catalog.rename_table(old.identifier, new.identifier)
        except NoSuchTableError:  # renamed before a crash, or made by a later release than the lake
            continue
        actions.append(f"renamed {old.full_name} to {new.full_name}")
        log.info("table_renamed", old=old.full_name, new=new.full_name)
    return actions


def location_of_new(settings: Settings, spec: TableSpec) -> str | None:
    """Return the location of a table to create; None: the catalog's default.

    The renamed tables of a Spot home keep the directories of their old names, which the new tables must not share.
    """
    catalog = get_catalog(settings)
    for old, new in zip(FUTURES, SPOT, strict=True):
        if spec is old and catalog.table_exists(new.identifier):
            location = load_table(settings, new).location().rstrip("/")
            if location.rpartition("/")[2] == old.name:
                return f"{location}_2"
    namespace = settings.namespace_location_of(spec.namespace)
    return f"{namespace}/{spec.name}" if namespace else None


@dataclass(frozen=True)
class _Plan:
    """What to copy. By topic of the old home: `in_bronze` are the offsets below which the trades' query has all records
    in Bronze, `rejected` those of the query of rejected records; the copies begin at `start`, and at `base` of the new
    topic. `lost` are partitions whose records above `in_bronze` are no longer in Kafka."""

    topics: dict[str, str]  # new topic by old topic: trades, dead letters
    in_bronze: TopicOffsets
    rejected: TopicOffsets
    start: TopicOffsets
    base: TopicOffsets
    lost: list[int]

    @property
    def trades(self) -> str:
        return next(iter(self.topics))

    @classmethod
    def parse(cls, text: str) -> _Plan:
        data = json.loads(text)
        for name in ("in_bronze", "rejected", "start", "base"):
            data[name] = {
                topic: {int(number): offset for number, offset in offsets.items()}
                for topic, offsets in data[name].items()
            }
        return cls(**data)


def move_stream(settings: Settings) -> None:
    """Move the Bronze stream of a renamed Spot lake to the topic and the checkpoints of Spot.

    Blocks. Raises `BrokerError` if Kafka cannot be reached, `CheckpointInUseError` if the Bronze stream runs.
    """
    if not is_moved(settings):
        return
    spot = settings.of_family(Family.SPOT)
    with checkpoints.checkpoint_lock(settings):
        try:
            plan = _plan(spot)
            copied = {old: _copy(spot, plan, old) for old in plan.topics}
            ends = {number: one.end for number, one in topic_copy.retained(spot, spot.topic_trades).items()}
        except BrokerError as error:
            raise type(error)(
                f"{error} Until then, the platform does not start: the records of this Spot home are not moved yet."
            ) from error
        _move_checkpoints(spot, plan, copied)
        _move_offsets(spot, plan, copied, ends)
        _move_cursor(spot)
        _rename_assets_of_metrics(spot)
    log.info("spot_stream_moved", topic=spot.topic_trades)


def _plan(settings: Settings) -> _Plan:
    """Return the stored plan, or make and store it."""
    from pyiceberg.exceptions import CommitFailedException

    stored = load_table(settings, SPOT.trades).properties.get(PLAN_PROPERTY)
    if stored is not None:
        return _Plan.parse(stored)
    plan = _new_plan(settings)
    for attempt in commit_attempts(CommitFailedException):
        with attempt, load_table(settings, SPOT.trades).transaction() as transaction:
            transaction.set_properties({PLAN_PROPERTY: json.dumps(asdict(plan))})
    return plan


def _new_plan(settings: Settings) -> _Plan:
    in_bronze = _offsets(settings, _old_query(), SPOT.trades)
    rejected = _offsets(settings, f"{_old_query()}_rejected", SPOT.rejected)
    trades = next(iter(in_bronze), settings.kafka_topic_futures)
    topics = {trades: settings.topic_trades, f"{trades}_rejected": settings.topic_rejected}
    retained = {topic: topic_copy.retained(settings, topic) for topic in topics}
    in_bronze, rejected = (_reachable(offsets, retained) for offsets in (in_bronze, rejected))
    partitions = max((len(of_topic) for of_topic in retained.values()), default=0)
    if partitions:
        ensure_topics(settings.model_copy(update={"markets": (Market.SPOT,), "kafka_partitions": partitions}))
    start: TopicOffsets = {}
    for topic, of_topic in retained.items():
        queries = [rejected.get(topic, {})] + ([in_bronze.get(topic, {})] if topic == trades else [])
        start[topic] = {
            number: max(one.begin, min(offsets.get(number, 0) for offsets in queries))
            for number, one in of_topic.items()
        }
    found = {topic: topic_copy.retained(settings, new) for topic, new in topics.items()}
    for topic, new in topics.items():
        if missing := retained[topic].keys() - found[topic].keys():
            raise BrokerAccessError(
                f"kafka: topic {new} lacks the partitions {sorted(missing)} of {topic}, from which records are copied. "
                "Delete the topic or add the partitions with Kafka's own tools, then run `cryptolake bootstrap`."
            )
    return _Plan(
        topics=topics,
        in_bronze=in_bronze,
        rejected=rejected,
        start=start,
        base={topic: {number: one.end for number, one in of_topic.items()} for topic, of_topic in found.items()},
        lost=_lost(in_bronze.get(trades, {}), retained[trades]),
    )


def _reachable(offsets: TopicOffsets, retained: Mapping[str, Mapping[int, Retained]]) -> TopicOffsets:
    """Return the offsets; one above a topic's end is of a deleted topic of that name: begin with the first one."""
    return {
        topic: {
            number: offset if (one := retained[topic].get(number)) is None or offset <= one.end else one.begin
            for number, offset in of_topic.items()
        }
        for topic, of_topic in offsets.items()
        if topic in retained
    }


def _lost(in_bronze: Mapping[int, int], retained: Mapping[int, Retained]) -> list[int]:
    """Return the partitions with deleted records that Bronze does not have, or without any record in Kafka."""
    return [
        number
        for number in sorted(in_bronze.keys() | retained.keys())
        if number not in retained or retained[number].begin > in_bronze.get(number, 0)
    ]


def _old_query() -> str:
    return f"bronze_{FUTURES.trades.name}"


def _offsets(settings: Settings, query: str, spec: TableSpec) -> TopicOffsets:
    """Return the offsets below which the table has the old query's records."""
    location = checkpoints.checkpoint(settings, query)
    query_id = checkpoints.query_id(settings, location)
    newest = checkpoints.newest_batch(load_table(settings, spec), query_id)
    return checkpoints.read_offsets(settings, location, newest) if query_id else {}


def _copy(settings: Settings, plan: _Plan, topic: str) -> Copied:
    """Copy the topic's undrained records; the marks are the offsets of both queries."""
    marks: dict[int, set[int]] = {number: set() for number in plan.start[topic]}
    for query in (plan.in_bronze, plan.rejected):
        for number, offset in query.get(topic, {}).items():
            if number in marks:
                marks[number].add(offset)
    if topic == plan.topics[topic]:
        ends = {number: one.end for number, one in topic_copy.retained(settings, topic).items()}
        return Copied(ends, {number: {offset: offset for offset in offsets} for number, offsets in marks.items()})
    if not plan.start[topic]:
        return Copied({}, {})
    return topic_copy.copy(settings, topic, plan.topics[topic], plan.start[topic], plan.base[topic], marks)


def _move_checkpoints(settings: Settings, plan: _Plan, copied: Mapping[str, Copied]) -> None:
    """Write the checkpoints of the Spot queries, and of the futures queries if they read the old topic later on.

    The new queries have new ids: Iceberg's sink finds no batch of theirs in the tables.
    """
    table = load_table(settings, SPOT.trades).metadata.table_uuid
    for suffix, offsets in (("", plan.in_bronze), ("_rejected", plan.rejected)):
        topics = [topic for topic in plan.topics if copied[topic].source_end and (suffix or topic == plan.trades)]
        moved = {
            plan.topics[topic]: {
                number: copied[topic].marks[number][offset]
                for number, offset in offsets[topic].items()
                if number in copied[topic].marks
            }
            for topic in topics
            if topic in offsets
        }
        query = f"bronze_{SPOT.trades.name}{suffix}"
        if moved:
            checkpoints.write(settings, checkpoints.checkpoint(settings, query), str(uuid.uuid5(table, query)), moved)
        old = f"{_old_query()}{suffix}"
        if topics and settings.kafka_topic_futures == plan.trades:
            # The old topic holds Spot's records: the futures queries begin after them.
            ends = {topic: copied[topic].source_end for topic in topics}
            checkpoints.write(settings, checkpoints.checkpoint(settings, old), str(uuid.uuid5(table, old)), ends)
        else:
            checkpoints.remove(settings, checkpoints.checkpoint(settings, old))


def _move_offsets(settings: Settings, plan: _Plan, copied: Mapping[str, Copied], ends: Mapping[int, int]) -> None:
    """Replace the old topic's offsets in coverage and gaps by those of the new topic, which ends at `ends`."""
    in_bronze = plan.in_bronze.get(plan.trades, {})
    source_end = copied[plan.trades].source_end
    letters = f"{plan.trades}_rejected"

    def moved(number: int, offset: int) -> int:
        if offset <= in_bronze.get(number, 0):
            return 0
        # A higher offset than the topic's end is of another topic of that name, which was deleted.
        return NEVER if number in plan.lost or offset > source_end.get(number, 0) else ends[number]

    def coverage(row: Row) -> Row | None:
        if row["kafka_partition"] is None or row["kafka_offset"] is None or row["kafka_partition"] < 0:
            return row
        offset = moved(row["kafka_partition"], row["kafka_offset"])
        return None if offset == NEVER else {**row, "kafka_offset": offset}

    def gap(row: Row) -> Row | None:
        if row["kafka_offset"] is not None:
            row = {**row, "kafka_offset": moved(row["kafka_partition"], row["kafka_offset"])}
        number, offset = row["dead_letter_partition"], row["dead_letter_offset"]
        if offset is not None and (start := plan.start[letters].get(number)) is not None and offset >= start:
            row = {**row, "dead_letter_offset": offset - start + plan.base[letters].get(number, 0)}
        return row

    if plan.trades != settings.topic_trades:
        _replace_rows(settings, OPS_COVERAGE, coverage)
        _replace_rows(settings, SPOT.gaps, gap)


def _rename_assets_of_metrics(settings: Settings) -> None:
    """Rename the assets in `ops.run_metrics` like their tables."""
    names = {"/".join(old.identifier): "/".join(new.identifier) for old, new in zip(FUTURES, SPOT, strict=True)}
    _replace_rows(settings, OPS_RUN_METRICS, lambda row: {**row, "asset": names.get(row["asset"], row["asset"])})


def _replace_rows(settings: Settings, spec: TableSpec, change: Callable[[Row], Row | None]) -> None:
    """Replace each row by the result of `change`, file by file in one commit, once."""
    import pyarrow as pa
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    for attempt in commit_attempts(CommitFailedException, ValidationException):
        with attempt:
            table = load_table(settings, spec)
            if MOVED_PROPERTY in table.properties:
                return
            removed: list[DataFile] = []
            added: list[DataFile] = []
            for task in table.scan().plan_files():
                before = read_files(table, table.scan(), [task])
                rows = before.to_pylist()
                after = [new for row in rows if (new := change(row)) is not None]
                if after != rows:
                    removed.append(task.file)
                    added += data_files(table, pa.Table.from_pylist(after, before.schema))
            swap_files(table, removed, added, table_properties={MOVED_PROPERTY: "true"})


def _move_cursor(settings: Settings) -> None:
    """Move the copy of the follower's cursor."""
    old, new = TRADES.follower_location(settings), SPOT_TRADES.follower_location(settings)
    if (cursor := read_text(settings, old)) is not None:
        write_text(settings, new, cursor)
        filesystem, path = open_filesystem(settings, old)
        filesystem.delete_file(path)
