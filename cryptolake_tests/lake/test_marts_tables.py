"""dbt's tables in the catalog are listed, queried and maintained like the lake's own tables."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import DateType, DecimalType, DoubleType, NestedField, StringType, TimestamptzType

from cryptolake_assets.errors import QueryError
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.lake.maintenance.crowded import small_files
from cryptolake_assets.lake.maintenance.tasks import StreamPosition, Task, maintain
from cryptolake_assets.lake.marts import marts_tables
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.settings import Settings, load_settings

NAME = "cryptolake.marts.some_bars"
POSITION = StreamPosition(datetime(2024, 7, 19, tzinfo=UTC))


@pytest.fixture
def mart(lake: Settings) -> Table:
    """Create a table like dbt does: two commits with one row each."""
    catalog = get_catalog(lake)
    catalog.create_namespace_if_not_exists("marts")
    schema = Schema(
        NestedField(1, "symbol", StringType(), doc="the exchange's symbol"),
        NestedField(2, "window_start", TimestamptzType()),
        NestedField(3, "trade_date", DateType()),
        NestedField(4, "close", DecimalType(38, 8)),
        NestedField(5, "log_return", DoubleType()),
    )
    table = catalog.create_table(("marts", "some_bars"), schema, properties={"comment": "Some bars."})
    for minute in range(2):
        moment = datetime(2024, 7, 18, 10, minute, tzinfo=UTC)
        row = {
            "symbol": "BTCUSDT",
            "window_start": moment,
            "trade_date": moment.date(),
            "close": Decimal(f"64000.{minute}0000001"),
            "log_return": 0.5,
        }
        table.append(pa.Table.from_pylist([row], schema=table.schema().as_arrow()))
    return table


def test_marts_are_empty_before_dbts_first_run(lake: Settings) -> None:
    assert marts_tables(lake) == ()


@pytest.mark.usefixtures("mart")
def test_specification_of_a_mart_comes_from_the_catalog(lake: Settings) -> None:
    (spec,) = marts_tables(lake)
    assert spec.full_name == NAME
    assert spec.doc == "Some bars."
    assert spec.columns[0].doc == "the exchange's symbol"
    assert spec.duckdb_type("close") == "decimal(38,8)"


@pytest.mark.usefixtures("mart")
def test_sql_reads_marts_exactly_and_suggests_their_names(lake: Settings) -> None:
    rows = run_sql(lake, f"SELECT * FROM {NAME} ORDER BY window_start DESC").to_pylist()
    assert [row["close"] for row in rows] == [Decimal("64000.10000001"), Decimal("64000.00000001")]
    assert rows[0]["window_start"] == datetime(2024, 7, 18, 10, 1, tzinfo=UTC)
    with pytest.raises(QueryError, match=NAME):
        run_sql(lake, "SELECT * FROM marts.no_bars")


def test_old_snapshots_of_marts_expire(lake: Settings, mart: Table) -> None:
    assert small_files(lake)[NAME] == 2
    settings = load_settings(home=lake.home, snapshot_retention_s=600, snapshots_kept=1)
    assert mart.refresh().metadata.snapshots
    fresh = next(item for item in maintain(settings, Task.SNAPSHOTS, POSITION).tables if item.before.table in NAME)
    assert fresh.done == ""
    hour_later = time.time() + 3_600
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryptolake_assets.lake.maintenance.tasks.time.time", lambda: hour_later)
        late = next(item for item in maintain(settings, Task.SNAPSHOTS, POSITION).tables if item.before.table in NAME)
    assert (late.before.snapshots, late.after.snapshots) == (2, 1)
    assert run_sql(settings, f"SELECT count(*) AS number FROM {NAME}").to_pylist() == [{"number": 2}]
