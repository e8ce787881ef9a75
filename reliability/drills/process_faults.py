"""Faults of the platform's processes: kill (also twice, or a Dagster run), pause, a broker away for minutes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import psutil

from cryptolake_assets.platform.graphql import LOCATION, MARTS_LOCATION
from cryptolake_assets.platform.parts import API, BRONZE, CODE_SERVERS, DAGSTER_DAEMON, KAFKA, PRODUCER, SPARK
from cryptolake_assets.platform.processes import instance_processes
from cryptolake_assets.platform.supervisor import Supervisor
from reliability.drills.actions import PART, Action, Parameters, Probe
from reliability.drills.drilled_platform import DrilledPlatform

DRILLED_PARTS: Final = (PRODUCER, KAFKA, SPARK, BRONZE, DAGSTER_DAEMON, *(part.name for part in CODE_SERVERS), API)
GRAPH_CODE: Final = f"code-{LOCATION}"
WITH_RUNS: Final = (DAGSTER_DAEMON, GRAPH_CODE)  # a Silver run shows that they work
RUN_WAIT_S: Final = 60.0


def probe_of_part(platform: DrilledPlatform, parameters: Parameters) -> Probe:
    """Return the probe of the part's work: a stored trade, a Silver run, or a response."""
    part = str(parameters["part"])
    if part == API:
        return platform.served()
    if part in WITH_RUNS:
        return platform.refreshed_after_now(part)
    return platform.loaded(part) if part == f"code-{MARTS_LOCATION}" else platform.stored_after_now(part)


@contextmanager
def killed(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Kill a part; with `children`, also the processes that it started, such as running Dagster runs."""
    platform.kill(str(parameters["part"]), with_children=bool(parameters.get("children")))
    yield


@contextmanager
def killed_twice(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Kill a part, and again `again_s` seconds later, while it recovers; the fault ends with the second kill."""
    part = str(parameters["part"])
    platform.kill(part)
    time.sleep(float(parameters["again_s"]))
    platform.kill(part)
    yield


@contextmanager
def run_killed(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Kill the processes of all Dagster runs, `late_s` seconds after there is one; none if none starts in a minute."""
    deadline = time.monotonic() + RUN_WAIT_S
    while not (runs := _run_processes(platform)) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(float(parameters["late_s"]))
    for process in {*runs, *_run_processes(platform)}:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    yield


def _run_processes(platform: DrilledPlatform) -> list[psutil.Process]:
    """Return the processes of Dagster runs, also those that have outlived their code server."""
    found = []
    for process in instance_processes(platform.settings.home):
        with suppress(psutil.NoSuchProcess):
            is_of_graph = process.environ().get("SUPERVISOR_PROCESS_NAME", "").startswith("code-")
            if is_of_graph and any("spawn_main" in word for word in process.cmdline()):
                found.append(process)
    return found


@contextmanager
def paused(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Stop a part's process by SIGSTOP until the fault ends."""
    processes = platform.processes(str(parameters["part"]))
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def stopped(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Stop a part in order, with its supervision, until the fault ends."""
    supervisor, part = Supervisor(platform.settings), str(parameters["part"])
    supervisor.stop(part)
    try:
        yield
    finally:
        supervisor.start(part)


def _with_children(draw: random.Random) -> Parameters:
    return {"children": int(draw.random() < 0.5)}


def _again(draw: random.Random) -> Parameters:
    return {"again_s": round(draw.uniform(0.5, 12.0), 1)}


_of_part = partial(Action, probe=probe_of_part, parts=DRILLED_PARTS, needs=frozenset({PART}))

ACTIONS: Final = (
    _of_part(name="kill", fault=killed, draw=_with_children),
    _of_part(name="kill_twice", fault=killed_twice, draw=_again, weight=0.5),
    Action(
        name="kill_run",
        fault=run_killed,
        probe=lambda platform, _: platform.refreshed_after_now(GRAPH_CODE),
        draw=lambda draw: {"late_s": round(draw.uniform(0.0, 5.0), 1)},
        needs=frozenset({*WITH_RUNS, BRONZE}),
    ),
    _of_part(name="pause", fault=paused, lasts_s=(1.0, 60.0), withholds=frozenset({PART}), weight=0.6),
    Action(
        name="broker_away",
        fault=stopped,
        probe=probe_of_part,
        parts=(KAFKA,),
        lasts_s=(60.0, 600.0),
        needs=frozenset({KAFKA}),
        withholds=frozenset({KAFKA}),
        weight=0.5,
    ),
)
