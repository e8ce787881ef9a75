"""The tables are made as they are said, and bootstrap may run again."""

from __future__ import annotations

import msgspec

from cryptolake_assets.contract import TradeEvent
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.tables import CONTRACT, SILVER_OHLCV, TABLES
from cryptolake_assets.settings import Settings


def test_every_table_is_in_the_catalog_with_its_columns_and_partitioning(lake: Settings) -> None:
    for spec in TABLES:
        table = load_table(lake, spec)
        assert tuple(table.schema().column_names) == spec.column_names
        expected = () if spec.partition is None else (spec.partition[1],)
        assert tuple(str(part.transform) for part in table.spec().fields) == expected


def test_bootstrap_again_makes_nothing(lake: Settings) -> None:
    assert bootstrap(lake) == []


def test_bootstrap_adds_a_column_that_is_new(lake: Settings) -> None:
    with load_table(lake, SILVER_OHLCV).update_schema() as update:
        update.delete_column("vwap")
    assert bootstrap(lake) == [SILVER_OHLCV.full_name]
    assert set(load_table(lake, SILVER_OHLCV).schema().column_names) == set(SILVER_OHLCV.column_names)


def test_the_contract_is_the_event_that_the_producer_sends() -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(TradeEvent)]
    assert fields == [column.name for column in CONTRACT]
