"""Cancellation of orphaned runs before a code server serves, and while it does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from cryptolake_assets.defs.instance.orphaned_runs import (
    cancel_lost_runs,
    cancel_orphaned_runs,
    local_run_lock,
)
from cryptolake_assets.settings import Settings, load_settings

LOCATION = "cryptolake"
CANCELED, STARTED = dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.STARTED


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = load_settings(home=tmp_path)
    made.run_dir.mkdir(parents=True)
    return made


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as one:
        yield one


def started_run(instance: dg.DagsterInstance, *pids: int, location: str | None = LOCATION) -> str:
    """Create a run in progress whose processes reported these pids; return its id."""
    origin = location and RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__"), "a_job"
    )
    run: dg.DagsterRun = create_run_for_test(instance, "a_job", status=STARTED, remote_job_origin=origin or None)
    instance.report_engine_event("Enqueued.", run)
    for pid in pids:
        instance.report_engine_event("Started process for run.", run, EngineEventData.in_process(pid))
    return run.run_id


def status_after_start(settings: Settings, instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    cancel_orphaned_runs(settings, instance, LOCATION)
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


@pytest.fixture
def ended_pid() -> int:
    """Return the pid of an ended process."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_run_with_an_ended_process_is_canceled(
    settings: Settings, instance: dg.DagsterInstance, ended_pid: int
) -> None:
    assert status_after_start(settings, instance, started_run(instance, ended_pid)) is CANCELED


def test_run_without_a_reported_process_is_canceled(settings: Settings, instance: dg.DagsterInstance) -> None:
    assert status_after_start(settings, instance, started_run(instance)) is CANCELED


def test_run_that_outlives_its_code_server_continues(
    settings: Settings, instance: dg.DagsterInstance, ended_pid: int
) -> None:
    assert status_after_start(settings, instance, started_run(instance, os.getpid(), ended_pid)) is STARTED


def test_run_with_a_reused_pid_is_canceled(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday_s = time.time() - 86_400
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: yesterday_s)
        run_id = started_run(instance, os.getpid())
    assert status_after_start(settings, instance, run_id) is CANCELED


def test_run_of_a_zombie_process_is_canceled(settings: Settings, instance: dg.DagsterInstance) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert status_after_start(settings, instance, started_run(instance, process.pid)) is CANCELED
    process.wait()


def test_run_of_another_code_location_continues(settings: Settings, instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance, location="cryptolake_marts")
    assert status_after_start(settings, instance, run_id) is STARTED


def test_run_without_location_is_canceled_unless_materialize_runs(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    run_id = started_run(instance, location=None)
    with local_run_lock(settings):
        assert status_after_start(settings, instance, run_id) is STARTED
    assert status_after_start(settings, instance, run_id) is CANCELED


def checked(instance: dg.DagsterInstance, run_id: str, times: int) -> dg.DagsterRunStatus:
    """Check the running code server's runs this many times; return the run's status."""
    suspects: frozenset[str] = frozenset()
    for _ in range(times):
        suspects = cancel_lost_runs(instance, LOCATION, suspects)
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


def test_run_that_loses_its_process_after_its_server_is_canceled(instance: dg.DagsterInstance, ended_pid: int) -> None:
    run_id = started_run(instance, ended_pid)
    assert checked(instance, run_id, 1) is STARTED, "the server that started it may be about to report its end"
    assert checked(instance, run_id, 2) is CANCELED


def test_run_whose_launch_was_interrupted_is_canceled(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance)
    assert checked(instance, run_id, 1) is STARTED
    assert checked(instance, run_id, 2) is CANCELED


def test_run_whose_process_is_starting_continues(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as starting:
        assert checked(instance, run_id, 3) is STARTED
        started_run(instance, starting.pid)
        assert checked(instance, run_id, 2) is CANCELED, "the process is that of another run"
        starting.communicate(b"\n")


def test_living_runs_and_those_of_other_locations_are_not_canceled(instance: dg.DagsterInstance) -> None:
    for run_id in (started_run(instance, os.getpid()), *(started_run(instance, location=name) for name in (None, "b"))):
        assert checked(instance, run_id, 3) is STARTED
