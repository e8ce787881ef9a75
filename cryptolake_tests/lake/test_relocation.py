"""Relocation of a lake replaces every path and changes no other value."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.relocation import relocate
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.lakes import open_old

AT = datetime(2024, 7, 19, 10, tzinfo=UTC)


def moved(source: Settings, home: Path) -> Settings:
    """Move the lake's files to `home` and return its settings."""
    shutil.move(source.home, home)
    settings = load_settings(home=home, market=source.market)
    relocate(home / "warehouse", settings.catalog_db, source.warehouse_location, settings.warehouse_location)
    return settings


@pytest.mark.parametrize("home", ["b", "a much longer name with spaces and 币安人生", "in/a/deeper/place"])
def test_moved_lake_keeps_its_rows_and_accepts_new_ones(lake: Settings, tmp_path: Path, home: str) -> None:
    append(lake, [trade(AT, 1)])
    append(lake, [trade(AT, 2)])
    first = load_table(lake, FUTURES.trades).metadata.snapshots[0].snapshot_id
    (tmp_path / home).parent.mkdir(parents=True, exist_ok=True)
    settings = moved(lake, tmp_path / home)
    table = load_table(settings, FUTURES.trades)
    assert table.scan().to_arrow().column("trade_id").sort().to_pylist() == [1, 2]
    assert table.scan(snapshot_id=first).to_arrow().num_rows == 1
    append(settings, [trade(AT, 3)])
    assert load_table(settings, FUTURES.trades).scan().to_arrow().num_rows == 3


@pytest.mark.parametrize("market", ["usdm", "spot"])
def test_manifests_of_spark_and_pyiceberg_change_only_their_paths(tmp_path: Path, market: str) -> None:
    settings = open_old(market, tmp_path / "a")
    entries = described(settings)
    assert entries
    assert all(local_path(path).startswith(f"{settings.home}/warehouse/") for path, _ in entries)
    relocated = moved(settings, tmp_path / "some other place")
    assert [text for _, text in described(relocated)] == [text for _, text in entries]
    (count,) = run_sql(relocated, "SELECT count(*) AS n FROM cryptolake.bronze.futures_trades").to_pylist()
    assert count["n"] == (7001 if market == "usdm" else 4000)


def described(settings: Settings) -> list[tuple[str, str]]:
    """Return the path and the other values of every manifest and data file of the trades table, all snapshots."""
    table = load_table(settings, FUTURES.trades)
    found = []
    for snapshot in table.metadata.snapshots:
        for manifest in snapshot.manifests(table.io):
            assert manifest.manifest_length == Path(local_path(manifest.manifest_path)).stat().st_size
            found.append((manifest.manifest_path, f"{manifest.partitions} {manifest.added_rows_count}"))
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                file = entry.data_file
                values = [
                    *(entry.status, entry.snapshot_id, entry.sequence_number, file.partition, file.record_count),
                    *(file.file_size_in_bytes, dict(file.lower_bounds), dict(file.upper_bounds)),
                    *(dict(file.null_value_counts), file.split_offsets, file.sort_order_id),
                ]
                found.append((file.file_path, " ".join(map(str, values))))
    return found


def test_path_with_a_longer_directory_name_is_not_replaced(lake: Settings, tmp_path: Path) -> None:
    """The location `x` is not a prefix of the location `xy`."""
    append(lake, [trade(AT, 1)])
    relocate(lake.home / "warehouse", lake.catalog_db, lake.warehouse_location[:-1], "file:///elsewhere")
    assert load_table(lake, FUTURES.trades).scan().to_arrow().num_rows == 1
