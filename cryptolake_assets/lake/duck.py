"""Open in-process DuckDB connections for exact, offline work, and read a table's files."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    import duckdb
    from pyarrow.fs import FileSystem
    from pyiceberg.schema import Schema


def open_duckdb() -> duckdb.DuckDBPyConnection:
    """Open a UTC, offline connection for temporary objects and Arrow tables; close it after use.

    All connections of a process share one in-memory database, because creating one costs more than a small query.
    Anything that is not temporary would be visible to the other connections.
    """
    return _set_up(_shared_database().cursor())


def open_private_duckdb() -> duckdb.DuckDBPyConnection:
    """Open such a connection on a separate database, for named tables and views."""
    return _set_up(_new_database())


def _set_up(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    connection.execute("SET TimeZone = 'UTC'")
    # Arrow tables must be registered by name; DuckDB must not read the caller's variables.
    connection.execute("SET python_enable_replacements = false")
    return connection


def register_store(make: Callable[[], FileSystem]) -> None:
    """Let DuckDB read `s3://` through a file system, in all databases of the process; a second call does nothing.

    DuckDB's own S3 reader is an extension, which is downloaded on first use.
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
        """File system that reads the first part of the path as a bucket, as PyArrow does, not as a host."""

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.partition("://")[2] or path

    store = Store(filesystem)
    database.register_filesystem(store)

    def unregister() -> None:
        with suppress(duckdb.Error):  # the database may be closed
            database.unregister_filesystem(store.protocol)

    # If a store is still registered at exit, the binding reports leaks on stderr.
    atexit.register(unregister)


def _new_database() -> duckdb.DuckDBPyConnection:
    """Create a database that downloads and loads nothing at run time."""
    import duckdb

    database = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    for filesystem in _stores:
        _register(database, filesystem)
    return database


@lru_cache(maxsize=1)
def _shared_database() -> duckdb.DuckDBPyConnection:
    return _new_database()


def scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """Return the single integer of the query's result."""
    return int(connection.sql(sql).fetchall()[0][0])


def scan(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str], spec: TableSpec, schema: Schema | None = None
) -> str:
    """Return a FROM clause that reads these data files as rows of the table.

    An alias and conditions may follow. With the table's `schema`, columns are matched by its field ids, and a column
    that a file lacks is NULL. DuckDB then has no row estimate and orders joins badly, so use it only for files of
    different schemas.
    """
    if not paths:
        name = f"no_files_of_{spec.name}"
        connection.register(name, spec.arrow_schema().empty_table())
        return name
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    if schema is None:
        return f"read_parquet([{files}])"
    ids = {field.name: field.field_id for field in schema.fields}
    unused = count(schema.highest_field_id + 1)  # of columns that the table of an earlier release lacks
    fields = ", ".join(
        f"{ids.get(column.name) or next(unused)}: "
        f"{{name: '{column.name}', type: '{spec.duckdb_type(column.name)}', default_value: NULL}}"
        for column in spec.columns
    )
    return f"read_parquet([{files}], schema = MAP {{{fields}}})"
