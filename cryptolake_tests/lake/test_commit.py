"""Publication: one commit that replaces exactly the recomputed rows, or none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from structlog.testing import capture_logs

from cryptolake_assets.lake import commit
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import (
    SNAPSHOTS_KEPT,
    Publication,
    expire_snapshots,
    keys_of,
    publish,
    replace_files,
)
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.zones import machine_zone

MINUTE = datetime(2024, 7, 18, 23, 58, tzinfo=UTC)


def bar(symbol: str, minute: int = 0, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("open", "high", "low", "close", "volume", "vwap", "taker_buy_volume"), Decimal("1.00000000")
    )
    row |= dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), Decimal("1.0000000000000001"))
    row |= dict.fromkeys(("trades", "first_trade_id", "last_trade_id"), 1)
    row |= {
        "exchange": "binance_futures",
        "symbol": symbol,
        "window_start": MINUTE + timedelta(minutes=minute),
        "is_complete": True,
    }
    return {**row, "updated_at": None, **changes}


def put(lake: Settings, rows: list[dict[str, Any]], replaced: list[dict[str, Any]] | None = None) -> Publication:
    candidate = pa.Table.from_pylist(rows, schema=FUTURES.bars.arrow_schema())
    keys = pa.Table.from_pylist(replaced or rows, schema=FUTURES.bars.arrow_schema()).select(list(FUTURES.bars.key))
    return publish(load_table(lake, FUTURES.bars), FUTURES.bars, silver_day(MINUTE), candidate, keys, {"run": "1"})


def stored(lake: Settings) -> dict[tuple[str, datetime], dict[str, Any]]:
    rows = load_table(lake, FUTURES.bars).scan().to_arrow().to_pylist()
    by_key = {(row["symbol"], row["window_start"]): row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


def test_equal_rows_commit_nothing_and_keep_updated_at(lake: Settings) -> None:
    first = put(lake, [bar("A"), bar("B")])
    before = stored(lake)
    again = put(lake, [bar("A"), bar("B")])
    assert (first.rows_changed, again.rows_changed) == (2, 0)
    assert again.snapshot_id == first.snapshot_id
    assert stored(lake) == before


def test_symbol_of_another_exchange_is_another_row(lake: Settings) -> None:
    put(lake, [bar("A"), bar("A", exchange="binance_spot", high=Decimal("2.00000000"))])
    publication = put(lake, [bar("A", high=Decimal("3.00000000"))])
    assert publication.changed_keys["exchange"].to_pylist() == ["binance_futures"]
    rows = load_table(lake, FUTURES.bars).scan().to_arrow().to_pylist()
    assert [(row["exchange"], row["high"]) for row in rows] == [("binance_futures", 3), ("binance_spot", 2)]


def test_table_can_be_emptied_and_filled_again(lake: Settings) -> None:
    put(lake, [bar("A"), bar("B")])
    publication = put(lake, [], replaced=[bar("A"), bar("B")])
    assert (publication.rows_changed, publication.rows_removed) == (0, 2)
    assert stored(lake) == {}
    put(lake, [bar("A")])
    assert len(stored(lake)) == 1


def test_only_the_changed_row_gets_a_new_updated_at(lake: Settings) -> None:
    put(lake, [bar("A"), bar("B"), bar("B", 1)])
    before = stored(lake)
    publication = put(lake, [bar("B", high=Decimal("2.00000000"))])
    after = stored(lake)
    assert publication.rows_changed == 1
    assert after["B", MINUTE]["high"] == 2
    assert after["B", MINUTE]["updated_at"] > before["B", MINUTE]["updated_at"]
    del before["B", MINUTE], after["B", MINUTE]
    assert after == before


def test_replaced_key_without_a_new_row_is_removed(lake: Settings) -> None:
    put(lake, [bar("A"), bar("B")])
    publication = put(lake, [bar("A")], replaced=[bar("A"), bar("B")])
    assert (publication.rows_changed, publication.rows_removed) == (0, 1)
    assert [key[0] for key in stored(lake)] == ["A"]


def versions(publication: Publication) -> tuple[str, str]:
    """Return the versions of two consecutive minutes."""
    starts = (MINUTE, MINUTE + timedelta(minutes=1))
    first, second = (publication.version("window_start", start, start + timedelta(minutes=1)) for start in starts)
    return first, second


def test_version_changes_exactly_when_rows_of_its_interval_change(lake: Settings) -> None:
    before = versions(put(lake, [bar("A"), bar("B"), bar("A", 1)]))
    assert versions(put(lake, [bar("A"), bar("B")])) == before
    changed = versions(put(lake, [bar("B", high=Decimal("2.00000000"))]))
    assert changed[0] != before[0]
    assert changed[1] == before[1]
    restored = versions(put(lake, [bar("B")]))
    assert restored[0] not in (before[0], changed[0]), "a reader may have read the rows of the commit in between"
    assert versions(put(lake, [bar("A")], replaced=[bar("A"), bar("B")]))[0] not in (before[0], restored[0])
    assert versions(put(lake, [], replaced=[bar("A", 1)]))[1] != before[1]


def test_files_of_another_day_are_not_rewritten(lake: Settings) -> None:
    next_day = bar("A", 5)
    candidate = pa.Table.from_pylist([next_day], schema=FUTURES.bars.arrow_schema())
    keys = candidate.select(list(FUTURES.bars.key))
    window = silver_day(next_day["window_start"])
    publish(load_table(lake, FUTURES.bars), FUTURES.bars, window, candidate, keys, {})
    files = {task.file.file_path for task in load_table(lake, FUTURES.bars).scan().plan_files()}
    put(lake, [bar("A")])
    assert files < {task.file.file_path for task in load_table(lake, FUTURES.bars).scan().plan_files()}
    assert len(stored(lake)) == 2


def test_change_is_one_snapshot_so_time_travel_always_finds_the_row(lake: Settings) -> None:
    for number in range(1, 4):
        put(lake, [bar("A", trades=number)])
    table = load_table(lake, FUTURES.bars)
    operations = [snapshot.summary.operation for snapshot in table.metadata.snapshots if snapshot.summary]
    assert operations == [Operation.APPEND, Operation.OVERWRITE, Operation.OVERWRITE]
    for snapshot in table.metadata.snapshots:
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows == 1
    assert len(list(table.scan().plan_files())) == 1


def test_number_of_snapshots_is_bounded(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        put(lake, [bar("A", trades=number + 1)])
    table = load_table(lake, FUTURES.bars)
    assert expire_snapshots(table) == 0
    assert SNAPSHOTS_KEPT > 6
    assert expire_snapshots(table, keep=2) == 0, "replaced snapshots stay readable for some minutes"
    assert expire_snapshots(table, keep=2, readable_s=0) == 4
    assert len(load_table(lake, FUTURES.bars).metadata.snapshots) == 2
    assert stored(lake)["A", MINUTE]["trades"] == 6


def test_writer_that_lost_the_race_merges_with_the_other_writers_rows(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, [bar("A")])
    read = commit.read_window

    def read_before_a_concurrent_commit(table: Table, window: str) -> pa.Table:
        rows = read(table, window)
        monkeypatch.setattr(commit, "read_window", read)
        put(lake, [bar("B")])
        return rows

    monkeypatch.setattr(commit, "read_window", read_before_a_concurrent_commit)
    put(lake, [bar("C")])
    assert {key[0] for key in stored(lake)} == {"A", "B", "C"}


def bars_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=FUTURES.bars.arrow_schema())


def test_keys_of_concatenates_the_keys_of_all_tables_in_order() -> None:
    keys = keys_of(FUTURES.bars, bars_table(bar("A"), bar("B", 1)), bars_table(bar("C", 2)))
    assert keys.column_names == ["exchange", "symbol", "window_start"]
    assert [(row["symbol"], row["window_start"] - MINUTE) for row in keys.to_pylist()] == [
        ("A", timedelta(0)),
        ("B", timedelta(minutes=1)),
        ("C", timedelta(minutes=2)),
    ]


def test_publication_has_the_snapshot_id_of_its_commit(lake: Settings) -> None:
    empty = put(lake, [])
    assert (empty.snapshot_id, empty.committed) == (None, False)
    changed = put(lake, [bar("A")])
    snapshot = load_table(lake, FUTURES.bars).current_snapshot()
    assert snapshot is not None
    assert (changed.snapshot_id, changed.committed) == (snapshot.snapshot_id, True)


def test_snapshot_has_the_properties_of_its_publication(lake: Settings) -> None:
    for number in (1, 2):
        put(lake, [bar("A", trades=number)])
        snapshot = load_table(lake, FUTURES.bars).current_snapshot()
        assert snapshot is not None
        assert snapshot.summary is not None
        assert snapshot.summary["run"] == "1"


def test_updated_at_is_the_commit_time_in_utc_in_any_time_zone(lake: Settings) -> None:
    before = datetime.now(UTC)
    with machine_zone("Asia/Tokyo"):
        put(lake, [bar("A")])
    assert before <= stored(lake)["A", MINUTE]["updated_at"] <= datetime.now(UTC)


@pytest.mark.parametrize("lost_race", [CommitFailedException, ValidationException])
def test_lost_race_is_logged_and_the_commit_retried(
    lake: Settings, monkeypatch: pytest.MonkeyPatch, lost_race: type[Exception]
) -> None:
    original = commit.replace_files

    def lose(*_: object) -> None:
        monkeypatch.setattr(commit, "replace_files", original)
        raise lost_race("another writer committed first")

    monkeypatch.setattr(commit, "replace_files", lose)
    with capture_logs() as logs:
        put(lake, [bar("A")])
        put(lake, [bar("B")])
    assert {key[0] for key in stored(lake)} == {"A", "B"}
    assert logs == [
        {
            "event": "commit_retried",
            "log_level": "info",
            "attempt": 1,
            "reason": f"{lost_race.__name__}: another writer committed first",
        }
    ]


def test_snapshots_are_expired_after_every_commit_and_only_then(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired: list[int] = []
    monkeypatch.setattr(commit, "expire_snapshots", lambda table: expired.append(len(table.metadata.snapshots)))
    put(lake, [bar("A")])
    put(lake, [bar("A")])
    assert expired == [1]
    put(lake, [bar("B")], replaced=[bar("A"), bar("B")])
    assert expired == [1, 2], "one row is new and one is removed"


def test_snapshots_expire_once_as_many_are_due_as_are_kept(lake: Settings) -> None:
    for number in range(4):
        table = load_table(lake, FUTURES.bars)
        assert expire_snapshots(table, keep=2, readable_s=0) == 0, "fewer than two are due"
        put(lake, [bar("A", trades=number + 1)])
    assert expire_snapshots(load_table(lake, FUTURES.bars), keep=2, readable_s=0) == 2


def test_expiry_that_loses_the_race_does_nothing(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: object) -> None:
        raise CommitFailedException("another writer committed first")

    monkeypatch.setattr(commit, "expire", lose)
    with capture_logs() as logs:
        assert expire_snapshots(load_table(lake, FUTURES.bars)) == 0
    assert logs == [
        {
            "event": "snapshot_expiry_failed",
            "log_level": "info",
            "table": "silver.futures_ohlcv_1m",
            "cause": "another writer committed first",
        }
    ]


def test_file_that_shares_a_manifest_with_a_replaced_file_stays(lake: Settings) -> None:
    replace_files(load_table(lake, FUTURES.bars), AlwaysTrue(), bars_table(bar("A"), bar("A", 5)))
    for number in (2, 3, 4):
        put(lake, [bar("A", trades=number)])
    assert {minute - MINUTE: row["trades"] for (_, minute), row in stored(lake).items()} == {
        timedelta(0): 4,
        timedelta(minutes=5): 1,
    }


def test_snapshot_lists_only_the_file_that_its_own_commit_deleted(lake: Settings) -> None:
    files = []
    for number in range(1, 5):
        put(lake, [bar("A", trades=number)])
        files += [task.file.file_path for task in load_table(lake, FUTURES.bars).scan().plan_files()]
    table = load_table(lake, FUTURES.bars)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    entries = [
        (entry.status, entry.data_file.file_path)
        for manifest in snapshot.manifests(table.io)
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False)
    ]
    assert sorted(entries) == [(ManifestEntryStatus.ADDED, files[-1]), (ManifestEntryStatus.DELETED, files[-2])]
