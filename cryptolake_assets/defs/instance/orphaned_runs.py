"""Cancellation of orphaned runs: runs in progress without a process, which would hold their pools forever.

A run's process is a child of its code server but survives if only the server is killed, and finishes its work. A run
that ends by a power failure, or with its container, reports nothing. Neither does a run whose process ends after its
code server was replaced, nor one whose launch the killed daemon did not finish: Dagster reports only the processes that
a server has started itself, and gives up a launch after three minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator

import dagster as dg
import psutil
import structlog
from filelock import FileLock, Timeout

from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

CHECK_S = 10.0
_IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def local_run_lock(settings: Settings) -> FileLock:
    """Return the lock that `cryptolake materialize` holds during a run in its own process."""
    return FileLock(settings.run_dir / "materialize.lock")


def cancel_orphaned_runs(settings: Settings, instance: dg.DagsterInstance, location_name: str) -> None:
    """Mark the orphaned runs of a code location, and those started outside all locations, as canceled.

    Do nothing while `cryptolake materialize` runs: the run in progress may be its own.
    """
    try:
        with local_run_lock(settings).acquire(timeout=0):
            _cancel_orphaned_runs(instance, location_name)
    except Timeout:
        return


def watch_orphaned_runs(settings: Settings, location_name: str) -> None:
    """Cancel orphaned runs of a code location for as long as this process, its code server, runs; do not block."""

    def watch() -> None:
        suspects: frozenset[str] = frozenset()
        with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            while True:
                time.sleep(CHECK_S)
                try:
                    suspects = cancel_lost_runs(instance, location_name, suspects)
                except Exception as error:  # such as a locked database: the next check is soon
                    log.warning("orphaned_runs_unchecked", location=location_name, error=repr(error)[:300])

    threading.Thread(target=watch, name="orphaned-runs", daemon=True).start()


def cancel_lost_runs(instance: dg.DagsterInstance, location_name: str, suspects: Collection[str]) -> frozenset[str]:
    """Cancel the location's runs that have no process now and had none at the last check; return the new suspects.

    `suspects` are the ids that the last check returned. Waits for a run that this process is starting.
    """
    runs = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=_IN_PROGRESS))
        if run.remote_job_origin is not None and run.remote_job_origin.location_name == location_name
    ]
    if not runs:
        return frozenset()
    processes = {run.run_id: list(_reported_processes(instance, run)) for run in runs}
    is_starting_one = _has_child_besides({pid for found in processes.values() for pid, _ in found})
    lost = {
        run.run_id: run
        for run in runs
        if not any(_is_alive(pid, at_s) for pid, at_s in processes[run.run_id])
        and (processes[run.run_id] or not is_starting_one)
    }
    for run_id in lost.keys() & set(suspects):
        instance.report_run_canceled(lost[run_id], message="The process of this run no longer exists.")
        log.info("orphaned_run_canceled", run_id=run_id, job=lost[run_id].job_name)
    return frozenset(lost.keys() - set(suspects))


def _has_child_besides(pids: Collection[int]) -> bool:
    """Return whether this process has a child that no run has reported yet: a run is starting."""
    for child in psutil.Process().children():
        try:
            if child.pid not in pids and not any("resource_tracker" in word for word in child.cmdline()):
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def _cancel_orphaned_runs(instance: dg.DagsterInstance, location_name: str) -> None:
    for run in instance.get_runs(dg.RunsFilter(statuses=_IN_PROGRESS)):
        origin = run.remote_job_origin
        if (origin is None or origin.location_name == location_name) and not _has_live_process(instance, run):
            instance.report_run_canceled(run, message="The process of this run no longer exists.")
            log.info("orphaned_run_canceled", run_id=run.run_id, job=run.job_name)


def _has_live_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    return any(_is_alive(pid, at_s) for pid, at_s in _reported_processes(instance, run))


def _reported_processes(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[tuple[int, float]]:
    """Yield the pids in the run's events, each with the time of its event (epoch seconds)."""
    for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        event = record.event_log_entry.dagster_event
        if event is not None and "pid" in (metadata := event.engine_event_data.metadata):
            yield int(str(metadata["pid"].value)), record.event_log_entry.timestamp


def _is_alive(pid: int, at_s: float) -> bool:
    """Return whether the process that had this pid at `at_s` still runs; the pid may have been reused since."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= at_s and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
