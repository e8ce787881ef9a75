"""Empty lakes by copy: one is bootstrapped a session, and a test gets it under its own path."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.settings import Settings, load_settings

HOME = "own home"
CATALOG_PATHS = {
    "iceberg_tables": ("metadata_location", "previous_metadata_location"),
    "iceberg_namespace_properties": ("property_value",),
}


def make_empty(settings: Settings) -> None:
    """Bootstrap the lake and leave its catalog in one file."""
    bootstrap(settings)
    with closing(sqlite3.connect(settings.catalog_db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def open_copy(source: Path, target: Path) -> Settings:
    """Copy the home in `source` to `target` and return the copy's settings.

    Paths occur in the tables' metadata files, which are JSON, and in the catalog; an empty table has no manifest, which
    would hold more of them.
    """
    shutil.copytree(source / HOME, target / HOME)
    for path in (target / HOME).rglob("*.metadata.json"):
        path.write_text(path.read_text().replace(str(source), str(target)))
    (catalog,) = (target / HOME).rglob("catalog.db")
    with closing(sqlite3.connect(catalog)) as connection, connection:
        for table, columns in CATALOG_PATHS.items():
            for column in columns:
                connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(source), str(target)))
    return load_settings(home=target / HOME)
