"""In-process DuckDB connections set up for exact, offline work, and the reading of a table's files."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    import duckdb
    from pyarrow.fs import FileSystem


def open_duckdb() -> duckdb.DuckDBPyConnection:
    """A connection for temporary tables, views and registered Arrow tables: UTC, offline. Close it after use.

    All of a process share one in-memory database, because making one costs more than a small query; whatever is not
    temporary would be seen by the others.
    """
    return _set_up(_shared_database().cursor())


def own_duckdb() -> duckdb.DuckDBPyConnection:
    """The same with a database of its own, for tables and views that have names in it."""
    return _set_up(_new_database())


def _set_up(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    connection.execute("SET TimeZone = 'UTC'")
    # Arrow tables are registered by name, never picked up from a caller's variables.
    connection.execute("SET python_enable_replacements = false")
    return connection


def use_store(make: Callable[[], FileSystem]) -> None:
    """Lets DuckDB read `s3://` by a file system, in all of the process's databases. The first one stays.

    DuckDB's own reader of S3 is an extension, which is downloaded when it is first used.
    """
    if not _stores:
        _stores.append(make())
        if _shared_database.cache_info().currsize:
            _register(_shared_database(), _stores[0])


_stores: list[FileSystem] = []


def _register(database: duckdb.DuckDBPyConnection, filesystem: FileSystem) -> None:
    import duckdb
    from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]

    class Store(ArrowFSWrapper):  # type: ignore[misc]
        """Takes a bucket for the first part of the path, as PyArrow does, and not for a host."""

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.partition("://")[2] or path

    store = Store(filesystem)
    database.register_filesystem(store)

    def let_go() -> None:
        with suppress(duckdb.Error):  # it may be closed
            database.unregister_filesystem(store.protocol)

    # A database that still holds one at the end makes the binding complain of leaks on stderr.
    atexit.register(let_go)


def _new_database() -> duckdb.DuckDBPyConnection:
    """Nothing is downloaded or loaded at run time."""
    import duckdb

    database = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    for filesystem in _stores:
        _register(database, filesystem)
    return database


@lru_cache(maxsize=1)
def _shared_database() -> duckdb.DuckDBPyConnection:
    return _new_database()


def scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """The one whole number that a query gives."""
    return int(connection.sql(sql).fetchall()[0][0])


def scan(connection: duckdb.DuckDBPyConnection, paths: Sequence[str], spec: TableSpec, evolving: bool = False) -> str:
    """What follows FROM to read these data files as rows of the table; it may be given an alias and conditions.

    With `evolving`, columns are found by Iceberg's field ids and one that a file does not have yet is NULL; DuckDB then
    does not know how many rows to expect and orders joins badly, so only where it matters.
    """
    if not paths:
        name = f"no_files_of_{spec.name}"
        connection.register(name, spec.arrow_schema().empty_table())
        return name
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    if not evolving:
        return f"read_parquet([{files}])"
    fields = ", ".join(
        f"{number}: {{name: '{column.name}', type: '{spec.duckdb_type(column.name)}', default_value: NULL}}"
        for number, column in enumerate(spec.columns, start=1)
    )
    return f"read_parquet([{files}], schema = MAP {{{fields}}})"
