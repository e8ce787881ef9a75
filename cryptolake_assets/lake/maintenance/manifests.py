"""Merge a table's small manifests into few, ordered by partition. Uses PyIceberg; no Spark.

Only small manifests are read and replaced, so a merge costs the same after a year as after a day, and a plan of few
partitions reads few manifests: every manifest has a narrow range of them. Files, rows and their sequence numbers stay,
so followers find no new files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.lake.maintenance.layout import live_entries, manifests, partition_of
from cryptolake_assets.lake.retries import commit_attempts

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestEntry, ManifestFile
    from pyiceberg.table import Table

MANIFEST_FILES = 200  # of a full manifest: a week of Bronze's compacted hours, in about 64 KiB
MANIFESTS_ENOUGH = 10  # no merge up to this many small manifests
FAR: Final = 48  # partitions (hours, days, months) between two files that lie far apart
CLUSTER_FILES: Final = 16  # fewer files, far from others, share a manifest


def small_manifests(table: Table) -> list[ManifestFile]:
    """Return the manifests that a merge could join: those with less than half of a full one's files."""
    return [manifest for manifest in manifests(table) if _is_small(manifest)]


def _is_small(manifest: ManifestFile) -> bool:
    from pyiceberg.manifest import ManifestContent

    files = (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
    return bool(files < MANIFEST_FILES // 2 and manifest.content is ManifestContent.DATA)


def merge_manifests(table: Table) -> int:
    """Replace the small manifests by few in one commit of operation `replace`; return their number, 0 if few.

    It may run alongside every writer. Raises PyIceberg's `CommitFailedException` after the last attempt.
    """
    from pyiceberg.exceptions import CommitFailedException

    for attempt in commit_attempts(CommitFailedException):
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                table.refresh()
            number = len(small_manifests(table))
            if number <= MANIFESTS_ENOUGH:
                return 0
            _commit(table)
    return number


def _commit(table: Table) -> None:
    from pyiceberg.table.snapshots import Operation, Summary
    from pyiceberg.table.update.snapshot import _FastAppendFiles

    class Merge(_FastAppendFiles):
        """A commit without new files; PyIceberg (0.12) has none for manifests alone."""

        def _existing_manifests(self) -> list[ManifestFile]:
            found = super()._existing_manifests()
            small = [manifest for manifest in found if _is_small(manifest)]
            merged = [self._write(part) for part in _parts(table, small)]
            return [*merged, *(manifest for manifest in found if manifest not in small)]

        def _write(self, entries: Sequence[ManifestEntry]) -> ManifestFile:
            with self.new_manifest_writer(self.spec(entries[0].data_file.spec_id)) as writer:
                for entry in entries:
                    writer.existing(entry)
            return writer.to_manifest_file()

        def _summary(self, snapshot_properties: Any = None) -> Summary:
            totals = super()._summary(snapshot_properties or {})
            return Summary(Operation.REPLACE, **totals.additional_properties)

    with table.transaction() as transaction:
        Merge(operation=Operation.APPEND, transaction=transaction, io=table.io).commit()


def _parts(table: Table, small: Sequence[ManifestFile]) -> Iterator[Sequence[ManifestEntry]]:
    """Yield the live entries of each new manifest, in the order of their partitions.

    Files far from all others, such as those of trades with a wrong time, have manifests of their own: one of them would
    widen the range of a manifest to years.
    """
    entries = [entry for manifest in small for entry in live_entries(table, manifest)]
    entries.sort(key=_order)
    for _, of_spec in groupby(entries, key=lambda entry: entry.data_file.spec_id):
        clusters = _clusters(list(of_spec))
        strays = [entry for cluster in clusters if len(cluster) < CLUSTER_FILES for entry in cluster]
        for group in (strays, *(cluster for cluster in clusters if len(cluster) >= CLUSTER_FILES)):
            yield from (group[at : at + MANIFEST_FILES] for at in range(0, len(group), MANIFEST_FILES))


def _clusters(entries: Sequence[ManifestEntry]) -> list[list[ManifestEntry]]:
    """Split the ordered entries where the partition jumps."""
    clusters: list[list[ManifestEntry]] = []
    for entry in entries:
        if not clusters or _is_far(clusters[-1][-1], entry):
            clusters.append([])
        clusters[-1].append(entry)
    return clusters


def _is_far(entry: ManifestEntry, following: ManifestEntry) -> bool:
    both = partition_of(entry)[:1] + partition_of(following)[:1]
    return all(isinstance(value, int) for value in both) and len(both) == 2 and both[1] - both[0] > FAR


def _order(entry: ManifestEntry) -> list[Any]:
    """Return a sort key: the specification, then the partition, null first."""
    return [entry.data_file.spec_id, *((value is not None, value) for value in partition_of(entry))]
