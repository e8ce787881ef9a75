"""The tables of a Spot lake of an earlier release get their names; `integration/test_spot_home.py` moves the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from cryptolake_assets.errors import LakeSchemaError
from cryptolake_assets.lake.bootstrap import bootstrap, ensure_table
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.migrations import MIGRATIONS, SCHEMA_PROPERTY
from cryptolake_assets.lake.spot_home import is_moved, is_spot_lake, rename_tables
from cryptolake_assets.model import family_tables
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.lakes import open_old

# The tables of that release: order books came later.
TABLES_THEN = 8
FUTURES, SPOT = list(family_tables.FUTURES)[:TABLES_THEN], list(family_tables.SPOT)[:TABLES_THEN]


@pytest.fixture
def spot_lake(tmp_path: Path) -> Settings:
    return open_old("spot", tmp_path / "home", source="binance", kafka_bootstrap_servers="127.0.0.1:9")


def states(settings: Settings, tables: Any) -> list[str]:
    return [load_table(settings, spec).metadata_location for spec in tables]


def test_renamed_tables_keep_their_state(spot_lake: Settings) -> None:
    before = states(spot_lake, FUTURES)
    assert (is_spot_lake(spot_lake), is_moved(spot_lake)) == (True, False)
    assert len(rename_tables(spot_lake)) == len(before)
    assert states(spot_lake, SPOT) == before
    assert not any(get_catalog(spot_lake).table_exists(spec.identifier) for spec in FUTURES)
    assert (is_spot_lake(spot_lake), is_moved(spot_lake)) == (False, True)
    assert rename_tables(spot_lake) == []


def test_interrupted_renaming_resumes(spot_lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = states(spot_lake, FUTURES)
    rename = SqlCatalog.rename_table

    def rename_and_die(*arguments: Any) -> None:
        rename(*arguments)
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "rename_table", rename_and_die)
        for _ in before:
            with pytest.raises(OSError, match="killed"):
                rename_tables(spot_lake)
    assert rename_tables(spot_lake) == []
    assert states(spot_lake, SPOT) == before


def test_new_futures_tables_do_not_share_the_directories_of_renamed_ones(spot_lake: Settings) -> None:
    rename_tables(spot_lake)
    for old, new in zip(FUTURES, SPOT, strict=True):
        assert ensure_table(spot_lake, old)
        locations = [load_table(spot_lake, spec).location() for spec in (old, new)]
        assert locations[0] == f"{locations[1]}_2"


def test_spot_lake_of_a_later_release_is_not_renamed(spot_lake: Settings) -> None:
    with load_table(spot_lake, family_tables.FUTURES.trades).transaction() as transaction:
        transaction.set_properties({SCHEMA_PROPERTY: str(MIGRATIONS[-1].number + 1)})
    before = states(spot_lake, FUTURES)
    with pytest.raises(LakeSchemaError, match="is newer than"):
        bootstrap(spot_lake)
    assert states(spot_lake, FUTURES) == before


def test_futures_lake_is_not_renamed(lake: Settings) -> None:
    assert rename_tables(lake) == []
    assert not is_moved(lake)
