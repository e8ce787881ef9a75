"""The writers of one seed: each plays one process of the platform with the product's own functions.

Each continues from what is stored in the lake and its home, because it may be killed at any point and start again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.errors import MaintenanceInUseError, SnapshotExpiredError, SparkError
from cryptolake_assets.ingest.archive_days import Outcome, load_day
from cryptolake_assets.lake import files
from cryptolake_assets.lake.bronze_follower import FollowerState, RunState, SilverRequest
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.gap_ledger import IcebergGapSink
from cryptolake_assets.lake.maintenance.crowded import crowded_files
from cryptolake_assets.lake.maintenance.tasks import StreamPosition, Task, maintain
from cryptolake_assets.lake.retries import COMMIT_ATTEMPTS
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.follow_bronze import StoredLake, mark_touched_hours
from cryptolake_assets.transform.silver_run import run_silver
from cryptolake_tests.support.reference import Trade
from reliability.interleaving.scheduler import Scheduler
from reliability.interleaving.spark import QUERY, Offsets, Sink
from reliability.interleaving.workload import Issue, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 3 * COMMIT_ATTEMPTS
TASKS: Final = (*Task, Task.SNAPSHOTS)  # expiry twice as often as the others
READABLE_S: Final = 75.0  # shortest retention of a replaced snapshot in a seed's lake


@dataclass
class World:
    """One seed's lake, its outside (Kafka, archive, Dagster), and its scheduler."""

    settings: Settings
    scheduler: Scheduler
    work: Workload
    in_kafka: list[Trade] = field(default_factory=list)
    chunks_sent: int = 0
    chunks_claimed: int = 0
    published: list[Issue] = field(default_factory=list)  # archive files, the newest issue of a file last
    cursor: str | None = None
    runs: dict[str, tuple[SilverRequest, RunState]] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)  # requests whose run has started

    @property
    def ends(self) -> Offsets:
        """The next offset of each Kafka partition."""
        found: Offsets = {}
        for record in self.in_kafka:
            found[record["kafka_partition"]] = record["kafka_offset"] + 1
        return found

    @property
    def all_claimed(self) -> bool:
        return self.chunks_claimed == len(self.work.chunks)


def produce(world: World) -> None:
    """The producer: send a chunk to Kafka, then record its gaps, then claim its coverage."""
    settings, scheduler = world.settings, world.scheduler
    gaps, coverage = IcebergGapSink(settings), IcebergCoverageSink(settings)
    while not world.all_claimed:
        chunk = world.work.chunks[world.chunks_claimed]
        if world.chunks_sent == world.chunks_claimed:
            for record in chunk.records:
                world.in_kafka.append(record)
            world.chunks_sent += 1
            scheduler.point("sent a chunk")
        _until_written(scheduler, partial(gaps.write, chunk.gaps))
        _until_written(scheduler, partial(coverage.write, chunk.claims))
        world.chunks_claimed += 1
        scheduler.sleep(scheduler.random.uniform(0, 5))


def send(world: World) -> None:
    """The producer without its ledgers, which have no rows of an old lake's release."""
    while not world.all_claimed:
        world.in_kafka.extend(world.work.chunks[world.chunks_claimed].records)
        world.chunks_claimed += 1
        world.scheduler.sleep(world.scheduler.random.uniform(0, 30))


def _until_written(scheduler: Scheduler, write: Callable[[], None]) -> None:
    """Write again after a lost race, as the producer's loops do."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    for _ in range(ROUNDS):
        with suppress(CommitFailedException, ValidationException, Outlived), outliving(scheduler):
            write()
            return
        scheduler.states["producer_write_retried"] += 1
        scheduler.sleep(1.0)
    scheduler.fail(f"the producer's write lost {ROUNDS} races")


class Outlived(Exception):
    """A snapshot expired during the work, which took longer than its retention. The work is done again."""


@contextmanager
def outliving(scheduler: Scheduler) -> Iterator[None]:
    """Turn the error of a missing file into `Outlived`, if the work has taken longer than the shortest retention."""
    import duckdb

    began = scheduler.now
    try:
        yield
    except (FileNotFoundError, SnapshotExpiredError, duckdb.IOException) as error:
        if scheduler.now - began < READABLE_S:
            raise
        scheduler.states["snapshot_outlived"] += 1
        raise Outlived from error


def stream(world: World) -> None:
    """Spark's streaming query: append micro-batches of what Kafka has, until all is claimed and appended."""
    scheduler, sink = world.scheduler, Sink(world.settings, world.scheduler)

    def records(begin: Offsets, end: Offsets) -> list[Trade]:
        return [
            record
            for record in world.in_kafka
            if begin.get(record["kafka_partition"], 0) <= record["kafka_offset"] < end.get(record["kafka_partition"], 0)
        ]

    while True:
        begin, ends = sink.offsets(), world.ends
        if begin == ends and world.all_claimed:
            return
        if begin == ends:
            scheduler.sleep(2.0)
            continue
        most = scheduler.random.randrange(8, 40)
        sink.run_batch(records, {number: min(end, begin.get(number, 0) + most) for number, end in ends.items()})
        scheduler.sleep(scheduler.random.uniform(0, 3))


class FilesOfArchive:
    """The archive: serves the newest published issue of a file."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _issue(self, file: ArchiveFile) -> Issue:
        return [issue for issue in self._world.published if issue.file == file][-1]

    def url(self, file: ArchiveFile) -> str:
        return f"https://archive{file.path}"

    def checksum(self, file: ArchiveFile) -> str:
        return self._issue(file).sha256

    def fetch(self, file: ArchiveFile, sha256: str, directory: Path, _progress: object = None) -> Path:
        issue = next(issue for issue in self._world.published if issue.sha256 == sha256)
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / file.name
        target.write_bytes(issue.path.read_bytes())
        return target


def load_archive(world: World) -> None:
    """The archive's loader: load each file after its publication, and again after a new issue."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    scheduler = world.scheduler
    client = cast(ArchiveClient, FilesOfArchive(world))
    done = 0
    while done < len(world.work.issues):
        if done == len(world.published):
            world.published.append(world.work.issues[done])
        try:
            with outliving(scheduler):
                loaded = load_day(world.settings, client, world.work.issues[done].file, f"load {done}")
        except (CommitFailedException, ValidationException, Outlived):
            scheduler.states["archive_load_failed"] += 1  # its Dagster run fails, and is launched again
            scheduler.sleep(30.0)
            continue
        scheduler.states[f"archive_{loaded.outcome.value}"] += 1
        if loaded.outcome is Outcome.REJECTED:
            scheduler.fail(f"archive file rejected: {loaded.outcomes}")
        done += 1
        scheduler.sleep(scheduler.random.uniform(0, 60))


def maintenance(world: World) -> None:
    """Maintenance: its tasks in a random order, until the other writers have nothing left to bring."""
    from pyiceberg.exceptions import CommitFailedException

    scheduler = world.scheduler
    for _ in range(scheduler.random.randrange(5, 9)):
        task = scheduler.random.choice(TASKS)
        try:
            with outliving(scheduler):
                report = maintain(world.settings, task, StreamPosition(world.work.clock, frozenset({QUERY})))
        except MaintenanceInUseError:
            scheduler.states["maintenance_in_use"] += 1
        except (CommitFailedException, SparkError, Outlived):
            scheduler.states["maintenance_failed"] += 1  # all attempts lost their race
        else:
            scheduler.states[f"{task.value}_changed"] += bool(report.changed)
        scheduler.sleep(scheduler.random.uniform(0, 90))


def count_small_files(world: World) -> None:
    """The check of small files, which runs outside maintenance."""
    for _ in range(3):
        for spec in (FUTURES.trades, FUTURES.quarantine):
            with suppress(Outlived), outliving(world.scheduler):
                crowded_files(world.settings, load_table(world.settings, spec))
        world.scheduler.sleep(world.scheduler.random.uniform(0, 60))


def follow(world: World) -> None:
    """The sensor: `defs.follower.tick` without Dagster, whose cursor and requested runs outlive a kill."""
    StoredLake._memories.clear()  # of this process
    while True:
        is_last = not world.scheduler.is_alive("producer", "stream", "archive")
        try:
            with outliving(world.scheduler):
                tick(world)
        except Outlived:
            continue
        state = FollowerState.from_cursor(world.cursor)
        if is_last and state is not None and not state.pending and not state.look_again:
            return
        world.scheduler.sleep(world.scheduler.random.uniform(5, 40))


def tick(world: World) -> None:
    settings, scheduler = world.settings, world.scheduler
    table = load_table(settings, FUTURES.trades)
    copy = TRADES.follower_location(settings)
    state = FollowerState.restored(
        world.cursor, lambda: files.read_text(settings, copy), str(table.metadata.table_uuid)
    )
    mark_touched_hours(StoredLake(settings, table), state, TRADES.capabilities)
    known = world.runs
    state.settle(lambda request: known[request][1] if request in known else RunState.FAILED, scheduler.now)
    busy = {hour for request, run in known.values() if run is RunState.IN_FLIGHT for hour in request.hours}
    requests = state.due_requests(lambda hour: hour in busy, scheduler.now, 24, 20.0, 24)
    state.reports(scheduler.now, 100, 20.0)
    files.write_text(settings, copy, state.to_cursor())
    # Dagster launches the runs and then stores the cursor; the keys of the runs make both one step.
    for request in requests:
        world.runs[request.request] = request, RunState.IN_FLIGHT
    world.cursor = state.to_cursor()
    scheduler.states["silver_requested"] += len(requests)


def run_requests(world: World) -> None:
    """Dagster's worker of the pool of Silver: one run at a time. A killed run has failed."""
    scheduler = world.scheduler
    for name, (request, state) in world.runs.items():
        if state is RunState.IN_FLIGHT and name in world.started:
            world.runs[name] = request, RunState.FAILED
    while True:
        waiting = [name for name, (_, state) in world.runs.items() if state is RunState.IN_FLIGHT]
        if waiting:
            request, _ = world.runs[waiting[0]]
            world.started.add(waiting[0])
            world.runs[waiting[0]] = request, _run(world, request)
        elif scheduler.is_alive("sensor"):
            scheduler.sleep(2.0)
        else:
            return


def _run(world: World, request: SilverRequest) -> RunState:
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    try:
        with outliving(world.scheduler):
            passed = refresh(world.settings, request.hours, request.from_sequence or None, request.request)
    except (CommitFailedException, ValidationException, Outlived) as error:
        world.scheduler.log.append(f"{world.scheduler.steps} run of Silver failed: {error}")
        world.scheduler.states["silver_run_failed"] += 1
        return RunState.FAILED
    if not passed:
        world.scheduler.fail("a candidate was rejected")
    return RunState.SUCCEEDED


def refresh(settings: Settings, hours: Sequence[datetime], from_sequence: int | None, run_id: str) -> bool:
    """Run Silver for the hours; return whether all candidates passed."""
    days = run_silver(settings, DuckDBEngine(settings), list(hours), run_id, from_sequence=from_sequence)
    return all(candidate.passed for day in days for candidate in day.candidates)
