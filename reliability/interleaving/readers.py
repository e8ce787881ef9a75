"""The readers of one seed: each result must be one committed state that was current during the read.

A snapshot must be readable for its retention after it was replaced. Later a reader may get an error, never other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.api.page_reader import Reader
from cryptolake_assets.errors import QueryError, SnapshotExpiredError, TableUnreadableError
from cryptolake_assets.lake.bronze_files import files_between, scan_trades
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import all_of
from cryptolake_assets.lake.pages import PageQuery, read_page
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.ops_tables import OPS_COVERAGE, OPS_RUN_METRICS
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES
from reliability.interleaving.states import Row, State, States, counted, difference
from reliability.interleaving.writers import World

if TYPE_CHECKING:
    from pyiceberg.table import Table

READ: Final = (FUTURES.trades, FUTURES.bars, OPS_COVERAGE, FUTURES.quarantine)


class Judge:
    """Compares what readers got with the committed states."""

    def __init__(self, world: World, states: States, retention_s: Mapping[str, float]) -> None:
        self._world, self._states, self._retention_s = world, states, retention_s
        self.reads = 0

    def judge(self, spec: TableSpec, read: Callable[[], Sequence[dict[str, Any]]], pinned: int | None = -1) -> None:
        """Read rows of the table, and judge them; `pinned` is the snapshot to read, if it is known."""
        import duckdb

        scheduler, name = self._world.scheduler, ".".join(spec.identifier)
        table, first = self._states.tables[name], scheduler.steps
        try:
            rows = read()
        except (FileNotFoundError, SnapshotExpiredError, TableUnreadableError, QueryError, duckdb.IOException) as error:
            candidates = table.between(first, scheduler.steps) if pinned == -1 else [table.by_id[pinned]]
            if all(self._is_readable(name, state) for state in candidates):
                scheduler.fail(f"cannot read {name} within its retention: {type(error).__name__}: {error}")
            scheduler.states["read_expired"] += 1
            return
        self.reads += 1
        candidates = table.between(first, scheduler.steps) if pinned == -1 else [table.by_id[pinned]]
        found = counted(rows)
        if not any(found == state.counted for state in candidates):
            least = min((difference(state.counted, found) for state in candidates), key=len)
            scheduler.fail(f"a reader of {name} got no committed state: {least}")
        if pinned != -1 and table.head.snapshot_id != pinned:
            scheduler.states["read_replaced_snapshot"] += 1

    def _is_readable(self, name: str, state: State) -> bool:
        replaced_ms = self._states.tables[name].replaced_ms.get(state.snapshot_id)
        return replaced_ms is None or self._world.scheduler.now < replaced_ms / 1_000 + self._retention_s[name]


def scanned(table: Table) -> list[Row]:
    """Return the rows of the table's state by a scan."""
    rows: list[Row] = table.scan().to_arrow().to_pylist()
    return rows


def queried(world: World, spec: TableSpec) -> list[Row]:
    """Return the current rows of the table by SQL."""
    rows: list[Row] = run_sql(world.settings, f"SELECT * FROM {spec.full_name}").to_pylist()
    return rows


def scan(world: World, judge: Judge) -> None:
    """PyIceberg scans of the current snapshot."""
    while not world.scheduler.writers_ended:
        spec = world.scheduler.random.choice(READ)
        table = load_table(world.settings, spec)
        pinned = table.metadata.current_snapshot_id
        world.scheduler.point("pinned a snapshot")
        judge.judge(spec, partial(scanned, table), pinned)
        world.scheduler.sleep(world.scheduler.random.uniform(0, 60))


def scan_files(world: World, judge: Judge) -> None:
    """DuckDB on the planned files of a pinned snapshot of Bronze, as the Silver run reads them."""
    while not world.scheduler.writers_ended:
        table = load_table(world.settings, FUTURES.trades)
        pinned = table.metadata.current_snapshot_id

        def read(table: Any = table, pinned: int | None = pinned) -> list[dict[str, Any]]:
            if pinned is None:
                return []
            files = files_between(table, pinned, world.work.begin, world.work.end)
            with open_duckdb() as duck:
                if not files:
                    return []
                columns = ", ".join(FUTURES.trades.column_names)
                return list(duck.sql(f"SELECT {columns} FROM {scan_trades(duck, files)}").to_arrow_table().to_pylist())

        judge.judge(FUTURES.trades, read, pinned)
        world.scheduler.sleep(world.scheduler.random.uniform(0, 60))


def query(world: World, judge: Judge) -> None:
    """Users' SQL on the current state."""
    while not world.scheduler.writers_ended:
        spec = world.scheduler.random.choice(READ)
        judge.judge(spec, partial(queried, world, spec))
        world.scheduler.sleep(world.scheduler.random.uniform(0, 60))


def pages(world: World, judge: Judge) -> None:
    """The API: pages of bars from the table cache, all of one snapshot."""
    reader, scheduler, spec = Reader(world.settings), world.scheduler, FUTURES.bars
    reader.table_cache.refresh()
    while not scheduler.writers_ended:
        if scheduler.random.random() < 0.6:
            reader.table_cache.refresh()
        table = reader._read(lambda: reader.table_cache.table(spec.identifier))
        pinned = table.metadata.current_snapshot_id
        limit = scheduler.random.choice((None, 25))

        def read(table: Any = table, pinned: int | None = pinned, limit: int | None = limit) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = []
            after: tuple[Any, ...] = ()
            key = ("window_start", "exchange", "symbol")
            while True:
                page_query = PageQuery(key, all_of(), spec.column_names, after, limit)
                page = read_page(table, pinned, page_query, 1 << 30)
                found = page.rows.to_pylist()
                rows += found
                if not page.more:
                    return rows
                after = tuple(found[-1][name] for name in key)
                scheduler.point("next page")

        judge.judge(spec, read, pinned)
        scheduler.sleep(scheduler.random.uniform(0, 60))


def retentions(snapshot_retention_s: float, readable_s: float) -> dict[str, float]:
    """Return the seconds that a replaced snapshot stays readable, by table."""
    by_maintenance = {".".join(spec.identifier): snapshot_retention_s for spec in TABLES}
    rewritten = {".".join(spec.identifier): readable_s for spec in TABLES if spec.rewritten or spec is OPS_RUN_METRICS}
    return {**by_maintenance, **rewritten}
