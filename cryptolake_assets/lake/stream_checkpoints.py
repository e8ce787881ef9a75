"""Read and write the checkpoints of Spark's streaming queries from Kafka.

Spark writes `offsets/N` (the end offsets of micro-batch N) before a batch and `commits/N` after its table commit, so
the newest batch with both is in the table. Source: Spark's Structured Streaming checkpoint layout, version 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import CheckpointInUseError
from cryptolake_assets.lake.files import open_filesystem, read_text, write_text
from cryptolake_assets.lake.maintenance.expiry import QUERY_ID
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from pyiceberg.table import Table

EPOCH_ID: Final = "spark.sql.streaming.epochId"  # snapshot property, set by Spark's streaming sink

TopicOffsets = dict[str, dict[int, int]]  # next offset by topic and partition


@contextmanager
def checkpoint_lock(settings: Settings) -> Iterator[None]:
    """Hold the lock of the one process that runs the Bronze queries.

    Raises `CheckpointInUseError` at once if another process holds it.
    """
    from filelock import FileLock, Timeout

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    path = settings.run_dir / "bronze.lock"
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise CheckpointInUseError(
            f"bronze: another process runs the Bronze stream and holds its checkpoint ({path}). "
            "Stop it with `cryptolake down`, or let it continue."
        ) from None


def checkpoint(settings: Settings, query: str) -> str:
    """Return the checkpoint location of one query of the Bronze stream."""
    return f"{settings.checkpoint_location}/{query}"


def query_id(settings: Settings, location: str) -> str | None:
    """Return the id of the checkpoint's query, as in its commits; None without a readable checkpoint."""
    metadata = _json(_text(settings, f"{location}/metadata"))
    return None if metadata is None or "id" not in metadata else str(metadata["id"])


def read_offsets(settings: Settings, location: str, newest_in_table: int | None = None) -> TopicOffsets:
    """Return the offsets below which all records are in the table; empty before the first batch.

    `newest_in_table` is the number of the newest batch among the table's commits: a batch may lack its file in
    `commits` after a crash. If the file of the newest batch is damaged, return the offsets of an earlier one.
    """
    filesystem, path = open_filesystem(settings, location)
    planned, committed = _batches(filesystem, f"{path}/offsets"), _batches(filesystem, f"{path}/commits")
    in_table = max([-1 if newest_in_table is None else newest_in_table, *committed])
    for batch in sorted((number for number in planned if number <= in_table), reverse=True):
        offsets = _planned(settings, location, batch)
        if offsets is not None:
            return offsets
    return {}


def newest_batch(table: Table, query: str | None) -> int | None:
    """Return the number of the query's newest batch among the table's snapshots; None if there is none."""
    summaries = (snapshot.summary for snapshot in table.metadata.snapshots)
    batches = [int(one[EPOCH_ID] or 0) for one in summaries if query and one is not None and one[QUERY_ID] == query]
    return max(batches, default=None)


def is_sound(settings: Settings, location: str, newest_in_table: int | None) -> bool:
    """Return whether Spark can continue from the checkpoint: it reads the id and the newest two batches.

    A checkpoint without batches is not sound, nor one that lacks the table's newest batch: Spark would plan that batch
    again with more records, and Iceberg's sink would skip it.
    """
    filesystem, path = open_filesystem(settings, location)
    newest = sorted(_batches(filesystem, f"{path}/offsets"))[-2:]
    if not newest or newest[-1] < (newest_in_table or 0) or query_id(settings, location) is None:
        return False
    are_consecutive = newest[-1] == 0 or newest == [newest[-1] - 1, newest[-1]]
    return are_consecutive and all(_planned(settings, location, batch) is not None for batch in newest)


def remove_damaged_commits(settings: Settings, location: str) -> list[int]:
    """Delete the newest files in `commits` that Spark cannot read; return their batches.

    Spark then repeats the newest batch, and Iceberg's sink skips it if it is in the table.
    """
    filesystem, path = open_filesystem(settings, location)
    damaged: list[int] = []
    for batch in sorted(_batches(filesystem, f"{path}/commits"), reverse=True):
        lines = _text(settings, f"{location}/commits/{batch}").splitlines()
        if len(lines) > 1 and _json(lines[1]) is not None:
            break
        for name in (f".{batch}.crc", str(batch)):  # Hadoop's checksum of the file, on a local disk
            _delete(filesystem, f"{path}/commits/{name}")
        damaged.append(batch)
    return damaged


def _planned(settings: Settings, location: str, batch: int) -> TopicOffsets | None:
    """Return the end offsets of a batch; None if its file is damaged."""
    lines = _text(settings, f"{location}/offsets/{batch}").splitlines()
    by_topic = _json(lines[2]) if len(lines) > 2 and _json(lines[1]) is not None else None
    if by_topic is None:
        return None
    return {topic: {int(number): offset for number, offset in offsets.items()} for topic, offsets in by_topic.items()}


def _text(settings: Settings, location: str) -> str:
    """Return the file's text; empty if it does not exist or is no text."""
    try:
        return read_text(settings, location) or ""
    except UnicodeDecodeError:
        return ""


def _json(text: str) -> dict[str, Any] | None:
    """Return the JSON object; None if the text is no such object."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _delete(filesystem: FileSystem, path: str) -> None:
    from pyarrow.fs import FileType

    if filesystem.get_file_info(path).type is FileType.File:
        filesystem.delete_file(path)


def write(settings: Settings, location: str, query: str, offsets: Mapping[str, Mapping[int, int]]) -> None:
    """Write the checkpoint of a new query that reads on from these offsets; replace any other checkpoint.

    Do nothing if the query has a checkpoint already. A crash in between leaves a checkpoint without an id.
    """
    if query_id(settings, location) == query:
        return
    remove(settings, location)
    by_topic = json.dumps(offsets, separators=(",", ":"))
    write_text(
        settings, f"{location}/offsets/0", f'v1\n{{"batchWatermarkMs":0,"batchTimestampMs":0,"conf":{{}}}}\n{by_topic}'
    )
    write_text(settings, f"{location}/commits/0", 'v1\n{"nextBatchWatermarkMs":0}')
    write_text(settings, f"{location}/metadata", json.dumps({"id": query}))


def remove(settings: Settings, location: str) -> None:
    """Delete the checkpoint, if there is one: its id last."""
    from pyarrow.fs import FileType

    filesystem, path = open_filesystem(settings, location)
    for part in ("offsets", "commits", "sources"):
        filesystem.delete_dir_contents(f"{path}/{part}", missing_dir_ok=True)
    if filesystem.get_file_info(path).type is FileType.Directory:
        filesystem.delete_dir(path)


def _batches(filesystem: FileSystem, directory: str) -> set[int]:
    from pyarrow.fs import FileSelector

    infos = filesystem.get_file_info(FileSelector(directory, allow_not_found=True))
    return {int(info.base_name) for info in infos if info.base_name.isdigit()}
