"""Pending migrations are applied once, in order, and continue after a failure or another process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cryptolake_assets.errors import LakeSchemaError
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.migrations import (
    MIGRATIONS,
    SCHEMA_PROPERTY,
    Migration,
    lake_schema,
    migrate,
    require_known_schema,
)
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.platform.status import problems
from cryptolake_assets.settings import Settings, load_settings

LATEST = MIGRATIONS[-1].number
SCHEMAS = {
    1: "ff95e4617f8eebd8",
    2: "a1b8747d0726aa88",
    3: "0fdc20a91f749de0",
    4: "b8c050ea0d01ceb0",
    5: "b8c050ea0d01ceb0",
    6: "d9bbece7c8e067b2",
    7: "d9bbece7c8e067b2",
    8: "00bf565c2f723ecd",
}
"""A hash of the columns and types of all tables in `model/` after each migration."""


def schema_hash() -> str:
    lines = [f"{spec.full_name} {column.name} {column.type}" for spec in TABLES for column in spec.columns]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def set_number(settings: Settings, number: int | None) -> None:
    with load_table(settings, FUTURES.trades).transaction() as transaction:
        if number is None:
            transaction.remove_properties(SCHEMA_PROPERTY)
        else:
            transaction.set_properties({SCHEMA_PROPERTY: str(number)})


def test_every_schema_change_has_a_migration() -> None:
    assert [migration.number for migration in MIGRATIONS] == list(range(1, LATEST + 1))
    assert list(SCHEMAS) == list(range(1, LATEST + 1))
    assert schema_hash() == SCHEMAS[LATEST], "the tables have changed: append a migration, and add its hash here"


def test_new_lake_has_the_latest_schema(lake: Settings) -> None:
    schema = lake_schema(lake)
    assert schema is not None
    assert (schema.number, schema.pending, str(schema)) == (LATEST, (), f"schema {LATEST}")


def test_home_without_a_lake_has_no_schema_and_no_catalog_is_created(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    assert lake_schema(settings) is None
    assert not settings.catalog_db.exists()


def test_lake_without_a_schema_number_gets_the_current_columns(lake: Settings) -> None:
    for spec, columns in (
        (FUTURES.bars, ("trades_dropped",)),
        (OPS_COVERAGE, ("evidence", "first_id", "last_id")),
    ):
        with load_table(lake, spec).update_schema() as update:
            for column in columns:
                update.delete_column(column)
    set_number(lake, None)
    schema = lake_schema(lake)
    assert schema is not None
    assert str(schema).startswith("schema 0, pending: migration 1 (")
    assert any(line.startswith("lake: schema 0, pending") and "bootstrap" in line for line in problems(lake))
    assert bootstrap(lake) == [f"applied {migration}" for migration in MIGRATIONS]
    for spec in TABLES:
        table = load_table(lake, spec)
        expected = {field.name: str(field.field_type) for field in spec.iceberg_schema().fields}
        assert {field.name: str(field.field_type) for field in table.schema().fields} == expected
    assert bootstrap(lake) == []


def recording(calls: list[int], number: int, fails: Callable[[], bool] = lambda: False) -> Migration:
    def apply(_: Settings) -> None:
        calls.append(number)
        if fails():
            raise OSError("no response")

    return Migration(number, f"change {number}", apply)


def test_failed_migration_stays_pending_and_blocks_later_ones(lake: Settings) -> None:
    calls: list[int] = []
    broken = [True]
    first, second, third = LATEST + 1, LATEST + 2, LATEST + 3
    changes = [
        *MIGRATIONS,
        recording(calls, first),
        recording(calls, second, lambda: broken.pop() if broken else False),
        recording(calls, third),
    ]
    with pytest.raises(OSError, match="no response"):
        migrate(lake, changes)
    assert calls == [first, second]
    assert [migration.number for migration in migrate(lake, changes)] == [second, third]
    assert calls == [first, second, second, third], "an applied migration does not run again"
    assert migrate(lake, changes) == []


def test_schema_number_of_another_process_is_not_lowered(lake: Settings) -> None:
    def overtaken(settings: Settings) -> None:
        set_number(settings, LATEST + 5)

    migrate(lake, [*MIGRATIONS, Migration(LATEST + 1, "overtaken", overtaken)])
    assert load_table(lake, FUTURES.trades).properties[SCHEMA_PROPERTY] == str(LATEST + 5)


def test_lake_of_a_later_release_is_not_changed(lake: Settings) -> None:
    set_number(lake, LATEST + 1)
    before = load_table(lake, OPS_COVERAGE).metadata_location
    with pytest.raises(LakeSchemaError, match=rf"schema {LATEST + 1} is newer than {LATEST}.*Install the release"):
        bootstrap(lake)
    assert load_table(lake, OPS_COVERAGE).metadata_location == before
    require_known_schema(lake, [*MIGRATIONS, recording([], LATEST + 1)])
