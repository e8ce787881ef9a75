"""Migration of a lake of an earlier release, interleaved with a stream, maintenance and readers of the old tables.

The lake is that of the tests (schema 0, made by an earlier release) with some more days of bars and more coverage. Two
processes migrate it at once. The stream appends with the schema that its table has. In the end every old row is there,
once, with nothing changed but the new columns.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.bronze.offsets import query_of
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.migrations import MIGRATIONS, lake_schema
from cryptolake_assets.lake.stream_checkpoints import checkpoint
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family, venue_of
from cryptolake_assets.model.ops_tables import OPS_COVERAGE, OPS_RUN_METRICS
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.lakes import append_old, open_old
from reliability.interleaving.readers import Judge, queried, scanned
from reliability.interleaving.scheduler import Violation
from reliability.interleaving.states import Row, States, counted, difference
from reliability.interleaving.writers import Outlived, World, outliving

OLD_TABLES: Final = (FUTURES.trades, FUTURES.bars, FUTURES.daily, FUTURES.quarantine, OPS_COVERAGE, OPS_RUN_METRICS)
READ: Final = (FUTURES.bars, FUTURES.daily, OPS_COVERAGE, OPS_RUN_METRICS)
NEW_COLUMNS: Final = ("exchange", "stream")  # of bars and daily stats
DAYS: Final = 3
FIRST: Final = datetime(2024, 7, 20, tzinfo=UTC)


def make_old(home: Path) -> Settings:
    """Unpack the old lake, and append old bars and coverage as its release did."""
    settings = open_old("usdm", home, log_level="ERROR")
    # The stand-in of the stream begins a query of its own.
    shutil.rmtree(local_path(checkpoint(settings, query_of(TRADES))))
    for day in range(DAYS):
        bars = [
            {
                "symbol": symbol,
                "window_start": FIRST + timedelta(days=day, minutes=minute),
                "open": Decimal("1.5"),
                "trades": minute,
                "updated_at": FIRST,
            }
            for symbol in ("BTCUSDT", "BTCUSD_PERP")
            for minute in range(3)
        ]
        append_old(settings, FUTURES.bars, bars, {"cryptolake.bronze-sequence": "7"})
        coverage = [
            {
                "exchange": "binance_futures",
                "symbol": "BTCUSDT",
                "stream": "trade",
                "connected_from": FIRST + timedelta(hours=day),
                "connected_to": FIRST + timedelta(hours=day, minutes=70),
                "source": "ws://old",
                "kafka_partition": 0,
                "kafka_offset": 10 + day,
                "updated_at": FIRST,
            }
        ]
        append_old(settings, OPS_COVERAGE, coverage, {})
    return settings


def migrate(world: World) -> None:
    """`cryptolake bootstrap`: again after a kill, or after an error of its catalog."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    scheduler = world.scheduler
    for _ in range(20):
        with suppress(CommitFailedException, ValidationException, Outlived), outliving(scheduler):
            actions = bootstrap(world.settings)
            scheduler.states["migration_applied"] += any(action.startswith("applied") for action in actions)
            return
        scheduler.states["migration_failed"] += 1
        scheduler.sleep(10.0)
    scheduler.fail("the migration failed 20 times")


def read_old(world: World, judge: Judge) -> None:
    """Scans and SQL on tables that are migrated meanwhile."""
    scheduler = world.scheduler
    while not scheduler.writers_ended:
        spec = scheduler.random.choice(READ)
        if scheduler.random.random() < 0.5:
            table = load_table(world.settings, spec)
            pinned = table.metadata.current_snapshot_id
            judge.judge(spec, partial(scanned, table), pinned)
        else:
            judge.judge(spec, partial(queried, world, spec))
        scheduler.sleep(scheduler.random.uniform(0, 40))


class MigrationOracle:
    """Judges the end of a migration by the rows before it."""

    def __init__(self, world: World, states: States) -> None:
        self._world, self._states = world, states
        self._before = {self._name(spec): states.tables[self._name(spec)].head for spec in OLD_TABLES}

    @staticmethod
    def _name(spec: TableSpec) -> str:
        return ".".join(spec.identifier)

    def judge_end(self) -> None:
        """Check the migrated lake. Raises `Violation`."""
        schema = lake_schema(self._world.settings)
        if schema is None or schema.pending or schema.number != MIGRATIONS[-1].number:
            raise Violation(f"the lake has {schema}")
        for spec in TABLES:
            names = tuple(get_catalog(self._world.settings).load_table(spec.identifier).schema().column_names)
            if set(spec.column_names) - set(names):
                raise Violation(f"{spec.full_name} lacks {set(spec.column_names) - set(names)}")
        for spec in (FUTURES.bars, FUTURES.daily):
            self._judge_keys(spec)
        for spec in (FUTURES.quarantine, OPS_RUN_METRICS):
            before, after = self._before[self._name(spec)].counted, self._head(spec)
            if before != counted(after):
                raise Violation(f"{spec.full_name} has changed: {difference(before, counted(after))}")
        self._judge_bronze()
        self._judge_coverage()

    def _head(self, spec: TableSpec) -> Sequence[Row]:
        return self._states.tables[self._name(spec)].head.rows

    def _judge_keys(self, spec: TableSpec) -> None:
        rows = self._head(spec)
        wrong = [row for row in rows if row.get("exchange") != venue_of(row["symbol"], Family.FUTURES).exchange]
        if wrong:
            raise Violation(f"{spec.full_name}: {len(wrong)} rows lack their exchange, such as {wrong[0]}")
        old = [{name: value for name, value in row.items() if name not in NEW_COLUMNS} for row in rows]
        before = self._before[self._name(spec)].counted
        if counted(old) != before:
            raise Violation(f"{spec.full_name}: {difference(before, counted(old))}")

    def _judge_bronze(self) -> None:
        before = Counter(self._before[self._name(FUTURES.trades)].counted)
        added = counted(self._head(FUTURES.trades)) - before
        sent = Counter((row["kafka_partition"], row["kafka_offset"], row["trade_id"]) for row in self._world.in_kafka)
        found: Counter[tuple[Any, ...]] = Counter()
        for values, number in added.items():
            row = dict(values)
            found[row["kafka_partition"], row["kafka_offset"], row["trade_id"]] += number
        if found != sent or before - counted(self._head(FUTURES.trades)):
            raise Violation(f"Bronze lacks {sorted(sent - found)[:5]}, has too many of {sorted(found - sent)[:5]}")

    def _judge_coverage(self) -> None:
        """Every covered moment is still covered: a union may join rows."""
        rows = self._head(OPS_COVERAGE)
        for old in self._before[self._name(OPS_COVERAGE)].rows:
            reached = old["connected_from"]
            for row in sorted(rows, key=lambda row: row["connected_from"]):
                if row["symbol"] == old["symbol"] and row["connected_from"] <= reached:
                    reached = max(reached, row["connected_to"])
            if reached < old["connected_to"]:
                raise Violation(f"coverage is lost from {reached} on: {old}")
