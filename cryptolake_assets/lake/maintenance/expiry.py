"""Expire snapshots, and delete the files that no remaining snapshot needs.

PyIceberg removes snapshots from a table's metadata and leaves their files on disk. This module also deletes the files
that only the expired snapshots reference; files left by a crash in between are orphans and removed as such.

Two rules protect readers and the Bronze stream. A snapshot's age counts from when it was replaced, not from when it was
created: a reader that opened it while it was current keeps its files for the full retention. And snapshots expire from
the oldest on, never the stream's newest one nor any after it: Spark's sink walks back from the head to its own last
commit to find the last batch in the table; if a snapshot on that path were missing, it would write a batch twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.maintenance.layout import Partition, overlapping, partition_of
from cryptolake_assets.lake.retries import commit_attempts

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

log = structlog.get_logger(__name__)
S = TypeVar("S")
T = TypeVar("T")

QUERY_ID = "spark.sql.streaming.queryId"  # snapshot property, set by Spark's streaming sink


@dataclass(frozen=True)
class SnapshotVersion:
    """The properties of a snapshot that expiry needs; `query_id` is the streaming query that committed it, if any."""

    snapshot_id: int
    timestamp_ms: int
    query_id: str | None = None


@dataclass(frozen=True)
class Expired:
    """The number of expired snapshots, and of deleted files (data, manifests, manifest lists)."""

    snapshots: int = 0
    files: int = 0


def due_snapshots(
    history: Sequence[SnapshotVersion], cutoff_ms: int, keep: int, query_ids: Collection[str] = ()
) -> list[int]:
    """Return the ids of the snapshots that may expire; `history` is a branch from the oldest to its head.

    Due are snapshots that were replaced at or before `cutoff_ms`, except the newest `keep` and everything from the
    newest streaming snapshot on: the newest of any query, and the newest of each query in `query_ids`.
    """
    end = max(0, len(history) - max(1, keep))
    newest: dict[str, int] = {version.query_id: index for index, version in enumerate(history) if version.query_id}
    needed = [newest[query] for query in query_ids if query in newest]
    if newest:
        needed.append(max(newest.values()))
    end = min([end, *needed])
    for index in range(end):
        if history[index + 1].timestamp_ms > cutoff_ms:
            return [version.snapshot_id for version in history[:index]]
    return [version.snapshot_id for version in history[:end]]


def history_of(table: Table) -> list[SnapshotVersion]:
    """Return the main branch's snapshots, oldest first, as far back as the metadata reaches."""
    from pyiceberg.table.snapshots import ancestors_of

    return [
        SnapshotVersion(one.snapshot_id, one.timestamp_ms, one.summary[QUERY_ID] if one.summary else None)
        for one in ancestors_of(table.current_snapshot(), table.metadata)
    ][::-1]


def expire(table: Table, choose: Callable[[Table], Iterable[int]]) -> Expired:
    """Expire the chosen snapshots, then delete the files that no remaining snapshot needs.

    Snapshots of branches and tags stay. After a concurrent commit, `choose` is called again. Raises PyIceberg's
    `CommitFailedException` after the last attempt.
    """
    from pyiceberg.exceptions import CommitFailedException

    # ValueError: another process expired one of the snapshots meanwhile.
    for attempt in commit_attempts(CommitFailedException, ValueError):
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                table.refresh()
            protected = {reference.snapshot_id for reference in table.metadata.refs.values()}
            ids = set(choose(table)) - protected
            if not ids:
                return Expired()
            expired = [snapshot for snapshot in table.metadata.snapshots if snapshot.snapshot_id in ids]
            table.maintenance.expire_snapshots().by_ids(sorted(ids)).commit()
    table.refresh()
    deleted = _delete_unneeded(table, expired)
    log.info("snapshots_expired", table=".".join(table.name()), snapshots=len(expired), files=deleted)
    return Expired(len(expired), deleted)


def _delete_unneeded(table: Table, expired: Sequence[Snapshot]) -> int:
    """Delete the files that only the expired snapshots hold; return their number."""
    from pyiceberg.table.snapshots import ancestors_of

    # A file or manifest that a commit removed never returns, so the oldest snapshot of the branch stands for all later.
    branch = list(ancestors_of(table.current_snapshot(), table.metadata))
    others = {snapshot.snapshot_id for snapshot in table.metadata.snapshots} - {one.snapshot_id for one in branch}
    remaining = [*branch[-1:], *(one for one in table.metadata.snapshots if one.snapshot_id in others)]
    try:
        needed = dict(chain.from_iterable(_manifests(table.io, snapshot) for snapshot in remaining))
        last_lists = _before_removals(expired, branch)
        unneeded = dict(chain.from_iterable(_if_exists(_manifests, table.io, one) for one in last_lists))
        unneeded = {path: manifest for path, manifest in unneeded.items() if path not in needed}
        data = dict(chain.from_iterable(_if_exists(_files, table.io, one) for one in unneeded.values()))
        if data:
            for manifest in overlapping(table, needed.values(), set(data.values())):
                for path, _ in _files(table.io, manifest, live_only=True):
                    data.pop(path, None)
    except FileNotFoundError as error:
        # Another process is expiring snapshots: the needed files are unknown, so delete nothing.
        log.info("file_deletion_failed", table=".".join(table.name()), cause=str(error))
        return 0
    lists = {local_path(snapshot.manifest_list) for snapshot in expired}
    lists -= {local_path(snapshot.manifest_list) for snapshot in table.metadata.snapshots}
    # In this order a crash leaves no reference to a deleted file.
    return sum(_delete(table.io, path) for paths in (lists, unneeded, data) for path in paths)


def _before_removals(expired: Sequence[Snapshot], branch: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the expired snapshots after which a commit may have removed manifests.

    An append keeps the manifests of its parent, except those without live files, which other commits leave. Where a
    writer merges manifests in an append, the old ones stay on disk until orphan removal.
    """
    from pyiceberg.table.snapshots import Operation

    def is_append(snapshot: Snapshot) -> bool:
        return snapshot.summary is not None and snapshot.summary.operation is Operation.APPEND

    child = {one.parent_snapshot_id: one for one in (*expired, *branch)}
    return [
        one
        for one in expired
        if not (is_append(one) and one.snapshot_id in child and is_append(child[one.snapshot_id]))
    ]


def _manifests(io: FileIO, snapshot: Snapshot) -> list[tuple[str, ManifestFile]]:
    return [(local_path(manifest.manifest_path), manifest) for manifest in snapshot.manifests(io)]


def _files(io: FileIO, manifest: ManifestFile, *, live_only: bool = False) -> list[tuple[str, Partition]]:
    """Return the data files that a manifest names, those of deleted entries included unless `live_only`."""
    entries = manifest.fetch_manifest_entry(io, discard_deleted=live_only)
    return [(local_path(entry.data_file.file_path), partition_of(entry)) for entry in entries]


def _if_exists(read: Callable[[FileIO, S], Iterable[T]], io: FileIO, source: S) -> Iterable[T]:
    """Return the content of a file; nothing if it no longer exists."""
    with suppress(FileNotFoundError):
        return read(io, source)
    return ()


def _delete(io: FileIO, path: str) -> bool:
    if "://" not in path:
        # Spark writes a checksum file next to each file on a local disk.
        checksum_of(Path(path)).unlink(missing_ok=True)
    try:
        io.delete(path)
    except FileNotFoundError:
        return False
    return True


def checksum_of(path: Path) -> Path:
    """Return the path at which Hadoop's local file system keeps a file's checksums."""
    return path.with_name(f".{path.name}.crc")
