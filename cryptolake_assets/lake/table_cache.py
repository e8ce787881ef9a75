"""Table cache: the current state of every table, for readers with many requests per second.

It polls the catalog now and then and loads only changed tables.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.errors import TableNotFoundError, TableUnreadableError
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.model.table_spec import CATALOG
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

Identifier = tuple[str, str]  # namespace and name

log = structlog.get_logger(__name__)

IN_USE_S = 600.0  # a table not requested for this long is not loaded ahead


@dataclass
class _CachedTable:
    location: str
    table: Table | None = None
    asked_at: float = 0.0


class TableCache:
    """The catalog's tables as of the last `refresh`. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables: dict[Identifier, _CachedTable] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self.refreshed_at: float | None = None  # `time.monotonic()` of the last successful refresh

    def refresh(self) -> frozenset[Identifier]:
        """Poll the catalog and load the changed tables in use; return all changed tables.

        Blocks; raises the catalog's errors, and then keeps the previous state.
        """
        with self._looking:
            return self._refresh()

    def _refresh(self) -> frozenset[Identifier]:
        catalog = get_catalog(self._settings)
        located = self._locations(catalog)
        changed = set()
        for identifier, location in located.items():
            known = self._tables.get(identifier)
            if known is not None and known.location == location:
                continue
            changed.add(identifier)
            asked_at = known.asked_at if known else 0.0
            in_use = time.monotonic() - asked_at < IN_USE_S if asked_at else False
            table = self._loaded_ahead(catalog, identifier) if in_use else None
            with self._lock:
                self._tables[identifier] = _CachedTable(location, table, asked_at)
        with self._lock:
            for identifier in self._tables.keys() - located.keys():
                del self._tables[identifier]
                changed.add(identifier)
        self.refreshed_at = time.monotonic()
        return frozenset(changed)

    def identifiers(self) -> tuple[Identifier, ...]:
        """Return all tables, by name."""
        return tuple(sorted(self._tables))

    def table(self, identifier: Identifier) -> Table:
        """Return the table as of the last `refresh`; load it on first use.

        Raises `TableNotFoundError`, `TableUnreadableError`.
        """
        from pyiceberg.exceptions import NoSuchTableError

        entry = self._tables.get(identifier)
        if entry is None:
            raise _missing(identifier)
        entry.asked_at = time.monotonic()
        if entry.table is None:
            try:
                table = get_catalog(self._settings).load_table(identifier)
            except NoSuchTableError:
                raise _missing(identifier) from None
            except FileNotFoundError:
                raise _unreadable(identifier) from None
            entry.table = table
        return entry.table

    def snapshot_id(self, identifier: Identifier) -> int | None:
        """Return the current snapshot of a loaded table; never blocks. None if empty, unknown or not loaded yet."""
        entry = self._tables.get(identifier)
        if entry is None or entry.table is None:
            return None
        entry.asked_at = time.monotonic()
        return entry.table.metadata.current_snapshot_id

    def _loaded_ahead(self, catalog: Catalog, identifier: Identifier) -> Table | None:
        """Load a table; return None on failure: its readers get the error, and the other tables are refreshed."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return catalog.load_table(identifier)
        except (NoSuchTableError, FileNotFoundError) as error:
            log.warning("table_load_failed", table=".".join(identifier), cause=str(error))
            return None

    def _locations(self, catalog: Catalog) -> dict[Identifier, str]:
        """Return each table's metadata location: one query of an SQL catalog, else one request per table."""
        from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
        from sqlalchemy import select

        if isinstance(catalog, SqlCatalog):
            query = select(
                IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location
            ).where(IcebergTables.catalog_name == CATALOG)
            with catalog.engine.connect() as connection:
                return {(row[0], row[1]): row[2] for row in connection.execute(query) if row[2]}
        listed = [
            (identifier[-2], identifier[-1])
            for namespace in catalog.list_namespaces()
            for identifier in catalog.list_tables(namespace)
        ]
        return {identifier: self._location(catalog, identifier) for identifier in listed}

    def _location(self, catalog: Catalog, identifier: Identifier) -> str:
        known = self._tables.get(identifier)
        if known is not None and (not known.asked_at or time.monotonic() - known.asked_at > IN_USE_S):
            known.table = None  # no longer polled: loaded again on the next request
            return known.location
        return catalog.load_table(identifier).metadata_location


def _unreadable(identifier: Identifier) -> TableUnreadableError:
    return TableUnreadableError(
        f"catalog: files of table {CATALOG}.{'.'.join(identifier)} are not there. The log of the reader names them; "
        "restore them, or drop the table and make it anew."
    )


def _missing(identifier: Identifier) -> TableNotFoundError:
    return TableNotFoundError(
        f"catalog: table {CATALOG}.{'.'.join(identifier)} does not exist (yet). `cryptolake bootstrap` makes the "
        "tables of the lake, dbt those of the marts once Silver has bars."
    )
