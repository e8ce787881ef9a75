"""Numbered schema migrations of an existing lake. `cryptolake bootstrap` applies pending ones in order.

To change the schema: change the table in `model/`, append a `Migration` with the next number to `MIGRATIONS`, and
record the schema in `cryptolake_tests/lake/test_migrations.py`. A migration may run again from its start: after a
crash, in two processes at once, and on a lake with new tables. It commits table by table and retries lost races.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import structlog

from cryptolake_assets.errors import CryptolakeError, LakeSchemaError
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.coverage import fold_all
from cryptolake_assets.lake.exchange_column import fill_exchange, tables_with_symbol_keys
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.lake.spot_home import SPOT, is_moved, move_stream
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

# Property of the trades table: number of the last applied migration; missing before the first.
SCHEMA_PROPERTY: Final = "cryptolake.schema"


@dataclass(frozen=True)
class Migration:
    """One schema change; `apply` is idempotent."""

    number: int
    name: str
    apply: Callable[[Settings], None]

    def __str__(self) -> str:
        return f"migration {self.number} ({self.name})"


def _add_all_columns(settings: Settings) -> None:
    for spec in TABLES:
        add_columns(settings, spec)


def _key_by_exchange(settings: Settings) -> None:
    """Add the columns `exchange` and `stream`; fill `exchange` in all rows. Old bars have no `stream`."""
    family = Family.SPOT if is_moved(settings) else Family.FUTURES
    for spec in TABLES:
        add_columns(settings, spec)
    for spec, family_of_rows in tables_with_symbol_keys(settings, family):
        add_columns(settings, spec)
        fill_exchange(settings, spec, family_of_rows)


def _widen_all_decimals(settings: Settings) -> None:
    for spec in TABLES:
        widen_decimals(settings, spec)


MIGRATIONS: Final = (
    Migration(1, "columns of evidence and dropped trades", _add_all_columns),
    Migration(2, "quantities of up to 20 digits", _widen_all_decimals),
    Migration(3, "the evidence of a bar", _add_all_columns),
    Migration(4, "the dead letter of a gap", _add_all_columns),
    Migration(5, "coverage as a union of intervals", fold_all),
    Migration(6, "keys that start with the exchange", _key_by_exchange),
    Migration(7, "the stream of a Spot home", move_stream),
    Migration(8, "order books", _add_all_columns),  # their tables are created before
)


@dataclass(frozen=True)
class LakeSchema:
    """The number of the last migration applied to the lake, and the pending migrations."""

    number: int
    pending: tuple[Migration, ...]

    def __str__(self) -> str:
        if not self.pending:
            return f"schema {self.number}"
        return f"schema {self.number}, pending: {', '.join(map(str, self.pending))}"


def lake_schema(settings: Settings) -> LakeSchema | None:
    """Return the state of the lake's schema; None if there is no lake or its catalog does not respond."""
    is_local = not settings.iceberg_rest_uri and not settings.catalog_uri.get_secret_value()
    if is_local and not settings.catalog_db.exists():
        return None
    try:
        number = _applied(settings)
    except (CryptolakeError, OSError) as error:
        log.warning("schema_unknown", error=str(error))
        return None
    return LakeSchema(number, _after(number, MIGRATIONS))


def require_known_schema(settings: Settings, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Raise `LakeSchemaError` if a later release has migrated the lake."""
    number, latest = _applied(settings), migrations[-1].number
    if number > latest:
        raise LakeSchemaError(
            f"lake: schema {number} is newer than {latest}, the latest schema of this release. Install the release "
            "that migrated the lake, or a later one."
        )


def migrate(settings: Settings, migrations: Sequence[Migration] = MIGRATIONS) -> list[Migration]:
    """Apply the pending migrations in order and return them.

    If a migration raises an error, the error propagates and the migration stays pending.
    """
    applied = []
    for migration in _after(_applied(settings), migrations):
        migration.apply(settings)
        _record(settings, migration.number)
        log.info("migration_applied", number=migration.number, name=migration.name)
        applied.append(migration)
    return applied


def add_columns(settings: Settings, spec: TableSpec) -> None:
    """Add the columns that `spec` has and the table lacks, after their predecessors; existing rows have nulls."""
    from pyiceberg.exceptions import CommitFailedException

    for attempt in commit_attempts(CommitFailedException):
        with attempt:
            table = load_table(settings, spec)
            existing = table.schema().column_names
            fields = spec.iceberg_schema().fields
            missing = [field for field in fields if field.name not in existing]
            if missing:
                with table.update_schema() as update:
                    for before, field in pairwise((None, *fields)):
                        if field is None or field not in missing:
                            continue
                        update.add_column(field.name, field.field_type, field.doc)
                        if before is None:
                            update.move_first(field.name)
                        else:
                            update.move_after(field.name, before.name)
                log.info("columns_added", table=spec.full_name, columns=[field.name for field in missing])


def widen_decimals(settings: Settings, spec: TableSpec) -> None:
    """Widen decimals to the precision of `spec` where the table's is smaller; no file is rewritten."""
    from pyiceberg.exceptions import CommitFailedException
    from pyiceberg.types import DecimalType

    for attempt in commit_attempts(CommitFailedException):
        with attempt:
            table = load_table(settings, spec)
            required = {field.name: field.field_type for field in spec.iceberg_schema().fields}
            wider = {
                field.name: kind
                for field in table.schema().fields
                if isinstance(field.field_type, DecimalType)
                and isinstance(kind := required.get(field.name), DecimalType)
                and kind.precision > field.field_type.precision
            }
            if wider:
                with table.update_schema() as update:
                    for name, kind in wider.items():
                        update.update_column(name, kind)
                log.info("decimals_widened", table=spec.full_name, columns=sorted(wider))


def _applied(settings: Settings) -> int:
    """Return the number of the lake; the renamed trades table of a Spot home has it until the first migration."""
    number = load_table(settings, FUTURES.trades).properties.get(SCHEMA_PROPERTY)
    if number is None and get_catalog(settings).table_exists(SPOT.trades.identifier):
        number = load_table(settings, SPOT.trades).properties.get(SCHEMA_PROPERTY)
    return int(number or 0)


def _after(number: int, migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    return tuple(migration for migration in migrations if migration.number > number)


def _record(settings: Settings, number: int) -> None:
    """Record the number, unless another process has recorded a higher one meanwhile."""
    from pyiceberg.exceptions import CommitFailedException

    for attempt in commit_attempts(CommitFailedException):
        with attempt:
            table = load_table(settings, FUTURES.trades)
            if int(table.properties.get(SCHEMA_PROPERTY, 0)) < number:
                with table.transaction() as transaction:
                    transaction.set_properties({SCHEMA_PROPERTY: str(number)})
