"""The Iceberg catalog for PyIceberg, and loading of tables from it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryptolake_assets.errors import TableNotFoundError
from cryptolake_assets.lake.tables import CATALOG, TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

SQLITE_TIMEOUT_S = 30
"""How long a writer waits for another one's lock on the SQLite catalog."""


def catalog_properties(settings: Settings) -> dict[str, str]:
    """PyIceberg's properties of the catalog that the settings name: SQLite, or REST, on a local path or S3."""
    if settings.iceberg_rest_uri:
        properties = {"type": "rest", "uri": settings.iceberg_rest_uri, "warehouse": settings.warehouse}
    else:
        uri = f"sqlite:///{settings.catalog_db}?timeout={SQLITE_TIMEOUT_S}"
        properties = {"type": "sql", "uri": uri, "warehouse": settings.warehouse_location}
    if settings.minio_endpoint:
        properties |= {
            "s3.endpoint": settings.minio_endpoint,
            "s3.access-key-id": settings.minio_root_user,
            "s3.secret-access-key": settings.minio_root_password.get_secret_value(),
            "s3.region": settings.s3_region,
        }
    return properties


def get_catalog(settings: Settings) -> Catalog:
    """The catalog; one object a process and catalog."""
    if not settings.iceberg_rest_uri:
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
