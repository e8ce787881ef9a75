"""Faults of the storage: a locked catalog, a full disk, and a data file that cannot be read for a while."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.platform.parts import BRONZE, PRODUCER
from reliability.drills.actions import Action, Parameters, Probe
from reliability.drills.drilled_platform import CATALOG, DrilledPlatform
from reliability.drills.process_faults import GRAPH_CODE, WITH_RUNS
from reliability.drills.small_disk import OWN_DISK, filled

LOCK_WAIT_S: Final = 60.0
WRITERS: Final = frozenset({PRODUCER, BRONZE, *WITH_RUNS})
TABLES: Final[dict[str, TableSpec]] = {"bronze": FUTURES.trades, "silver": FUTURES.bars, "coverage": OPS_COVERAGE}
DAMAGES: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "missing": lambda _: None,
    "truncated": lambda data: data[: len(data) // 2],
    "garbled": lambda data: random.Random(len(data)).randbytes(len(data)),
}


@contextmanager
def catalog_locked(platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    """Hold the exclusive lock of the SQLite catalog until the fault ends."""
    with closing(sqlite3.connect(platform.settings.catalog_db, LOCK_WAIT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@contextmanager
def disk_full(platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    """Leave no space on the disk of the home until the fault ends."""
    with filled(platform.settings.home):
        yield


@contextmanager
def file_unreadable(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Damage a data file of a table, one of its newest, until the fault ends; do nothing without a file."""
    table = load_table(platform.settings, TABLES[str(parameters["part"])])
    paths = [Path(local_path(task.file.file_path)) for task in table.scan().plan_files()]
    newest = sorted(paths, key=lambda path: path.stat().st_mtime)[-int(parameters["newest"]) :]
    if not newest:
        yield
        return
    path = newest[0]
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    damaged = DAMAGES[str(parameters["damage"])](kept.read_bytes())
    if damaged is not None:
        path.write_bytes(damaged)
    try:
        yield
    finally:
        kept.replace(path)


def all_work(platform: DrilledPlatform, _parameters: Parameters) -> Probe:
    """Return a probe: a trade emitted from now on is in Bronze, and a Silver run created from now on has succeeded."""
    stored, refreshed = platform.stored_after_now(BRONZE), platform.refreshed_after_now(GRAPH_CODE)
    return lambda: stored() and refreshed()


def _drawn_damage(draw: random.Random) -> Parameters:
    return {"damage": draw.choice(sorted(DAMAGES)), "newest": draw.randint(1, 5)}


ACTIONS: Final = (
    Action(
        name="catalog_locked",
        fault=catalog_locked,
        probe=all_work,
        lasts_s=(5.0, 300.0),
        needs=frozenset({*WRITERS, CATALOG}),
        withholds=frozenset({CATALOG}),
    ),
    Action(
        name="disk_full",
        fault=disk_full,
        probe=all_work,
        lasts_s=(30.0, 120.0),
        needs=frozenset({*WRITERS, OWN_DISK}),
        withholds=frozenset({OWN_DISK}),
    ),
    Action(
        name="file_unreadable",
        fault=file_unreadable,
        probe=all_work,
        parts=tuple(TABLES),
        draw=_drawn_damage,
        lasts_s=(5.0, 60.0),
        needs=WRITERS,
    ),
)
