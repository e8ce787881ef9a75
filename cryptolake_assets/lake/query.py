"""SQL for people over the tables, by their full names: DuckDB on the Iceberg files, or Spark.

DuckDB reads the files that PyIceberg plans for the current snapshot; its own Iceberg extension would have to be
downloaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptolake_assets.errors import QueryError
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import own_duckdb, scan
from cryptolake_assets.lake.marts import marts_tables
from cryptolake_assets.lake.tables import CATALOG, TABLES, TableSpec, namespaces
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def run_sql(settings: Settings, sql: str, engine: str = "duckdb") -> pa.Table:
    """The result of one statement. Raises `QueryError` with the engine's own message, `TableNotFoundError` for a
    table that was not made yet."""
    return _run_spark(settings, sql) if engine == "spark" else _run_duckdb(settings, sql)


def _run_duckdb(settings: Settings, sql: str) -> pa.Table:
    import duckdb

    # Before the database: it is made with the store that the catalog makes known.
    files = [(spec, _data_files(settings, spec)) for spec in _known(settings) if _is_named(spec, sql)]
    with own_duckdb() as connection:
        connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
        for namespace in namespaces():
            connection.execute(f"CREATE SCHEMA {CATALOG}.{namespace}")
        for spec, paths in files:
            _add_view(connection, spec, paths)
        try:
            connection.execute(f"USE {CATALOG}")
            relation = connection.sql(sql)
            if relation is None:
                raise QueryError("sql: the statement gives no rows. Ask for rows, for example with SELECT.")
            return relation.to_arrow_table()
        except duckdb.Error as error:
            known = ", ".join(spec.full_name for spec in _known(settings))
            raise QueryError(f"sql: {error}. Tables: {known}.") from None


def _known(settings: Settings) -> tuple[TableSpec, ...]:
    return (*TABLES, *marts_tables(settings))


def _is_named(spec: TableSpec, sql: str) -> bool:
    return re.search(rf"\b{spec.namespace}\.{spec.name}\b", sql, re.IGNORECASE) is not None


def _data_files(settings: Settings, spec: TableSpec) -> list[str]:
    """Of the table's current snapshot."""
    return [local_path(task.file.file_path) for task in load_table(settings, spec).scan().plan_files()]


def _add_view(connection: duckdb.DuckDBPyConnection, spec: TableSpec, paths: list[str]) -> None:
    """A table's files as a view of its full name."""
    source = scan(connection, paths, spec, evolving=True)
    # Registered tables live as long as the connection; a view on them is as good as one on files.
    connection.execute(f"CREATE VIEW {spec.full_name} AS SELECT * FROM {source}")


def _run_spark(settings: Settings, sql: str) -> pa.Table:
    from pyspark.errors.exceptions.base import PySparkException

    from cryptolake_assets.lake.spark import connect

    try:
        return connect(settings).sql(sql).toArrow()
    except PySparkException as error:
        raise QueryError(f"sql: {str(error).splitlines()[0]}") from None
