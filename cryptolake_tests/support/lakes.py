"""Empty lakes by copy: one is bootstrapped a session, and a test gets it under its own path."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.relocation import relocate
from cryptolake_assets.settings import Settings, load_settings

HOME = "own home"


def make_empty(settings: Settings) -> None:
    """Bootstrap the lake and leave its catalog in one file."""
    bootstrap(settings)
    with closing(sqlite3.connect(settings.catalog_db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def open_copy(source: Path, target: Path) -> Settings:
    """Copy the home in `source` to `target` and return the copy's settings."""
    shutil.copytree(source / HOME, target / HOME)
    settings, origin = load_settings(home=target / HOME), load_settings(home=source / HOME)
    relocate(settings.home / "warehouse", settings.catalog_db, origin.warehouse_location, settings.warehouse_location)
    return settings
