"""An in-process DuckDB connection set up for exact, offline work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def open_duckdb() -> duckdb.DuckDBPyConnection:
    """A new in-memory connection: UTC, nothing downloaded or loaded at run time."""
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    # Arrow tables are registered by name, never picked up from a caller's variables.
    connection.execute("SET python_enable_replacements = false")
    return connection


def scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """The one whole number that a query gives."""
    return int(connection.sql(sql).fetchall()[0][0])
