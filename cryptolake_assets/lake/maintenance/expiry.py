"""Expiry of snapshots: which may go, and the files that nobody needs once they are gone.

PyIceberg takes snapshots out of a table's metadata and leaves their files on the disk. Here the files that only the
expired snapshots held are deleted too; what a crash in between leaves is an orphan and goes with the others.

Two rules keep readers and the Bronze stream whole. A snapshot goes by when it was replaced, not by when it was made:
who began to read it while it was current keeps its files for the whole retention. And snapshots go from the oldest on,
never the stream's newest one nor any that came after it: Spark's sink walks from the head back to its own last commit
to learn which batch is in the table, and a gap on that way would make it write a batch twice.
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
from cryptolake_assets.lake.retries import commit_attempts

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

log = structlog.get_logger(__name__)
S = TypeVar("S")
T = TypeVar("T")

QUERY_ID = "spark.sql.streaming.queryId"
"""Property of a snapshot that Spark's streaming sink committed."""


@dataclass(frozen=True)
class SnapshotVersion:
    """A snapshot as expiry sees it; `query_id` names the streaming query that committed it, if one did."""

    snapshot_id: int
    timestamp_ms: int
    query_id: str | None = None


@dataclass(frozen=True)
class Expired:
    """What went: snapshots from the metadata, files (data, manifests, manifest lists) from the disk."""

    snapshots: int = 0
    files: int = 0


def due_snapshots(
    history: Sequence[SnapshotVersion], cutoff_ms: int, keep: int, query_ids: Collection[str] = ()
) -> list[int]:
    """Ids of the snapshots that may go, of a branch's history from the oldest to its head.

    Those that were replaced at or before `cutoff_ms` go, but for the newest `keep`, and nothing from the newest
    streaming snapshot on: the newest of any query, and the newest of each query in `query_ids`.
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
    """The main branch's snapshots, oldest first, as far back as the metadata goes."""
    from pyiceberg.table.snapshots import ancestors_of

    return [
        SnapshotVersion(one.snapshot_id, one.timestamp_ms, one.summary[QUERY_ID] if one.summary else None)
        for one in ancestors_of(table.current_snapshot(), table.metadata)
    ][::-1]


def expire(table: Table, choose: Callable[[Table], Iterable[int]]) -> Expired:
    """Takes the chosen snapshots out of the metadata, then deletes the files that no snapshot left needs.

    Branches and tags keep theirs. When another writer is faster, the choice is made anew. Raises PyIceberg's
    `CommitFailedException` when that goes on.
    """
    from pyiceberg.exceptions import CommitFailedException

    # ValueError: another one has expired one of the snapshots in between.
    for attempt in commit_attempts(CommitFailedException, ValueError):
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                table.refresh()
            protected = {reference.snapshot_id for reference in table.metadata.refs.values()}
            ids = set(choose(table)) - protected
            if not ids:
                return Expired()
            gone = [snapshot for snapshot in table.metadata.snapshots if snapshot.snapshot_id in ids]
            table.maintenance.expire_snapshots().by_ids(sorted(ids)).commit()
    table.refresh()
    deleted = _delete_unneeded(table, gone)
    log.info("snapshots_expired", table=".".join(table.name()), snapshots=len(gone), files=deleted)
    return Expired(len(gone), deleted)


def _delete_unneeded(table: Table, gone: Iterable[Snapshot]) -> int:
    """Deletes what the gone snapshots hold and no present one does; returns how many files that were."""
    present = table.metadata.snapshots
    try:
        kept = dict(chain.from_iterable(_manifests(table.io, snapshot) for snapshot in present))
        dropped = dict(chain.from_iterable(_if_there(_manifests, table.io, one) for one in gone))
        dropped = {path: manifest for path, manifest in dropped.items() if path not in kept}
        data = set(chain.from_iterable(_if_there(_files, table.io, one) for one in dropped.values()))
        if data:
            data.difference_update(*(_files(table.io, one, live_only=True) for one in kept.values()))
    except FileNotFoundError as error:
        # Another one expires snapshots at the same time. What is needed cannot be told: nothing is deleted.
        log.info("unneeded_files_left", table=".".join(table.name()), cause=str(error))
        return 0
    lists = {local_path(snapshot.manifest_list) for snapshot in gone}
    lists -= {local_path(snapshot.manifest_list) for snapshot in present}
    # In this order a crash leaves nothing that points to a file which is not there.
    return sum(_delete(table.io, path) for paths in (lists, dropped, data) for path in paths)


def _manifests(io: FileIO, snapshot: Snapshot) -> list[tuple[str, ManifestFile]]:
    return [(local_path(manifest.manifest_path), manifest) for manifest in snapshot.manifests(io)]


def _files(io: FileIO, manifest: ManifestFile, *, live_only: bool = False) -> set[str]:
    """Data files that a manifest names; one that says a file is deleted names it too."""
    entries = manifest.fetch_manifest_entry(io, discard_deleted=live_only)
    return {local_path(entry.data_file.file_path) for entry in entries}


def _if_there(read: Callable[[FileIO, S], Iterable[T]], io: FileIO, source: S) -> Iterable[T]:
    """Return what a file says; nothing where it is gone."""
    with suppress(FileNotFoundError):
        return read(io, source)
    return ()


def _delete(io: FileIO, path: str) -> bool:
    if "://" not in path:
        # What Spark writes on a local disk has a checksum file beside it.
        checksum_of(Path(path)).unlink(missing_ok=True)
    try:
        io.delete(path)
    except FileNotFoundError:
        return False
    return True


def checksum_of(path: Path) -> Path:
    """Where Hadoop's local file system keeps the checksums of a file."""
    return path.with_name(f".{path.name}.crc")
