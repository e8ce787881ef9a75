"""Run users' SQL over the tables, by full name: with DuckDB on the Iceberg files, or with Spark.

DuckDB reads the files that PyIceberg plans for the current snapshot, because DuckDB's own Iceberg extension would need
a download.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptolake_assets.errors import QueryError
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import open_private_duckdb, scan
from cryptolake_assets.lake.marts import marts_tables
from cryptolake_assets.model.nearest import did_you_mean
from cryptolake_assets.model.table_spec import CATALOG, TableSpec
from cryptolake_assets.model.tables import TABLES, namespaces
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table
    from pyspark.errors.exceptions.base import PySparkException

_DUCKDB_UNKNOWN_TABLE = re.compile(r'Table with name "?(?P<name>.+?)"? does not exist')
_LINE = re.compile(r"LINE (?P<number>\d+): (?P<text>.*)")
_DUCKDB_SUGGESTION = re.compile(r'\nDid you mean ".*"\?')
_SPARK_MESSAGE = re.compile(r"(?P<cause>.*?SQLSTATE: \w{5}[^\n]*)(?:\n+(?P<place>== SQL.*))?", re.DOTALL)
_JVM_STACK = "\n\nJVM stacktrace:"


def run_sql(settings: Settings, sql: str, engine: str = "duckdb") -> pa.Table:
    """Return the result of one statement.

    Raises `QueryError` with the engine's own message, `TableNotFoundError` for a table that was not created yet.
    """
    return _run_spark(settings, sql) if engine == "spark" else _run_duckdb(settings, sql)


def _run_duckdb(settings: Settings, sql: str) -> pa.Table:
    import duckdb

    # Load the catalog first: it registers the S3 store that the database is created with.
    tables = [(spec, load_table(settings, spec)) for spec in _all_tables(settings) if _is_named(spec, sql)]
    files = [(spec, table.schema(), _data_files(table)) for spec, table in tables]
    with open_private_duckdb() as connection:
        connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
        for namespace in namespaces():
            connection.execute(f"CREATE SCHEMA {CATALOG}.{namespace}")
        for spec, schema, paths in files:
            _add_view(connection, spec, schema, paths)
        connection.execute(f"USE {CATALOG}")
        try:
            relation = connection.sql(sql)
            if relation is None:
                raise QueryError(
                    "sql: the statement returns no rows. Use a statement that returns rows, such as SELECT."
                )
            return relation.to_arrow_table()
        except duckdb.Error as error:
            text = _with_line(connection, sql, error)
            raise QueryError(f"sql: {_with_nearest_tables(settings, text)}") from None


def _with_line(connection: duckdb.DuckDBPyConnection, sql: str, error: duckdb.Error) -> str:
    """Return an error's message with the statement's line, which `sql()` omits or counts differently."""
    import duckdb

    message = str(error)
    found = _LINE.search(message)
    if found is not None:
        shown = found["text"].strip(". ")
        numbers = (number for number, line in enumerate(sql.splitlines(), start=1) if shown in line)
        return _LINE.sub(lambda _: f"LINE {next(numbers, found['number'])}: {found['text']}", message, count=1)
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException):  # it fails again before reading any data
        try:
            connection.execute(sql)
        except duckdb.Error as again:
            return str(again) if str(again).startswith(message.splitlines()[0]) else message
    return message


def _with_nearest_tables(settings: Settings, message: str) -> str:
    """Return DuckDB's message with the nearest tables of the lake, in place of DuckDB's own suggestions."""
    text = message.strip()
    unknown = _DUCKDB_UNKNOWN_TABLE.search(text)
    if unknown is None:
        return text
    return f"{_DUCKDB_SUGGESTION.sub('', text)}\n{_nearest_tables(settings, unknown['name'])}"


def _nearest_tables(settings: Settings, name: str) -> str:
    hint = did_you_mean(name.replace('"', "").replace("`", ""), [spec.full_name for spec in _all_tables(settings)])
    return hint or "docs/dictionary.md lists the tables. Use a full name, such as cryptolake.silver.futures_ohlcv_1m."


def _all_tables(settings: Settings) -> tuple[TableSpec, ...]:
    return (*TABLES, *marts_tables(settings))


def _is_named(spec: TableSpec, sql: str) -> bool:
    return re.search(rf'\b{spec.namespace}"?\s*\.\s*"?{spec.name}\b', sql, re.IGNORECASE) is not None


def _data_files(table: Table) -> list[str]:
    """Return the files of the table's current snapshot."""
    return [local_path(task.file.file_path) for task in table.scan().plan_files()]


def _add_view(connection: duckdb.DuckDBPyConnection, spec: TableSpec, schema: Schema, paths: list[str]) -> None:
    """Create a view with the table's full name over its files. Raises `QueryError` if a file cannot be read."""
    import duckdb

    source = scan(connection, paths, spec, schema)
    # Registered tables live as long as the connection, so a view on them works like one on files.
    try:
        connection.execute(f"CREATE VIEW {spec.full_name} AS SELECT * FROM {source}")
    except duckdb.Error as error:
        cause = str(error).strip().splitlines()[0][:300]
        raise QueryError(
            f"sql: a data file of {spec.full_name} cannot be read ({cause}). Restore the file from a backup."
        ) from None


def _run_spark(settings: Settings, sql: str) -> pa.Table:
    from pyspark.errors.exceptions.base import PySparkException

    from cryptolake_assets.lake.spark_session import connect, require_server

    session = connect(settings)
    try:
        return session.sql(sql).toArrow()
    except PySparkException as error:
        require_server(settings)  # the server may have stopped meanwhile
        raise QueryError(f"sql: {_spark_message(settings, error)}") from None


def _spark_message(settings: Settings, error: PySparkException) -> str:
    """Return Spark's message with the position in the statement, without the plan and the JVM stack."""
    text = str(error).partition(_JVM_STACK)[0].strip()
    if (found := _SPARK_MESSAGE.match(text)) is not None:
        place = found["place"]
        text = found["cause"].rstrip(" ;") + (f"\n\n{place.rstrip()}" if place else "")
    if error.getCondition() != "TABLE_OR_VIEW_NOT_FOUND":
        return text
    return f"{text}\n{_nearest_tables(settings, (error.getMessageParameters() or {}).get('relationName', ''))}"
