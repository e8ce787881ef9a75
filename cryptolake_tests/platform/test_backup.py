"""Backup and restore of a home without processes: copied, verified, rejected and moved files."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.bronze.offsets import query_of
from cryptolake_assets.cli import app
from cryptolake_assets.errors import BackupError, HomeError, MaintenanceInUseError
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import expire_snapshots
from cryptolake_assets.lake.maintenance.expiry import QUERY_ID
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.platform import backup as module
from cryptolake_assets.platform import kafka, lifecycle
from cryptolake_assets.platform.backup import EPOCH_ID, backup
from cryptolake_assets.platform.lifecycle import restore_dir
from cryptolake_assets.platform.restore import read_manifest, restore
from cryptolake_assets.settings import Settings, get_settings, load_settings
from cryptolake_tests.support.bronze import append, trade

AT = datetime(2024, 7, 19, 10, tzinfo=UTC)
QUERY = "5f0c5c62-1f0a-4a1b-9d5e-3c1c1f6f9a01"
RUNNER = CliRunner()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def home(lake: Settings) -> Iterator[Settings]:
    """Return a home with two commits of trades, and with files in each of its other parts."""
    append(lake, [trade(AT, 1)])
    append(lake, [trade(AT, 2)])
    checkpoint = Path(lake.checkpoint_location.removeprefix("file://")) / "bronze_futures_trades"
    write(checkpoint / "metadata", json.dumps({"id": QUERY}))
    for batch in (0, 1):
        write(checkpoint / "offsets" / str(batch), f"v1\n{{}}\n{batch}")
        write(checkpoint / "commits" / str(batch), "v1\n{}")
    write(checkpoint / "offsets" / ".1.crc", "a checksum of Hadoop")
    write(Path(lake.follower_location().removeprefix("file://")), "cursor")
    write(Path(lake.follower_location("mark_prices").removeprefix("file://")), "cursor of mark prices")
    write(lake.home / "api_keys.json", "[]")
    write(lake.log_dir / "bronze.log", "a log")
    partition = kafka.data_dir(lake) / "futures_trades-0"
    write(kafka.data_dir(lake) / ".lock", "")
    write(kafka.data_dir(lake) / "meta.properties", "version=1")
    for base in ("00000000000000000000", "00000000000000000007"):
        for suffix in ("log", "index", "timeindex"):
            write(partition / f"{base}.{suffix}", f"{suffix} of {base}")
    write(kafka.data_dir(lake) / "old-0.1f-delete" / "00000000000000000000.log", "deleted")
    (lake.dagster_home / "history").mkdir(parents=True)
    # The newest rows of an open database are in its write-ahead log.
    with closing(sqlite3.connect(lake.dagster_home / "history" / "runs.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE runs (id TEXT)")
        connection.execute("INSERT INTO runs VALUES ('one')")
        connection.commit()
        yield lake


def ids(settings: Settings) -> list[int]:
    rows = load_table(settings, FUTURES.trades).scan().to_arrow()
    return sorted(rows.column("trade_id").to_pylist())


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["same home", "other home"])
def test_restored_home_has_all_parts(home: Settings, tmp_path: Path, place: str) -> None:
    manifest = backup(home, tmp_path / "copy")
    shutil.move(home.home, tmp_path / "lost")
    target = home if place == "same home" else load_settings(home=tmp_path / "far" / "币安人生 home")
    restore(target, tmp_path / "copy")
    assert ids(target) == [1, 2]
    first = load_table(target, FUTURES.trades).metadata.snapshots[0].snapshot_id
    assert load_table(target, FUTURES.trades).scan(snapshot_id=first).to_arrow().num_rows == 1
    append(target, [trade(AT, 3)])
    assert ids(target) == [1, 2, 3]
    assert {table.name: table.rows for table in manifest.tables}[".".join(FUTURES.trades.identifier)] == 2
    assert {table.name for table in manifest.tables} == {".".join(spec.identifier) for spec in TABLES}
    with closing(sqlite3.connect(target.dagster_home / "history" / "runs.db")) as connection:
        assert connection.execute("SELECT id FROM runs").fetchall() == [("one",)]
    checkpoint = Path(target.checkpoint_location.removeprefix("file://")) / "bronze_futures_trades"
    assert set(files_of(checkpoint)) == {"metadata", "offsets/0", "offsets/1", "commits/0", "commits/1"}
    assert Path(target.follower_location().removeprefix("file://")).read_text() == "cursor"
    of_marks = Path(target.follower_location("mark_prices").removeprefix("file://"))
    assert of_marks.read_text() == "cursor of mark prices"
    assert (target.home / "api_keys.json").read_text() == "[]"
    assert not target.log_dir.exists()
    assert set(files_of(kafka.data_dir(target))) == {
        "meta.properties",
        *(f"futures_trades-0/00000000000000000000.{suffix}" for suffix in ("log", "index", "timeindex")),
        "futures_trades-0/00000000000000000007.log",
    }
    assert not restore_dir(target).exists()


def test_backup_is_private_and_appears_only_when_complete(home: Settings, tmp_path: Path) -> None:
    seen: set[bool] = set()
    backup(home, tmp_path / "in" / "copy", lambda *_: seen.add((tmp_path / "in" / "copy").exists()))
    assert seen == {False}
    assert (tmp_path / "in" / "copy").stat().st_mode & 0o077 == 0
    assert list((tmp_path / "in").iterdir()) == [tmp_path / "in" / "copy"]


def test_failed_backup_leaves_no_files(home: Settings, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(BackupError, match="No space left on device"):
        backup(home, tmp_path / "in" / "copy", fail)
    assert list((tmp_path / "in").iterdir()) == []


def test_backup_rejects_an_existing_directory_and_one_in_the_home(home: Settings, tmp_path: Path) -> None:
    write(tmp_path / "copy" / "mine", "mine")
    with pytest.raises(BackupError, match="exists"):
        backup(home, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == {"mine": b"mine"}
    with pytest.raises(BackupError, match="is inside the home or the warehouse"):
        backup(home, home.home / "copy")


def test_backup_rejects_a_home_without_a_lake(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no lake"):
        backup(load_settings(home=tmp_path / "empty"), tmp_path / "copy")


def test_backup_waits_for_maintenance(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAINTENANCE_WAIT_S", 0.1)
    home.run_dir.mkdir(exist_ok=True)
    with FileLock(home.run_dir / "maintenance.lock"), pytest.raises(MaintenanceInUseError):
        backup(home, tmp_path / "copy")


def stream_commit(settings: Settings, batch: int, query: str = QUERY) -> None:
    """Commit a batch as the stream does, to the trades of the settings' family."""
    table = load_table(settings, settings.tables.trades)
    rows = pa.Table.from_pylist([trade(AT, 100 + batch)], schema=settings.tables.trades.arrow_schema())
    table.append(rows, snapshot_properties={QUERY_ID: query, EPOCH_ID: str(batch)})


@pytest.mark.parametrize("market", [Market.USD_M, Market.SPOT])
def test_checkpoint_without_the_newest_batch_of_its_table_is_copied_again(
    home: Settings, tmp_path: Path, market: Market
) -> None:
    """Otherwise the query plans the batch again with other offsets, the sink skips it, and trades are lost."""
    settings, query = home.of_market(market), f"query of {market}"
    name = query_of(TRADES_OF_FAMILY[settings.venue.family])
    checkpoint = Path(home.checkpoint_location.removeprefix("file://")) / name
    write(checkpoint / "metadata", json.dumps({"id": query}))
    for kind, batch in (("offsets", 0), ("commits", 0), ("offsets", 1), ("commits", 1)):
        write(checkpoint / kind / str(batch), "v1")
    copied: list[str] = []

    def commit_once(file: str, _: int) -> None:
        if file == f"checkpoints/{name}/offsets/1" and file not in copied:
            # The offsets are listed, and the catalog is not copied yet.
            write(checkpoint / "offsets" / "2", "v1\n{}\n2")
            stream_commit(settings, 2, query)
            write(checkpoint / "commits" / "2", "v1\n{}")
        copied.append(file)

    backup(home, tmp_path / "copy", commit_once)
    assert copied.count(f"checkpoints/{name}/offsets/1") == 2
    assert set(files_of(tmp_path / "copy" / "checkpoints" / name)) == {
        "metadata",
        *(f"{kind}/{batch}" for kind in ("offsets", "commits") for batch in (0, 1, 2)),
    }


def test_backup_fails_if_the_checkpoint_never_covers_the_table(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    stream_commit(home, 1)
    backup(home, tmp_path / "covered")
    stream_commit(home, 2)
    with pytest.raises(BackupError, match="no consistent copy"):
        backup(home, tmp_path / "copy")


def test_snapshots_that_expire_during_the_copy_are_omitted(home: Settings, tmp_path: Path) -> None:
    expired: list[int] = []

    def expire_once(name: str, _: int) -> None:
        if name.endswith(".metadata.json") and not expired:
            expired.append(0)
            append(home, [trade(AT, 3)])
            expired.append(expire_snapshots(load_table(home, FUTURES.trades), keep=1, readable_s=0))

    backup(home, tmp_path / "copy", expire_once)
    assert expired[-1] > 0
    shutil.rmtree(home.home)
    restore(home, tmp_path / "copy")
    table = load_table(home, FUTURES.trades)
    for snapshot in table.metadata.snapshots:
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows > 0
    listed = {file.path for file in read_manifest(tmp_path / "copy").files}
    assert listed == set(files_of(tmp_path / "copy")) - {"manifest.json"}, "the backup has no unneeded file"


@pytest.mark.parametrize("part", ["warehouse", "catalog", "kafka", "dagster", "checkpoints"])
@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_damaged_file_is_named_and_the_home_stays_unchanged(
    home: Settings, tmp_path: Path, part: str, damage: str
) -> None:
    manifest = backup(home, tmp_path / "copy")
    file = [file for file in manifest.files if file.part == part and file.bytes][-1]
    path = tmp_path / "copy" / file.path
    data = path.read_bytes()
    match damage:
        case "changed":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "truncated":
            path.write_bytes(data[:-1])
        case _:
            path.unlink()
    before = files_of(home.home / "warehouse")
    with pytest.raises(BackupError, match=path.name):
        restore(home, tmp_path / "copy", replace=True)
    assert files_of(home.home / "warehouse") == before
    assert ids(home) == [1, 2]
    assert not list(home.home.glob("restoring*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"files": "none"}, "damaged"),
        ({"files": [{"path": "../escaped", "bytes": 0, "sha256": ""}]}, "escaped"),
        ({"files": [{"path": "/escaped", "bytes": 0, "sha256": ""}]}, "escaped"),
        ({"files": [{"path": "unknown/part", "bytes": 0, "sha256": ""}]}, "unknown"),
    ],
)
def test_invalid_manifest_is_rejected(home: Settings, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    backup(home, tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BackupError, match=message):
        restore(load_settings(home=tmp_path / "other"), tmp_path / "copy")
    assert not (tmp_path / "other" / "warehouse").exists()


def test_directory_that_is_not_a_backup_is_rejected(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="not a backup"):
        restore(home, tmp_path / "nothing")


def test_data_of_the_home_is_kept_or_moved_aside(home: Settings, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy")
    append(home, [trade(AT, 3)])
    with pytest.raises(BackupError, match="--replace"):
        restore(home, tmp_path / "copy")
    assert ids(home) == [1, 2, 3]
    moved = restore(home, tmp_path / "copy", replace=True).moved_aside
    assert ids(home) == [1, 2]
    assert {path.name.partition(".replaced-")[0] for path in moved} == {
        *("warehouse", "dagster", "data", "api_keys.json", "catalog")
    }
    (old,) = (path for path in moved if path.name.startswith("warehouse"))
    assert len([name for name in files_of(old) if name.endswith(".parquet")]) == 3


def test_incomplete_restore_blocks_the_next_start(home: Settings) -> None:
    restore_dir(home).mkdir()
    with pytest.raises(HomeError, match="cryptolake restore"):
        lifecycle.up(home, [])


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"iceberg_rest_uri": "http://127.0.0.1:9"}, "ICEBERG_REST_URI"),
        ({"catalog_uri": "postgresql://127.0.0.1/x"}, "CRYPTOLAKE_CATALOG_URI"),
        ({"warehouse": "s3://lake"}, "object store"),
        ({"checkpoints": "s3://checkpoints"}, "object store"),
        ({"dagster_database": "postgresql://127.0.0.1/x"}, "CRYPTOLAKE_DAGSTER_DATABASE"),
    ],
)
def test_backup_rejects_the_lake_of_a_cluster(tmp_path: Path, changes: dict[str, str], setting: str) -> None:
    settings = load_settings(home=tmp_path, **changes)
    with pytest.raises(BackupError, match=f"{setting}.*own tools"):
        backup(settings, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_backup_with_the_local_broker_is_rejected_for_other_brokers(home: Settings, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy")
    other = load_settings(home=tmp_path / "other", kafka_bootstrap_servers="127.0.0.1:9")
    with pytest.raises(BackupError, match="KAFKA_BOOTSTRAP_SERVERS to an empty value"):
        restore(other, tmp_path / "copy")


def test_warehouse_and_checkpoints_outside_the_home_are_copied_and_restored(tmp_path: Path) -> None:
    from cryptolake_assets.lake.bootstrap import bootstrap

    places = {"warehouse": str(tmp_path / "disk" / "tables"), "checkpoints": str(tmp_path / "state")}
    settings = load_settings(home=tmp_path / "one", **places)
    bootstrap(settings)
    append(settings, [trade(AT, 1)])
    write(tmp_path / "state" / "bronze_futures_trades" / "metadata", json.dumps({"id": QUERY}))
    backup(settings, tmp_path / "copy")
    target = load_settings(home=tmp_path / "two")
    restore(target, tmp_path / "copy")
    shutil.rmtree(tmp_path / "disk")
    assert ids(target) == [1]
    assert (target.home / "warehouse" / "_checkpoints" / "bronze_futures_trades" / "metadata").exists()


def test_commands_print_the_copied_parts(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_HOME", str(home.home))
    get_settings.cache_clear()
    made = RUNNER.invoke(app, ["backup", str(tmp_path / "copy")])
    assert made.exit_code == 0, made.output
    assert "bronze.futures_trades " in made.stdout
    assert "warehouse" in made.stdout
    again = RUNNER.invoke(app, ["restore", str(tmp_path / "copy")])
    assert again.exit_code == 1
    assert "already has data" in again.stderr
    replaced = RUNNER.invoke(app, ["restore", str(tmp_path / "copy"), "--replace"])
    assert replaced.exit_code == 0, replaced.output
    assert "moved aside" in replaced.stderr
    assert ids(home) == [1, 2]
