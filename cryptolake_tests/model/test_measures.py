"""Measures: column lineage, definition hash, and daily aggregates."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.model.columns import Column
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.measures import (
    BAR_MEASURES,
    DAILY_MEASURES,
    DUCKDB,
    Aggregate,
    Function,
    Measure,
    Row,
    columns,
    definition_hash,
    lineage,
    select_list,
    with_derived,
)
from cryptolake_assets.model.table_spec import TableSpec


@pytest.mark.parametrize(("measures", "source"), [(BAR_MEASURES, FUTURES.trades), (DAILY_MEASURES, FUTURES.bars)])
def test_every_column_not_set_by_the_refresh_has_a_lineage(measures: list[Measure], source: TableSpec) -> None:
    sources = lineage(measures, source.column_names)
    published = {measure.name for measure in measures if measure.published}
    assert published - set(sources) == published & {"is_complete", "updated_at", "evidence"}


def test_lineage_includes_derived_and_unpublished_measures() -> None:
    bars, days = (
        lineage(BAR_MEASURES, FUTURES.trades.column_names),
        lineage(DAILY_MEASURES, FUTURES.bars.column_names),
    )
    assert bars["open"] == ("event_time", "price", "trade_id")
    assert bars["vwap"] == ("price", "qty")
    assert bars["taker_buy_quote_volume"] == ("price", "qty", "side")
    assert days["vwap"] == ("volume", "quote_volume")
    assert days["taker_buy_ratio"] == ("volume", "taker_buy_volume")
    assert days["realised_volatility"] == ("window_start", "close")


def test_hash_changes_only_with_a_definition() -> None:
    assert definition_hash(BAR_MEASURES) == definition_hash(tuple(BAR_MEASURES))
    high = next(measure for measure in BAR_MEASURES if measure.name == "high")
    other = replace(high, aggregate=Aggregate(Function.LAST, "price"))
    changed = [other if measure is high else measure for measure in BAR_MEASURES]
    assert definition_hash(changed) != definition_hash(BAR_MEASURES)


def test_hash_changes_with_the_deriving_function() -> None:
    def another(row: Row) -> object:
        return row["volume"]

    changed = [replace(measure, derive=another) if measure.name == "vwap" else measure for measure in BAR_MEASURES]
    assert definition_hash(changed) != definition_hash(BAR_MEASURES)


def test_table_columns_are_the_published_measures() -> None:
    measures = (
        Measure("symbol", "string", "the exchange's symbol"),
        Measure("closes", "list<double>", "input of other measures", sql="{closes}", published=False),
        Measure("trades", "long", "single trades", sql="sum(trades)"),
    )
    assert columns(measures) == (
        Column("symbol", "string", "the exchange's symbol"),
        Column("trades", "long", "single trades"),
    )


def test_daily_row_aggregates_the_bars_of_the_day() -> None:
    midnight = datetime(2024, 7, 19, tzinfo=UTC)
    names = (
        *("window_start", "open", "high", "low", "close", "volume", "quote_volume"),
        *("trades", "taker_buy_volume", "trades_dropped", "is_complete"),
    )
    bars: list[tuple[object, ...]] = [
        (midnight + timedelta(minutes=2), *map(Decimal, (4, 9, 2, 8, 2, 10)), 7, Decimal(1), 2, False),
        (midnight, *map(Decimal, (1, 3, 1, 2, 1, 2)), 5, Decimal(0), None, True),
        (midnight + timedelta(minutes=1), *map(Decimal, (2, 5, 2, 4, 3, 9)), 6, Decimal(1), 1, True),
    ]
    schema = pa.schema([FUTURES.bars.arrow_schema().field(name) for name in names])
    rows = [dict(zip(names, values, strict=True)) for values in bars]
    with open_duckdb() as duck:
        duck.register("bars", pa.Table.from_pylist(rows, schema))
        (row,) = duck.sql(f"SELECT {select_list(DAILY_MEASURES, DUCKDB)} FROM bars").to_arrow_table().to_pylist()
    assert row == {
        "open": 1,
        "high": 9,
        "low": 1,
        "close": 8,
        "total_volume": 6,
        "total_quote_volume": 21,
        "price_range": 8,
        "trades": 18,
        "minutes_with_trades": 3,
        "taker_buy_volume": 2,
        "closes": [2, 4, 8],
        "trades_dropped": 3,
        "bars_complete": False,
    }
    day = with_derived(DAILY_MEASURES, row)
    assert day["vwap"] == Decimal("3.5")
    assert day["taker_buy_ratio"] == Decimal("0.33333333")
    assert day["realised_volatility"] == pytest.approx(math.sqrt(2) * math.log(2), rel=1e-12)
    assert {name: day[name] for name in row} == row
