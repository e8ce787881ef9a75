"""Copies of lakes under a test's own path: an empty one, made once per session, and lakes of earlier releases."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.relocation import relocate
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings, load_settings

HOME = "own home"
OLD_LAKES = Path(__file__).parents[1] / "data" / "lakes"
MADE_AT = "file:///var/tmp/cryptolake-lake/home/warehouse"
"""Warehouse location at which the old lakes were made."""


def make_empty(settings: Settings) -> None:
    """Bootstrap the lake and merge the WAL, so that its catalog is one file."""
    bootstrap(settings)
    with closing(sqlite3.connect(settings.catalog_db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def open_copy(source: Path, target: Path) -> Settings:
    """Copy the home in `source` to `target` and return the copy's settings."""
    shutil.copytree(source / HOME, target / HOME)
    settings, origin = load_settings(home=target / HOME), load_settings(home=source / HOME)
    relocate(settings.home / "warehouse", settings.catalog_db, origin.warehouse_location, settings.warehouse_location)
    return settings


def open_old(name: str, home: Path, **options: Any) -> Settings:
    """Unpack a lake of an earlier release and return its settings with these options."""
    with tarfile.open(OLD_LAKES / f"{name}-2026-11.tar.gz") as archive:
        # Python before 3.11.4 has no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(home)  # noqa: S202 - a file of this repository
    settings = load_settings(home=home, market=Market(name), **options)
    relocate(home / "warehouse", settings.catalog_db, MADE_AT, settings.warehouse_location)
    return settings


def without_exchange(settings: Settings, spec: TableSpec) -> None:
    """Make the table as in releases whose keys began with the symbol."""
    with load_table(settings, spec).update_schema() as update:
        for name in ("exchange", "stream"):
            if name in spec.column_names:
                update.delete_column(name)


def append_old(
    settings: Settings, spec: TableSpec, rows: Sequence[Mapping[str, Any]], properties: dict[str, str]
) -> None:
    """Append rows as one commit of such a release; missing columns are null."""
    table = load_table(settings, spec)
    names = table.schema().column_names
    schema = pa.schema([spec.arrow_schema().field(name) for name in names])
    records = [{**dict.fromkeys(names), **row} for row in rows]
    table.append(pa.Table.from_pylist(records, schema), snapshot_properties=properties)
