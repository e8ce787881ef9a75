"""The dbt project agrees with the table specs of the lake."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import Environment

from cryptolake_assets.model.family_tables import FUTURES, SPOT
from cryptolake_assets.model.mart_tables import (
    BARS_OF_TIMEFRAMES,
    DAILY_RETURNS,
    MARKET_OVERVIEW,
    SENTIMENT_VS_MARKET,
    VOLUME_PROFILE_HOURLY,
)
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import TableSpec, spark_type
from cryptolake_assets.model.tables import COMMON_PROPERTIES
from cryptolake_assets.platform.dbt import PROJECT_DIR, ensure_manifest
from cryptolake_assets.settings import get_settings

MARTS = (*BARS_OF_TIMEFRAMES, VOLUME_PROFILE_HOURLY, DAILY_RETURNS, MARKET_OVERVIEW, SENTIMENT_VS_MARKET)
TIMEFRAMES = ("5m", "15m", "1h", "4h", "1d")


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ensure_manifest(get_settings()).read_text())
    return loaded


@pytest.fixture(scope="module")
def marts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the marts by name."""
    return {
        node["name"]: node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["config"]["materialized"] == "incremental"
    }


def test_dbt_models_are_the_marts_of_the_table_specs(marts: dict[str, Any]) -> None:
    assert set(marts) == {spec.name for spec in MARTS}
    assert {f"ohlcv_{timeframe}" for timeframe in TIMEFRAMES} == {spec.name for spec in BARS_OF_TIMEFRAMES}


@pytest.mark.parametrize("spec", MARTS, ids=lambda spec: spec.name)
def test_marts_yml_equals_the_table_spec(marts: dict[str, Any], spec: TableSpec) -> None:
    mart = marts[spec.name]
    columns = [(column["name"], column["data_type"], column["description"]) for column in mart["columns"].values()]
    assert columns == [(column.name, spark_type(column.type), column.doc) for column in spec.columns]
    assert mart["description"].strip() == spec.doc
    assert tuple(mart["config"]["unique_key"]) == spec.key
    expected = [f"{spec.partition[1]}s({spec.partition[0]})"] if spec.partition else None
    assert mart["config"].get("partition_by") == expected


@pytest.mark.parametrize("spec", BARS_OF_TIMEFRAMES, ids=lambda spec: spec.name)
def test_bars_of_every_timeframe_have_silvers_columns(spec: TableSpec) -> None:
    names = {column.name for column in spec.columns}
    assert [(column.name, column.type) for column in spec.columns] == [
        (column.name, column.type) for column in FUTURES.bars.columns if column.name in names
    ]
    assert set(FUTURES.bars.column_names) - names == {"stream"}


def test_every_mart_has_a_contract_and_column_lineage(marts: dict[str, Any]) -> None:
    known = {f"{table.namespace}.{name}" for table in (FUTURES.bars, FUTURES.daily) for name in table.column_names}
    batch = (SILVER_FEAR_GREED, SILVER_COINGECKO_GLOBAL)
    known |= {f"{table.name}.{name}" for table in batch for name in table.column_names}
    for name, node in marts.items():
        assert node["contract"]["enforced"], name
        assert node["config"]["unique_key"], name
        assert node["description"], name
        for column in node["columns"].values():
            assert column["description"], (name, column["name"])
            sources = set(column["config"]["meta"].get("of", ()))
            assert sources <= known
            assert bool(sources) == (column["name"] != "updated_at"), (name, column["name"])


def test_marts_have_the_common_table_properties(marts: dict[str, Any]) -> None:
    for node in marts.values():
        assert node["config"]["tblproperties"] == COMMON_PROPERTIES


def test_every_mart_is_tested_and_exposed(manifest: dict[str, Any], marts: dict[str, Any]) -> None:
    for node in marts.values():
        children = manifest["child_map"][node["unique_id"]]
        assert any(child.startswith("test.cryptolake.unique_rows_") for child in children), node["name"]
        assert "exposure.cryptolake.dashboard" in children, node["name"]
    assert manifest["unit_tests"]


def test_source_freshness_uses_updated_at(manifest: dict[str, Any]) -> None:
    tables = (FUTURES.bars, SPOT.bars, FUTURES.daily, SPOT.daily, SILVER_FEAR_GREED, SILVER_COINGECKO_GLOBAL)
    assert {f"{source['schema']}.{source['name']}" for source in manifest["sources"].values()} == {
        f"{table.namespace}.{table.name}" for table in tables
    }
    for source in manifest["sources"].values():
        assert source["loaded_at_field"] == "updated_at"
        assert source["freshness"]["error_after"]["count"]


@pytest.mark.parametrize(
    ("day", "is_valid"),
    [("2024-07-18", True), ("", True), ("2024-07-18 12:00", False), ("2024-07-18' or true --", False)],
)
def test_window_bound_is_a_day(day: str, is_valid: bool) -> None:
    import re

    errors: list[str] = []

    def raise_compiler_error(message: str) -> None:
        errors.append(message)

    environment = Environment(extensions=["jinja2.ext.do"])  # noqa: S701  SQL, not HTML
    environment.globals |= {
        "var": lambda _: day,
        "modules": {"re": re},
        "exceptions": {"raise_compiler_error": raise_compiler_error},
        "return": lambda value: value,
        "env_var": lambda *_: "",
    }
    module: Any = environment.from_string((PROJECT_DIR / "macros/window.sql").read_text()).module
    assert module.window_day("window_start").strip() == day or not is_valid
    assert bool(errors) is not is_valid
