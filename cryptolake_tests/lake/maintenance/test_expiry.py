"""Selection of snapshots to expire; no file that a remaining snapshot needs is deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table

from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import replace_files
from cryptolake_assets.lake.maintenance import expiry
from cryptolake_assets.lake.maintenance.expiry import QUERY_ID, SnapshotVersion, due_snapshots, expire, history_of
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

HOUR = datetime(2024, 7, 19, 10, tzinfo=UTC)


def history(*queries: str | None) -> list[SnapshotVersion]:
    """Return one snapshot every 10 ms, with ids from 0."""
    return [SnapshotVersion(number, 10 * number, query) for number, query in enumerate(queries)]


def test_age_of_a_snapshot_counts_from_its_replacement() -> None:
    versions = history(None, None, None, None)
    assert due_snapshots(versions, 19, keep=1) == [0]
    assert due_snapshots(versions, 20, keep=1) == [0, 1], "1 was current until 20, when 2 replaced it"
    assert due_snapshots(versions, 1_000, keep=1) == [0, 1, 2], "the head is current"


def test_newest_snapshots_stay() -> None:
    assert due_snapshots(history(None, None, None, None), 1_000, keep=3) == [0]
    assert due_snapshots(history(None, None), 1_000, keep=3) == []
    assert due_snapshots([], 1_000, keep=3) == []


@pytest.mark.parametrize(
    ("queries", "ids", "expected"),
    [
        (["a", "a", None, None], (), [0]),
        (["a", "b", "b", None], (), [0, 1]),
        (["a", "b", "b", None], ("a",), []),
        ([None, "a", "b", "b"], ("a", "b", "unseen"), [0]),
    ],
    ids=["newest streaming snapshot", "any query", "a running query", "each running query"],
)
def test_streams_newest_snapshot_and_all_later_ones_stay(
    queries: list[str | None], ids: Iterable[str], expected: list[int]
) -> None:
    assert due_snapshots(history(*queries), 1_000, keep=1, query_ids=list(ids)) == expected


@given(
    gaps=st.lists(st.tuples(st.integers(0, 50), st.sampled_from([None, "a", "b"])), min_size=1, max_size=30),
    cutoff_ms=st.integers(0, 800),
    keep=st.integers(1, 8),
)
def test_remaining_history_is_contiguous_and_has_all_needed_snapshots(
    gaps: list[tuple[int, str | None]], cutoff_ms: int, keep: int
) -> None:
    versions, now = [], 0
    for number, (gap, query) in enumerate(gaps):
        now += gap
        versions.append(SnapshotVersion(number, now, query))
    expired = due_snapshots(versions, cutoff_ms, keep, {"a", "b"})
    assert expired == list(range(len(expired)))
    remaining = versions[len(expired) :]
    assert len(remaining) >= min(keep, len(versions))
    for query in ("a", "b"):
        newest = [version for version in versions if version.query_id == query][-1:]
        assert set(newest) <= set(remaining)
    current_at_cutoff = [version for version in versions if version.timestamp_ms <= cutoff_ms][-1:]
    assert set(current_at_cutoff) <= set(remaining)
    # Nothing more could expire: the oldest remaining snapshot is needed.
    if expired or len(remaining) > 1:
        oldest = remaining[0]
        newest_of = {version.query_id: version for version in versions if version.query_id}
        replaced = remaining[1].timestamp_ms <= cutoff_ms if len(remaining) > 1 else False
        assert not replaced or len(remaining) <= keep or oldest in newest_of.values()


def on_disk(table: Table) -> set[str]:
    """Return every file of the table except its metadata.json files."""
    folder = Path(local_path(table.location()))
    return {str(path) for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".metadata.json")}


def needed(table: Table) -> set[str]:
    """Return the files that the current snapshots reference."""
    paths: set[str] = set()
    for snapshot in table.metadata.snapshots:
        paths.add(local_path(snapshot.manifest_list))
        for manifest in snapshot.manifests(table.io):
            paths.add(local_path(manifest.manifest_path))
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                paths.add(local_path(entry.data_file.file_path))
    return paths


def rows(table: Table, snapshot_id: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.scan(snapshot_id=snapshot_id).to_arrow().to_pylist()
    return sorted(found, key=lambda row: (row["event_time"], row["trade_id"]))


@pytest.fixture
def table(lake: Settings) -> Table:
    """Make eight snapshots: five appends, an overwrite of all their files by one, and two more appends."""
    for number in range(5):
        append(lake, [trade(HOUR, number)])
    bronze = load_table(lake, FUTURES.trades)
    replace_files(bronze, AlwaysTrue(), bronze.scan().to_arrow())
    for number in (5, 6):
        append(lake, [trade(HOUR, number)])
    return load_table(lake, FUTURES.trades)


def oldest(table: Table, number: int) -> list[int]:
    return [version.snapshot_id for version in history_of(table)[:number]]


@pytest.mark.parametrize("number", range(8))
def test_exactly_the_files_that_no_snapshot_needs_are_deleted(table: Table, number: int) -> None:
    kept = {version.snapshot_id: rows(table, version.snapshot_id) for version in history_of(table)[number:]}
    assert on_disk(table) == needed(table)
    before = len(on_disk(table))
    result = expire(table, lambda table: oldest(table, number))
    assert result.snapshots == number
    assert on_disk(table) == needed(table)
    assert before - len(on_disk(table)) == result.files
    assert {version.snapshot_id: rows(table, version.snapshot_id) for version in history_of(table)} == kept
    assert (result.files > 0) == (number > 0)


def test_files_of_replaced_rows_are_deleted_with_the_last_snapshot_that_holds_them(table: Table) -> None:
    data = {path for path in on_disk(table) if path.endswith(".parquet")}
    expire(table, lambda table: oldest(table, 4))
    assert {path for path in on_disk(table) if path.endswith(".parquet")} == data
    expire(table, lambda table: oldest(table, 1))
    assert len(data) - len({path for path in on_disk(table) if path.endswith(".parquet")}) == 5


def test_head_and_tagged_snapshots_stay(table: Table) -> None:
    first = oldest(table, 1)[0]
    table.manage_snapshots().create_tag(first, "audit").commit()
    expire(table, lambda table: [snapshot.snapshot_id for snapshot in table.metadata.snapshots])
    assert {snapshot.snapshot_id for snapshot in table.metadata.snapshots} == {
        first,
        table.metadata.current_snapshot_id,
    }
    assert len(rows(table, first)) == 1
    assert on_disk(table) == needed(table)


def test_concurrent_expiry_deletes_no_needed_file(lake: Settings, table: Table) -> None:
    other = load_table(lake, FUTURES.trades)

    def choose_after_the_other(mine: Table) -> list[int]:
        if other.metadata.current_snapshot_id and len(other.metadata.snapshots) == 8:
            expire(other, lambda table: oldest(table, 3))
            return [snapshot.snapshot_id for snapshot in mine.metadata.snapshots][:6]
        return oldest(mine, 3)

    expire(table, choose_after_the_other)
    table.refresh()
    assert len(table.metadata.snapshots) == 2
    assert needed(table) <= on_disk(table)
    assert len(rows(table, table.metadata.current_snapshot_id or 0)) == 7


def test_missing_manifest_prevents_file_deletion(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before = on_disk(table)

    def missing(*_: Any) -> None:
        raise FileNotFoundError("expired by another process")

    monkeypatch.setattr(expiry, "_manifests", missing)
    assert expire(table, lambda table: oldest(table, 7)) == expiry.Expired(7, 0)
    assert on_disk(table) - {path for path in on_disk(table) if "snap-" in path} >= {
        path for path in before if "snap-" not in path
    }


def test_writers_concurrent_with_expiry_lose_no_rows(lake: Settings, table: Table) -> None:
    stop = threading.Event()

    def keep_expiring() -> None:
        mine = load_table(lake, FUTURES.trades)
        while not stop.is_set():
            expire(mine.refresh(), lambda table: [version.snapshot_id for version in history_of(table)[:-2]])

    thread = threading.Thread(target=keep_expiring)
    thread.start()
    try:
        for number in range(100, 115):
            append(lake, [trade(HOUR, number)])
    finally:
        stop.set()
        thread.join()
    table.refresh()
    ids = [row["trade_id"] for row in rows(table, table.metadata.current_snapshot_id or 0)]
    assert ids == [*range(7), *range(100, 115)]
    assert needed(table) <= on_disk(table)


def test_streaming_commit_is_identified_by_its_property(lake: Settings) -> None:
    append(lake, [trade(HOUR, 1)])
    bronze = load_table(lake, FUTURES.trades)
    bronze.append(bronze.scan().to_arrow(), snapshot_properties={QUERY_ID: "a-query"})
    assert [version.query_id for version in history_of(bronze)] == [None, "a-query"]
