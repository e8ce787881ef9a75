"""What the lists of measures say beside SQL: what a column is made of, and when its definition has moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cryptolake_assets.lake.tables import BRONZE_TRADES, SILVER_OHLCV, TableSpec
from cryptolake_assets.measures import (
    BAR_MEASURES,
    DAILY_MEASURES,
    Aggregate,
    Function,
    Measure,
    definition_hash,
    lineage,
)


@pytest.mark.parametrize(("measures", "source"), [(BAR_MEASURES, BRONZE_TRADES), (DAILY_MEASURES, SILVER_OHLCV)])
def test_every_column_but_those_of_the_refresh_has_its_source(measures: list[Measure], source: TableSpec) -> None:
    made_of = lineage(measures, source.column_names)
    published = {measure.name for measure in measures if measure.published}
    assert published - set(made_of) == {"is_complete", "updated_at"}


def test_lineage_goes_through_derived_and_unpublished_measures() -> None:
    bars, days = (
        lineage(BAR_MEASURES, BRONZE_TRADES.column_names),
        lineage(DAILY_MEASURES, SILVER_OHLCV.column_names),
    )
    assert bars["open"] == ("event_time", "price", "trade_id")
    assert bars["vwap"] == ("price", "qty")
    assert bars["taker_buy_quote_volume"] == ("price", "qty", "side")
    assert days["vwap"] == ("volume", "quote_volume")
    assert days["taker_buy_ratio"] == ("volume", "taker_buy_volume")
    assert days["realised_volatility"] == ("window_start", "close")


def test_the_hash_moves_with_a_definition_and_not_by_itself() -> None:
    assert definition_hash(BAR_MEASURES) == definition_hash(tuple(BAR_MEASURES))
    high = next(measure for measure in BAR_MEASURES if measure.name == "high")
    other = replace(high, aggregate=Aggregate(Function.LAST, "price"))
    changed = [other if measure is high else measure for measure in BAR_MEASURES]
    assert definition_hash(changed) != definition_hash(BAR_MEASURES)
