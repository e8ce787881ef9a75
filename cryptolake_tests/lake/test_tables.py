"""Bootstrap creates the tables as specified, and is idempotent."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cryptolake_assets.errors import LakeMarketError
from cryptolake_assets.lake.bootstrap import FAMILY_PROPERTY, bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.model.trade_tables import TRADE_COLUMNS
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.bronze import append, trade


def test_every_table_is_in_the_catalog_with_its_columns_and_partitioning(lake: Settings) -> None:
    for spec in TABLES:
        table = load_table(lake, spec)
        assert tuple(table.schema().column_names) == spec.column_names
        expected = () if spec.partition is None else (spec.partition[1],)
        assert tuple(str(part.transform) for part in table.spec().fields) == expected


def test_second_bootstrap_creates_nothing(lake: Settings) -> None:
    assert bootstrap(lake) == []


def test_contract_columns_equal_the_producers_event_fields() -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(TradeEvent)]
    assert fields == [column.name for column in TRADE_COLUMNS]


def test_lake_of_futures_accepts_both_futures_markets_and_rejects_spot(lake: Settings) -> None:
    assert bootstrap(lake.model_copy(update={"market": Market.COIN_M})) == []
    with pytest.raises(LakeMarketError, match="holds trades of futures, but CRYPTOLAKE_MARKET is spot"):
        bootstrap(lake.model_copy(update={"market": Market.SPOT}))


def test_lake_of_spot_rejects_the_futures_markets(tmp_path: Path) -> None:
    spot = load_settings(home=tmp_path, market="spot")
    bootstrap(spot)
    assert bootstrap(spot) == []
    for market in ("usdm", "coinm"):
        with pytest.raises(LakeMarketError, match="holds trades of spot"):
            bootstrap(load_settings(home=tmp_path, market=market))


def test_lake_without_the_family_property_is_a_lake_of_futures(lake: Settings) -> None:
    append(lake, [trade(datetime(2024, 7, 19, tzinfo=UTC), 1)])
    with load_table(lake, FUTURES.trades).transaction() as transaction:
        transaction.remove_properties(FAMILY_PROPERTY)
    with pytest.raises(LakeMarketError, match="holds trades of futures"):
        bootstrap(lake.model_copy(update={"market": Market.SPOT}))
    assert bootstrap(lake) == []
    assert load_table(lake, FUTURES.trades).properties[FAMILY_PROPERTY] == "futures"
