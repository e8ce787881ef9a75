"""The Iceberg catalog for PyIceberg, and loading of tables from it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryptolake_assets.errors import TableNotFoundError
from cryptolake_assets.lake.duck import use_store
from cryptolake_assets.lake.files import s3_filesystem
from cryptolake_assets.lake.stores import SQLITE_TIMEOUT_S, catalog_properties
from cryptolake_assets.lake.tables import CATALOG, TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


def get_catalog(settings: Settings) -> Catalog:
    """The catalog; one object a process and catalog."""
    if settings.uses_s3:
        use_store(lambda: s3_filesystem(settings))
    if not (settings.iceberg_rest_uri or settings.catalog_uri.get_secret_value()):
        settings.catalog_db.parent.mkdir(parents=True, exist_ok=True)
    return _catalog(tuple(sorted(catalog_properties(settings).items())))


@lru_cache(maxsize=8)
def _catalog(properties: tuple[tuple[str, str], ...]) -> Catalog:
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog(CATALOG, **dict(properties))
    uri = dict(properties)["uri"]
    if uri.startswith("sqlite:"):
        _enable_wal(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
    return catalog


def _enable_wal(database: Path) -> None:
    """Readers do not block the writer in WAL mode; the mode is kept in the file."""
    import sqlite3

    connection = sqlite3.connect(database, timeout=SQLITE_TIMEOUT_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def load_table(settings: Settings, spec: TableSpec) -> Table:
    """The table's present state. Raises `TableNotFoundError` when it was not made yet."""
    from pyiceberg.exceptions import NoSuchTableError

    try:
        return get_catalog(settings).load_table(spec.identifier)
    except NoSuchTableError:
        raise TableNotFoundError(
            f"catalog: table {spec.full_name} does not exist. Run `cryptolake bootstrap` to make the tables."
        ) from None
