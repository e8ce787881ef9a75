"""Open the Iceberg catalog with PyIceberg, and load tables from it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryptolake_assets.errors import CatalogUnreachableError, TableNotFoundError
from cryptolake_assets.lake.duck import register_store
from cryptolake_assets.lake.files import s3_filesystem
from cryptolake_assets.lake.stores import SQLITE_TIMEOUT_S, catalog_properties
from cryptolake_assets.model.table_spec import CATALOG, TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


def get_catalog(settings: Settings) -> Catalog:
    """Return the catalog; one object per process and catalog.

    Raises `CatalogUnreachableError` if a REST catalog or a database does not respond or rejects the client.
    """
    if settings.uses_s3:
        register_store(lambda: s3_filesystem(settings))
    properties = tuple(sorted(catalog_properties(settings).items()))
    if settings.iceberg_rest_uri:
        return _rest(settings, properties)
    if settings.catalog_uri.get_secret_value():
        return _postgres(settings, properties)
    return _sqlite(settings, properties)


_Properties = tuple[tuple[str, str], ...]


def _rest(settings: Settings, properties: _Properties) -> Catalog:
    from pyiceberg.exceptions import RESTError
    from requests import RequestException

    catalog = f"catalog: the REST catalog at {settings.iceberg_rest_uri}"
    try:
        return _catalog(properties)
    except RequestException as error:
        raise CatalogUnreachableError(
            f"{catalog} cannot be reached ({_cause(error)}). Start it, or correct ICEBERG_REST_URI."
        ) from error
    except RESTError as error:
        raise CatalogUnreachableError(
            f"{catalog} rejected the request ({_cause(error)}). Check ICEBERG_REST_TOKEN, or ICEBERG_REST_CREDENTIAL "
            "and ICEBERG_REST_SCOPE, and the warehouse name in ICEBERG_REST_WAREHOUSE."
        ) from error


def _postgres(settings: Settings, properties: _Properties) -> Catalog:
    from pyiceberg.exceptions import NotInstalledError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return _catalog(properties)
    except NotInstalledError as error:
        raise CatalogUnreachableError(
            f"catalog: the PostgreSQL driver is not installed ({error.__cause__ or error}). Install the extra: "
            "pip install 'cryptolake[cluster]'."
        ) from error
    except SQLAlchemyError as error:
        address = settings.catalog_uri.get_secret_value().rpartition("@")[2]
        cause = _cause(getattr(error, "orig", None) or error)
        raise CatalogUnreachableError(
            f"catalog: PostgreSQL at {address} cannot be used ({cause}). Start it, or correct CRYPTOLAKE_CATALOG_URI."
        ) from error


def _sqlite(settings: Settings, properties: _Properties) -> Catalog:
    from sqlalchemy.exc import SQLAlchemyError

    settings.catalog_db.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _catalog(properties)
    except SQLAlchemyError as error:
        cause = _cause(getattr(error, "orig", None) or error)
        raise CatalogUnreachableError(
            f"catalog: {settings.catalog_db} cannot be used ({cause}). Restore the file from a backup, or set "
            "CRYPTOLAKE_HOME to another directory."
        ) from error


def _cause(error: BaseException) -> str:
    """Return the error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@lru_cache(maxsize=8)
def _catalog(properties: _Properties) -> Catalog:
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog(CATALOG, **dict(properties))
    uri = dict(properties)["uri"]
    if uri.startswith("sqlite:"):
        _enable_wal(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
    return catalog


def forget_catalogs() -> None:
    """Clear the catalog cache of this process, because the catalogs' files were replaced."""
    _catalog.cache_clear()


def _enable_wal(database: Path) -> None:
    """Enable WAL mode, in which readers do not block the writer; the file stores the mode."""
    import sqlite3

    connection = sqlite3.connect(database, timeout=SQLITE_TIMEOUT_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def load_table(settings: Settings, spec: TableSpec) -> Table:
    """Return the table's current state. Raises `TableNotFoundError` if it was not created yet."""
    from pyiceberg.exceptions import NoSuchTableError

    try:
        return get_catalog(settings).load_table(spec.identifier)
    except NoSuchTableError:
        raise TableNotFoundError(
            f"catalog: table {spec.full_name} does not exist. Run `cryptolake bootstrap` to create the tables."
        ) from None
