"""Merged manifests keep every file and its sequence number; crowded partitions are those of a full listing."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from cryptolake_assets.lake.bronze_files import added_files, current_sequence
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import data_files, swap_files
from cryptolake_assets.lake.maintenance import crowded, manifests
from cryptolake_assets.lake.maintenance.crowded import crowded_files
from cryptolake_assets.lake.maintenance.expiry import expire, history_of
from cryptolake_assets.lake.maintenance.layout import LiveFile, live_files, overlapping
from cryptolake_assets.lake.maintenance.layout import manifests as manifests_of
from cryptolake_assets.lake.maintenance.manifests import CLUSTER_FILES, FAR, merge_manifests
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

START = datetime(2024, 7, 19, tzinfo=UTC)
FIRST_HOUR = int(START.timestamp()) // 3_600


def bronze(lake: Settings) -> Table:
    return load_table(lake, FUTURES.trades)


@pytest.fixture
def template(lake: Settings) -> DataFile:
    import pyarrow as pa

    rows = pa.Table.from_pylist([trade(START, 1)], schema=FUTURES.trades.arrow_schema())
    (file,) = data_files(bronze(lake), rows)
    return file


def in_hour(template: DataFile, number: int, hour: int) -> DataFile:
    """Return an entry for a file that does not exist."""
    values = list(template._data)
    values[values.index(template.file_path)] = f"file:///{number}.parquet"
    values[values.index(template.partition)] = Record(FIRST_HOUR + hour)
    file = DataFile(*values)
    file.spec_id = 0
    return file


def commit(lake: Settings, files: list[DataFile], removed: list[DataFile] | None = None) -> None:
    table = bronze(lake)
    if removed:
        swap_files(table, removed, files)
        return
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        for file in files:
            snapshot.append_data_file(file)


def entries(table: Table) -> list[tuple[Any, ...]]:
    return sorted(
        (entry.data_file.file_path, entry.sequence_number, entry.snapshot_id, entry.data_file.partition[0])
        for manifest in manifests_of(table)
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    )


def ranges(table: Table) -> list[tuple[int, int, int]]:
    """Return the first and last hour and the number of files of each manifest."""
    found = []
    for manifest in manifests_of(table):
        hours = [file.partition[0] - FIRST_HOUR for file in live_files(table, [manifest])]
        found.append((min(hours), max(hours), len(hours)))
    return sorted(found)


def full_listing(table: Table) -> list[LiveFile]:
    files = live_files(table)
    numbers = Counter(file.partition for file in files)
    return [file for file in files if numbers[file.partition] > 1]


def in_order(files: list[LiveFile]) -> list[LiveFile]:
    return sorted(files, key=lambda file: (file.partition, file.snapshot_id or 0))


@pytest.mark.parametrize("seed", range(4))
def test_crowded_partitions_and_pruned_files_equal_a_full_listing(
    lake: Settings, template: DataFile, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 3)
    monkeypatch.setattr(manifests, "MANIFEST_FILES", 8)
    chosen = random.Random(seed)  # noqa: S311 - reproducible data, no secret
    live: dict[int, DataFile] = {}
    number = hour = 0
    for _ in range(25):
        hour += chosen.randrange(4)
        hours = [hour - chosen.choice([0, 0, 0, 1, 30, 2_000]) for _ in range(chosen.choice([1, 1, 2, 5]))]
        new = {number + index: in_hour(template, number + index, one) for index, one in enumerate(hours)}
        number += len(new)
        joined = chosen.sample(sorted(live), min(len(live), chosen.choice([0, 0, 3])))
        commit(lake, list(new.values()), [live.pop(name) for name in joined])
        live |= new
        if not chosen.randrange(4):
            before = entries(bronze(lake))
            merge_manifests(bronze(lake))
            assert entries(bronze(lake)) == before
        if chosen.randrange(3):
            table = bronze(lake)
            assert in_order(crowded_files(lake, table)) == in_order(full_listing(table))
        pruned = overlapping(bronze(lake), manifests_of(bronze(lake)), {(FIRST_HOUR + hour,)})
        read = [file for file in live_files(bronze(lake), pruned) if file.partition == (FIRST_HOUR + hour,)]
        assert len(read) == sum(file.partition[0] == FIRST_HOUR + hour for file in live.values())
    assert len({file.partition[0] for file in live.values()}) > 10


def test_merge_reads_only_small_manifests_and_sorts_them(
    lake: Settings, template: DataFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 10)
    monkeypatch.setattr(manifests, "MANIFEST_FILES", 10)
    for hour in (5, 3, 20, 7, 0, 11, 24, 2, 9, 13, 1, 23, 4, 22, 6, 21, 8, 19, 10, 18, 12, 17, 14, 16, 15):
        commit(lake, [in_hour(template, hour, hour)])
    cursor = current_sequence(bronze(lake))
    assert merge_manifests(bronze(lake)) == 25
    assert ranges(bronze(lake)) == [(0, 9, 10), (10, 19, 10), (20, 24, 5)]
    assert added_files(bronze(lake), cursor) == []
    snapshot = bronze(lake).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert (snapshot.summary.operation.value, snapshot.summary["total-data-files"]) == ("replace", "25")
    before = {manifest.manifest_path for manifest in manifests_of(bronze(lake))}
    for hour in range(25, 37):
        commit(lake, [in_hour(template, hour, hour)])
    assert merge_manifests(bronze(lake)) == 12
    assert ranges(bronze(lake)) == [(0, 9, 10), (10, 19, 10), (20, 24, 5), (25, 34, 10), (35, 36, 2)]
    assert before < {manifest.manifest_path for manifest in manifests_of(bronze(lake))}


def test_few_small_manifests_are_not_merged(lake: Settings) -> None:
    append(lake, [trade(START, 1)])
    append(lake, [trade(START, 2)])
    before = bronze(lake).metadata.current_snapshot_id
    assert merge_manifests(bronze(lake)) == 0
    assert bronze(lake).metadata.current_snapshot_id == before


def test_files_with_wrong_times_do_not_widen_the_other_manifests(
    lake: Settings, template: DataFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 2)
    hours = [*range(CLUSTER_FILES), -10 * FAR, 20 * FAR]
    for number, hour in enumerate(hours):
        commit(lake, [in_hour(template, number, hour)])
    merge_manifests(bronze(lake))
    assert ranges(bronze(lake)) == [(-10 * FAR, 20 * FAR, 2), (0, CLUSTER_FILES - 1, CLUSTER_FILES)]


def test_merge_meets_a_concurrent_append(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 1)
    for number in range(4):
        append(lake, [trade(START + number * HOUR, number)])
    stale = bronze(lake)
    append(lake, [trade(START, 9)])
    before = entries(bronze(lake))
    merge_manifests(stale)
    assert entries(bronze(lake)) == before
    assert len(manifests_of(bronze(lake))) <= 2
    assert sorted(bronze(lake).scan().to_arrow()["trade_id"].to_pylist()) == [0, 1, 2, 3, 9]


def test_files_of_merged_manifests_survive_expiry(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 1)
    for number in range(6):
        append(lake, [trade(START + number * HOUR, number)])
    merge_manifests(bronze(lake))
    append(lake, [trade(START, 9)])
    expire(bronze(lake), lambda table: [version.snapshot_id for version in history_of(table)[:-1]])
    assert len(bronze(lake).scan().to_arrow()) == 7


@pytest.mark.parametrize("text", ["", "{", "[]", '{"table": "other", "sequence": 1, "partitions": []}'])
def test_without_a_valid_last_look_all_manifests_are_read(
    lake: Settings, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for number in range(2):
        append(lake, [trade(START, number)])
    crowded_files(lake, bronze(lake))
    monkeypatch.setattr(crowded, "read_text", lambda *_: text)
    assert len(crowded_files(lake, bronze(lake))) == 2


def test_look_reads_only_new_manifests_and_those_of_crowded_partitions(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        append(lake, [trade(START + number * HOUR, number)])
    append(lake, [trade(START, 100)])
    crowded_files(lake, bronze(lake))
    read: list[int] = []

    def counted(table: Table, of: Any) -> list[LiveFile]:
        found = list(of)
        read.append(len(found))
        return live_files(table, found)

    monkeypatch.setattr(crowded, "live_files", counted)
    append(lake, [trade(START + 3 * HOUR, 101)])
    files = crowded_files(lake, bronze(lake))
    assert sorted(file.partition[0] - FIRST_HOUR for file in files) == [0, 0, 3, 3]
    assert read == [1, 3], "one new manifest; two of the crowded hour, and one of the touched hour"
