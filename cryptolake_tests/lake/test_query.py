"""User SQL: error messages of DuckDB and Spark show the line and the nearest table names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.errors.exceptions.connect import AnalysisException, ParseException, SparkConnectGrpcException

from cryptolake_assets.errors import QueryError
from cryptolake_assets.lake.query import _spark_message, run_sql
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

BARS = "cryptolake.silver.futures_ohlcv_1m"
SPOT_BARS = "cryptolake.silver.spot_ohlcv_1m"
BOOKS = "cryptolake.silver.futures_book_1s"
JVM = "\n\nJVM stacktrace:\norg.apache.spark.sql.AnalysisException\n\tat org.apache.spark.sql.Dataset.ofRows"
WITH_A_PLAN = (
    "[TABLE_OR_VIEW_NOT_FOUND] The table or view `cryptolake`.`silver`.`futures_ohlcv_1` cannot be found. Verify it.\n"
    "To tolerate the error on drop use DROP VIEW IF EXISTS. SQLSTATE: 42P01; line 2 pos 5;\n"
    "'Project [*]\n+- 'UnresolvedRelation [cryptolake, silver, futures_ohlcv_1], [], false\n"
)
PLACE = "== SQL ==\nSELEC 1\n^^^"
WITH_A_PLACE = f"\n[PARSE_SYNTAX_ERROR] Syntax error at or near 'SELEC'. SQLSTATE: 42601 (line 1, pos 0)\n\n{PLACE}\n"


def error_message(settings: Settings, sql: str) -> str:
    with pytest.raises(QueryError) as error:
        run_sql(settings, sql)
    text = str(error.value)
    assert text.startswith("sql: ")
    assert text.count("cryptolake.") <= 4, "only the nearest tables are named"
    return text


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("SELEC 1", "LINE 1: SELEC 1"),
        (f"SELECT symbol\nFROM {BARS}\nORDER symbol", "LINE 3: ORDER symbol"),
        (f"SELECT\n  clos\nFROM {BARS}", "LINE 2:   clos"),
        ("SELECT 1,\n  summ(2)", "LINE 2:   summ(2)"),
        ("SELECT *\nFROM silver.futures_ohlcv_1", "LINE 2: FROM silver.futures_ohlcv_1"),
        ("SELECT 1,\n  CAST(word AS INTEGER) FROM (SELECT 'BTCUSDT' AS word)", "LINE 2:   CAST(word AS INTEGER)"),
    ],
)
def test_error_shows_the_line_of_the_statement(lake: Settings, sql: str, line: str) -> None:
    assert f"\n{line}" in error_message(lake, sql)


@pytest.mark.parametrize(
    "name",
    [
        *("cryptolake.silver.futures_ohlcv_1", "silver.futures_ohlcv_1", "futures_ohlcv_1m", "slver.futures_ohlcv_1m"),
        *("gold.futures_ohlcv_1m", "crypto.silver.futures_ohlcv_1m", '"silver"."futures_ohlcv1m"'),
    ],
)
def test_unknown_table_suggests_the_nearest_one(lake: Settings, name: str) -> None:
    text = error_message(lake, f"SELECT * FROM {name}")
    assert text.endswith(f"Did you mean {BARS}?")
    assert text.count("Did you mean") == 1


def test_table_name_without_a_near_match_refers_to_the_dictionary(lake: Settings) -> None:
    for name in ("zookeeper", "币安人生"):
        assert "docs/dictionary.md lists the tables" in error_message(lake, f"SELECT * FROM {name}")


def test_quoted_table_name_is_accepted(lake: Settings) -> None:
    assert run_sql(lake, 'SELECT * FROM "cryptolake"."silver"."futures_ohlcv_1m"').num_rows == 0


def test_statement_without_rows_raises_an_error_with_the_next_step(lake: Settings) -> None:
    assert "Use a statement that returns rows" in error_message(lake, "")


def test_spark_message_has_the_position_but_no_plan_or_stack(lake: Settings) -> None:
    unknown = {"relationName": "`cryptolake`.`silver`.`futures_ohlcv_1`"}
    for stack in ("", JVM):
        text = _spark_message(lake, AnalysisException(WITH_A_PLAN + stack, "TABLE_OR_VIEW_NOT_FOUND", unknown))
        assert text.startswith("[TABLE_OR_VIEW_NOT_FOUND] The table or view `cryptolake`.`silver`.`futures_ohlcv_1`")
        assert text.endswith(f"SQLSTATE: 42P01; line 2 pos 5\nDid you mean {BARS}, {BOOKS} or {SPOT_BARS}?")
        assert _spark_message(lake, ParseException(WITH_A_PLACE + stack)) == WITH_A_PLACE.strip()
        aborted = SparkConnectGrpcException(f"Job aborted.\nout of memory{stack}")
        assert _spark_message(lake, aborted) == "Job aborted.\nout of memory"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")], ids=["missing", "truncated"])
def test_unreadable_data_file_is_named(lake: Settings, damage: Callable[[Path], object]) -> None:
    append(lake, [trade(datetime(2024, 7, 19, tzinfo=UTC), 1)])
    (path,) = Path(lake.home, "warehouse").rglob("*.parquet")
    damage(path)
    with pytest.raises(QueryError, match=path.name):
        run_sql(lake, f"SELECT * FROM {FUTURES.trades.full_name}")
