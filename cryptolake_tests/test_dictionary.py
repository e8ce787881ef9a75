"""The generated documents (dictionary, data contracts, checks) match the table specs and the asset graph."""

from __future__ import annotations

import pytest
import yaml

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.table_spec import BRONZE_STREAM, TableSpec
from cryptolake_assets.settings import load_settings
from scripts.dictionary import CHECKS, CONTRACTS, DICTIONARY, contract, documents, tables

PARTS = {BRONZE_STREAM, "producer"}


def test_generated_documents_are_up_to_date() -> None:
    """If this fails, run `make dictionary`."""
    for path, text in documents().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_every_contract_is_of_a_table() -> None:
    assert set(CONTRACTS.glob("*.yaml")) == set(documents()) - {DICTIONARY, CHECKS}


def test_every_table_is_written_by_an_asset_or_a_part() -> None:
    definitions = build_definitions(load_settings(markets="usdm,spot", source="binance"))
    assets = {key.to_user_string() for key in definitions.resolve_asset_graph().materializable_asset_keys}
    for spec in tables():
        if spec.namespace != MARTS_NAMESPACE:  # the marts' assets are in another code location
            assert set(spec.owners) <= assets | PARTS, spec.full_name


@pytest.mark.parametrize("spec", tables(), ids=lambda spec: spec.full_name)
def test_contract_has_the_fields_required_by_the_standard(spec: TableSpec) -> None:
    document = yaml.safe_load(contract(spec))
    assert document["apiVersion"].startswith("v3.")
    assert document["kind"] == "DataContract"
    assert {"id", "version", "status", "schema"} <= document.keys()
    (table,) = document["schema"]
    assert [item["name"] for item in table["properties"]] == list(spec.column_names)
    keys = sorted((item["primaryKeyPosition"], item["name"]) for item in table["properties"] if "primaryKey" in item)
    assert tuple(name for _, name in keys) == spec.key


def test_every_decimal_has_a_unit() -> None:
    for spec in tables():
        for column in spec.columns:
            assert column.unit or not column.type.startswith("decimal"), f"{spec.full_name}.{column.name}"
