"""Fill the column `exchange` in rows of earlier releases, whose keys began with the symbol.

A few files are rewritten per commit; the remaining files are those with rows whose `exchange` is null. So the work
resumes after a crash where the last commit left it. Nothing else of a row changes: `updated_at` stays, and the new
snapshot keeps the project's properties of the previous one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

import structlog

from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import data_files, expire_snapshots, swap_files
from cryptolake_assets.lake.filters import is_null
from cryptolake_assets.lake.pages import read_files
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.model.derivatives_tables import (
    SILVER_FUNDING,
    SILVER_LIQUIDATIONS,
    SILVER_MARK_PRICE,
    SILVER_OPEN_INTEREST,
)
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FamilyTables
from cryptolake_assets.model.markets import Family, venue_of
from cryptolake_assets.model.mart_tables import MARTS
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

log = structlog.get_logger(__name__)

FILES_PER_COMMIT: Final = 16
PROPERTY_PREFIX: Final = "cryptolake."


def tables_with_symbol_keys(settings: Settings, family_of_marts: Family) -> Iterator[tuple[TableSpec, Family]]:
    """Yield the tables whose keys had no exchange, each with the family of its old rows; only marts that exist."""
    for family, tables in FAMILY_TABLES.items():
        for spec in _symbol_keys(tables):
            yield spec, family
    for spec in (SILVER_FUNDING, SILVER_OPEN_INTEREST, SILVER_MARK_PRICE, SILVER_LIQUIDATIONS):
        yield spec, Family.FUTURES
    catalog = get_catalog(settings)
    for spec in MARTS:
        if catalog.table_exists(spec.identifier):
            yield spec, family_of_marts


def _symbol_keys(tables: FamilyTables) -> tuple[TableSpec, ...]:
    return tables.klines, tables.bars, tables.kline_differences, tables.daily


def fill_exchange(settings: Settings, spec: TableSpec, family: Family) -> None:
    """Set `exchange` where it is null, to that of the symbol's venue in the family.

    Memory holds one file's rows. Blocks; raises the catalog's errors.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    is_finished, files_done = False, 0
    while not is_finished:
        for attempt in commit_attempts(CommitFailedException, ValidationException):
            with attempt:
                table = load_table(settings, spec)
                tasks = list(table.scan(row_filter=is_null("exchange")).plan_files())
                chosen = sorted(tasks, key=lambda task: task.file.file_path)[:FILES_PER_COMMIT]
                if chosen:
                    written = list(chain.from_iterable(_filled(table, chosen, family)))
                    swap_files(table, [task.file for task in chosen], written, _properties(table))
        files_done += len(chosen)
        is_finished = len(chosen) == len(tasks)
        if chosen:
            expire_snapshots(table)
            log.info(
                "exchange_filled", table=spec.full_name, files=files_done, files_remaining=len(tasks) - len(chosen)
            )


def _filled(table: Table, tasks: Sequence[FileScanTask], family: Family) -> Iterator[Iterable[DataFile]]:
    """Yield the data files that replace each file."""
    for task in tasks:
        yield data_files(table, _with_exchange(read_files(table, table.scan(), [task]), family))


def _with_exchange(rows: pa.Table, family: Family) -> pa.Table:
    """Return the rows with `exchange`, sorted by it; rows of one exchange keep their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    symbols = rows["symbol"].combine_chunks().dictionary_encode()
    venues = pa.array([venue_of(symbol, family).exchange for symbol in symbols.dictionary.to_pylist()], pa.string())
    found = pc.coalesce(rows["exchange"], venues.take(symbols.indices).cast(rows["exchange"].type))
    rows = rows.set_column(rows.column_names.index("exchange"), rows.schema.field("exchange"), found)
    return rows if len(pc.unique(found)) == 1 else rows.take(pc.sort_indices(found))


def _properties(table: Table) -> dict[str, str]:
    """Return the project's properties of the current snapshot."""
    snapshot = table.current_snapshot()
    summary = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    return {name: value for name, value in summary.items() if name.startswith(PROPERTY_PREFIX)}
