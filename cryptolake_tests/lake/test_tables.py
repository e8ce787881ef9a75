"""Bootstrap creates the tables as specified, and is idempotent."""

from __future__ import annotations

import msgspec

from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.model.trade_tables import TRADE_COLUMNS
from cryptolake_assets.settings import Settings


def test_every_table_is_in_the_catalog_with_its_columns_and_partitioning(lake: Settings) -> None:
    for spec in TABLES:
        table = load_table(lake, spec)
        assert tuple(field.name for field in table.schema().fields) == spec.column_names
        expected = () if spec.partition is None else (spec.partition[1],)
        assert tuple(str(part.transform) for part in table.spec().fields) == expected


def test_second_bootstrap_creates_nothing(lake: Settings) -> None:
    assert bootstrap(lake) == []


def test_contract_columns_equal_the_producers_event_fields() -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(TradeEvent)]
    assert fields == [column.name for column in TRADE_COLUMNS]


def test_lake_holds_the_tables_of_every_market(lake: Settings) -> None:
    for market in Market:
        assert bootstrap(lake.model_copy(update={"market": market})) == []
