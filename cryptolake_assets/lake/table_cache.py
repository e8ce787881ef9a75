"""Table cache: the current state of every table, for readers with many requests per second.

Each `refresh` polls the catalog and reloads only changed tables.
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

IN_USE_S = 600.0  # a table that was not requested for this long is not preloaded


@dataclass
class _CachedTable:
    location: str
    table: Table | None = None
    requested_at: float = 0.0


class TableCache:
    """The catalog's tables as of the last `refresh`. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables: dict[Identifier, _CachedTable] = {}
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self.refreshed_at: float | None = None  # `time.monotonic()` of the last successful refresh

    def refresh(self) -> frozenset[Identifier]:
        """Poll the catalog and load the changed tables in use; return all changed tables.

        Blocks; raises the catalog's errors, and then keeps the previous state.
        """
        with self._refreshing:
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
            requested_at = known.requested_at if known else 0.0
            in_use = time.monotonic() - requested_at < IN_USE_S if requested_at else False
            table = self._preload(catalog, identifier) if in_use else None
            with self._lock:
                self._tables[identifier] = _CachedTable(location, table, requested_at)
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
        entry.requested_at = time.monotonic()
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
        entry.requested_at = time.monotonic()
        return entry.table.metadata.current_snapshot_id

    def is_current(self, identifier: Identifier, snapshot_id: int | None) -> bool:
        """Return whether this (None: an empty table) is the current snapshot of a loaded table; never blocks."""
        entry = self._tables.get(identifier)
        if entry is None or entry.table is None:
            return False
        entry.requested_at = time.monotonic()
        return entry.table.metadata.current_snapshot_id == snapshot_id

    def _preload(self, catalog: Catalog, identifier: Identifier) -> Table | None:
        """Load a table; return None on failure, so that only its readers get the error."""
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
        if known is not None and (not known.requested_at or time.monotonic() - known.requested_at > IN_USE_S):
            known.table = None  # not polled any more; the next request loads it again
            return known.location
        return catalog.load_table(identifier).metadata_location


def _unreadable(identifier: Identifier) -> TableUnreadableError:
    return TableUnreadableError(
        f"catalog: files of table {CATALOG}.{'.'.join(identifier)} are missing; the reader's log names them. "
        "Restore the files, or drop and recreate the table."
    )


def _missing(identifier: Identifier) -> TableNotFoundError:
    return TableNotFoundError(
        f"catalog: table {CATALOG}.{'.'.join(identifier)} does not exist yet. Run `cryptolake bootstrap` to create the "
        "lake's tables; dbt creates the marts once Silver has bars."
    )
