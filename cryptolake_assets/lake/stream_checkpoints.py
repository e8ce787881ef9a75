"""Read and write the checkpoints of Spark's streaming queries from Kafka.

Spark writes `offsets/N` (the end offsets of micro-batch N) before a batch and `commits/N` after its table commit, so
the newest batch with both is in the table. Source: Spark's Structured Streaming checkpoint layout, version 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptolake_assets.errors import CheckpointInUseError
from cryptolake_assets.lake.files import open_filesystem, read_text, write_text
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

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
    """Return the id of the checkpoint's query, as in its commits; None without a checkpoint."""
    text = read_text(settings, f"{location}/metadata")
    return None if text is None else str(json.loads(text)["id"])


def read_offsets(settings: Settings, location: str, newest_in_table: int | None = None) -> TopicOffsets:
    """Return the offsets below which all records are in the table; empty before the first batch.

    `newest_in_table` is the number of the newest batch among the table's commits: a batch may lack its file in
    `commits` after a crash.
    """
    filesystem, path = open_filesystem(settings, location)
    planned, committed = _batches(filesystem, f"{path}/offsets"), _batches(filesystem, f"{path}/commits")
    in_table = -1 if newest_in_table is None else newest_in_table
    batch = max((number for number in planned if number in committed or number <= in_table), default=None)
    if batch is None:
        return {}
    text = read_text(settings, f"{location}/offsets/{batch}") or ""
    by_topic: dict[str, dict[str, int]] = json.loads(text.splitlines()[2])
    return {topic: {int(number): offset for number, offset in offsets.items()} for topic, offsets in by_topic.items()}


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
