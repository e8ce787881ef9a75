"""Run one seed: a fresh lake, its actors, and the oracle."""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import structlog

from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.ops_tables import OPS_COVERAGE, OPS_RUN_METRICS
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.lakes import make_empty
from reliability.interleaving import migrating, readers, workload, writers
from reliability.interleaving.oracle import Oracle
from reliability.interleaving.points import installed
from reliability.interleaving.scheduler import Scheduler
from reliability.interleaving.spark import StandInSession
from reliability.interleaving.speed import cached
from reliability.interleaving.states import States
from reliability.interleaving.writers import READABLE_S, World

IN_PLAY: Final = (
    FUTURES.trades,
    FUTURES.rejected,
    FUTURES.gaps,
    FUTURES.bars,
    FUTURES.quarantine,
    OPS_COVERAGE,
    OPS_RUN_METRICS,
)
MIGRATION_EVERY: Final = 5  # each fifth seed migrates an old lake
SNAPSHOT_RETENTION_S: Final = 150
ORPHAN_RETENTION_H: Final = 1 / 6
SNAPSHOTS_KEPT: Final = 3


@dataclass(frozen=True)
class Played:
    """The result of a seed; `failure` is empty if all promises were kept."""

    seed: int
    failure: str
    log: tuple[str, ...]
    states: Counter[str]
    commits: Counter[str]
    reads: int

    @property
    def steps(self) -> int:
        return len(self.log)


class Lakes:
    """A directory with a template lake, which each seed copies to the same place: its paths are in its metadata."""

    def __init__(self, directory: Path) -> None:
        self._home, self._empty, self._old = directory / "home", directory / "empty", directory / "old"
        self._scratch = directory / "scratch"
        with _silent():
            make_empty(settings := self._settings())
            _forget(settings)
            shutil.move(self._home, self._empty)
            _forget(migrating.make_old(self._home))
        shutil.move(self._home, self._old)

    def fresh(self, *, old: bool) -> tuple[Settings, Path]:
        """Return the settings of a fresh lake, and an empty directory for the outside world.

        `old`: the lake of an earlier release.
        """
        for directory in (self._home, self._scratch):
            shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self._old if old else self._empty, self._home)
        self._scratch.mkdir()
        return self._settings(), self._scratch

    def _settings(self) -> Settings:
        defaults = {name: field.default for name, field in Settings.model_fields.items()}
        own = {
            "home": self._home,
            "source": "binance",
            "trade_stream": "aggTrade",
            "symbols": workload.SYMBOLS,
            "start_date": workload.FIRST_DAY.isoformat(),
            "log_level": "ERROR",
        }
        limits = {
            "snapshot_retention_s": SNAPSHOT_RETENTION_S,
            "snapshots_kept": SNAPSHOTS_KEPT,
            "orphan_retention_h": ORPHAN_RETENTION_H,
            "compaction_min_files": 2,
            "compaction_grace_s": 0,
            "drop_ratio_limit": 1.0,
        }
        return load_settings(**{**defaults, **own}).model_copy(update=limits)


@contextmanager
def lakes() -> Iterator[Lakes]:
    with tempfile.TemporaryDirectory(prefix="cryptolake-interleaving-") as directory:
        yield Lakes(Path(directory))


def play(lakes: Lakes, seed: int) -> Played:
    """Play a seed on a fresh lake."""
    from cryptolake_assets.lake import duck

    is_migration = seed % MIGRATION_EVERY == 0
    settings, scratch = lakes.fresh(old=is_migration)
    duck._shared_database().execute("SET threads = 1")
    scheduler = Scheduler(seed)
    states = States(scheduler, ORPHAN_RETENTION_H * 3_600)
    world = World(settings, scheduler, workload.drawn(scheduler.random, scratch))
    for spec in migrating.OLD_TABLES if is_migration else IN_PLAY:
        states.adopt(".".join(spec.identifier), load_table(settings, spec))
    oracle = migrating.MigrationOracle(world, states) if is_migration else Oracle(world, states)
    judge = readers.Judge(world, states, readers.retentions(SNAPSHOT_RETENTION_S, READABLE_S))
    if is_migration:
        _cast_of_migration(world, judge)
    else:
        _cast(world, judge)
    failure = ""
    with _silent(), _limits(world, states), installed(scheduler, states), cached():
        try:
            scheduler.run()
            scheduler.states["quiet_end"] += 1
            oracle.judge_end()
        except AssertionError as error:
            failure = str(error)
    _forget(settings)
    gc.collect()
    return Played(seed, failure, tuple(scheduler.log), scheduler.states, states.commits, judge.reads)


def _cast(world: World, judge: readers.Judge) -> None:
    """Add the actors: some of them are not in every seed."""
    random = world.scheduler.random
    for name, body, chance in (
        ("producer", writers.produce, 1.0),
        ("stream", writers.stream, 1.0),
        ("archive 1", writers.load_archive, 1.0),
        ("archive 2", writers.load_archive, 0.4),
        ("maintenance 1", writers.maintenance, 1.0),
        ("maintenance 2", writers.maintenance, 0.4),
        ("check", writers.count_small_files, 0.5),
        ("sensor", writers.follow, 1.0),
        ("silver", writers.run_requests, 1.0),
    ):
        if random.random() < chance:
            world.scheduler.add(name, partial(body, world))
    for name, read in (
        ("scan", readers.scan),
        ("files", readers.scan_files),
        ("sql", readers.query),
        ("pages", readers.pages),
    ):
        if random.random() < 0.6:
            world.scheduler.add(name, partial(read, world, judge), is_writer=False)


def _cast_of_migration(world: World, judge: readers.Judge) -> None:
    for name, body in (
        ("producer", writers.send),
        ("stream", writers.stream),
        ("migration 1", migrating.migrate),
        ("migration 2", migrating.migrate),
        ("maintenance 1", writers.maintenance),
    ):
        world.scheduler.add(name, partial(body, world))
    for name in ("scan", "sql"):
        world.scheduler.add(name, partial(migrating.read_old, world, judge), is_writer=False)


@contextmanager
def _limits(world: World, states: States) -> Iterator[None]:
    """Lower the limits that only large lakes reach, and put the stand-ins in place."""
    from cryptolake_assets.binance import exchange_clock
    from cryptolake_assets.lake import commit, exchange_column, spark_session
    from cryptolake_assets.lake.maintenance import manifests, tasks

    def connect(settings: Settings) -> Any:
        return StandInSession(settings, world.scheduler, states.age_s)

    clock_ms = round(world.work.clock.timestamp() * 1_000)
    with ExitStack() as stack:
        for target, name, value in (
            (tasks, "TABLES", IN_PLAY),
            (exchange_column, "FILES_PER_COMMIT", 1),
            (tasks, "marts_tables", lambda _: ()),
            (manifests, "MANIFESTS_ENOUGH", 3),
            (spark_session, "connect", connect),
            (exchange_clock, "exchange_clock_ms", lambda _: clock_ms),
            (commit.expire_snapshots, "__defaults__", (SNAPSHOTS_KEPT, READABLE_S)),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """Show no log and no warnings of the product: lost races are what is played."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)


def _forget(settings: Settings) -> None:
    """Clear what the process keeps of a lake: another one has files of the same names."""
    from pyiceberg.manifest import clear_manifest_cache

    from cryptolake_assets.lake import catalog, coverage, duck

    get_catalog(settings).engine.dispose()  # type: ignore[attr-defined]
    catalog.forget_catalogs()
    coverage._ends_of_files.clear()
    duck._shared_database.cache_clear()
    clear_manifest_cache()
