"""The check before a Silver refresh: it looks at the tables of the refreshed family only."""

from __future__ import annotations

import pytest

from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.platform.dependencies import check_dependencies
from cryptolake_assets.settings import Settings


@pytest.mark.parametrize(("lost", "other"), [(Family.SPOT, Family.FUTURES), (Family.FUTURES, Family.SPOT)])
def test_missing_table_fails_the_check_of_its_family(lake: Settings, lost: Family, other: Family) -> None:
    offline = lake.model_copy(update={"exchange_rest_url": "http://127.0.0.1:9"})
    table = FAMILY_TABLES[lost].bars
    get_catalog(lake).drop_table(table.identifier)
    failed = check_dependencies(offline.of_family(lost))
    assert (failed.passed, [row["part"] for row in failed.failing_rows]) == (False, [table.full_name])
    assert check_dependencies(offline.of_family(other)).passed
