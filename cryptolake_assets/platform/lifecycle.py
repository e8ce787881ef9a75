"""Start and stop the platform, restart a part: one idempotent call each."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from graphlib import TopologicalSorter
from pathlib import Path

import structlog
from filelock import FileLock, Timeout
from rich.console import Console

from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.errors import HomeError, PartError
from cryptolake_assets.platform import parts as catalogue
from cryptolake_assets.platform import processes
from cryptolake_assets.platform.jars import ensure_jars
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.parts import EXCHANGE, PRODUCER, Part, Step, local_parts
from cryptolake_assets.platform.supervisor import RUNNING_STATES, Supervisor
from cryptolake_assets.settings import Settings, env_name

log = structlog.get_logger(__name__)

LOCK_TIMEOUT_S = 180.0
MIN_FREE_BYTES = 1024**3
MAX_START_CRASHES = 2  # a part that crashes more often while starting is reported as failed
POLL_S = 0.15
REMINDER_INTERVAL_S = 15.0
LOG_TAIL_LINES = 15


def up(settings: Settings, parts: Iterable[str] | None = None, console: Console | None = None) -> list[str]:
    """Bring the running platform in line with the settings; return the started or restarted parts once all serve.

    Running parts with an unchanged configuration keep running; those with a changed one are restarted. `parts` limits
    the parts that are started and waited for. Raises a `CryptolakeError` naming the part, and before anything is
    started for a wrong subscription, a full disk, a missing Java or a port in use.
    """
    console = console or Console(stderr=True, highlight=False)
    chosen = local_parts(settings, parts)
    _check_home(settings)
    if {part.name for part in chosen} & {EXCHANGE, PRODUCER}:
        for market in settings.each_market:
            resolve_subscriptions(market)
    if any(part.needs_java for part in chosen):
        find_java()
        ensure_jars(settings, console)
    with lifecycle_lock(settings, console):
        supervisor = Supervisor(settings)
        if not supervisor.is_running():
            _end_leftovers(settings, console)
            supervisor.remove_files()
        running = supervisor.processes()
        for part in chosen:
            if part.name not in running or not running[part.name].pid:
                processes.check_ports(part, settings)
        supervisor.write_config(_select(chosen, settings, supervisor.processes()))
        if not supervisor.is_running():
            supervisor.start_daemon()
        restarted = _stop_dependents(supervisor, supervisor.reload())
        return _Start(settings, supervisor, console).run(_select(chosen, settings, restarted))


def restart(settings: Settings, name: str, console: Console | None = None) -> None:
    """Restart one part and return when it serves. Raises `PartError` if the part does not run or does not start.

    A part that does not start, because one that it needs is away, is tried again by the supervisor from then on.
    """
    console = console or Console(stderr=True, highlight=False)
    (part,) = local_parts(settings, [name]) or (None,)
    supervisor = Supervisor(settings)
    if part is None or name not in supervisor.processes():
        raise PartError(f"{name}: not part of the running platform. Run `cryptolake up`.")
    with lifecycle_lock(settings, console):
        supervisor.stop(name)
        restarted = _stop_dependents(supervisor, [name])
        try:
            _Start(settings, supervisor, console).run(_select((part,), settings, restarted), steps=())
        except PartError:
            supervisor.start(name)
            raise


def reload_graph(settings: Settings, last_day: date, console: Console | None = None) -> list[str]:
    """Restart this home's code servers whose partitions end before `last_day`; return their names."""
    console = console or Console(stderr=True, highlight=False)
    supervisor = Supervisor(settings)
    running = {info.name for info in supervisor.processes().values() if info.alive}
    outdated = []
    for part in catalogue.CODE_SERVERS:
        end = supervisor.spec(part.name)["environment"].get(env_name("end_date")) if part.name in running else None
        if end and end < last_day.isoformat():
            outdated.append(part.name)
    for name in outdated:
        restart(settings, name, console)
    return outdated


def stop(settings: Settings, name: str) -> None:
    """Stop one part until the next `up`."""
    local_parts(settings, [name])
    Supervisor(settings).stop(name)


def start(settings: Settings, name: str, console: Console | None = None) -> None:
    """Start one part of the running platform and return when it serves. Raises `PartError`."""
    console = console or Console(stderr=True, highlight=False)
    supervisor = Supervisor(settings)
    chosen = local_parts(settings, [name])
    if name not in supervisor.processes():
        raise PartError(f"{name}: not part of the running platform. Run `cryptolake up`.")
    _Start(settings, supervisor, console).run(chosen, steps=())


def down(settings: Settings, console: Console | None = None) -> list[str]:
    """Stop all processes of this home, and no others; return the names of the stopped ones.

    Stop the parts in reverse order, each with time to finish its work, then leftover processes of a killed supervisor.
    Do nothing if nothing runs.
    """
    console = console or Console(stderr=True, highlight=False)
    if not settings.run_dir.is_dir():
        return _end_leftovers(settings, console)
    with lifecycle_lock(settings, console):
        supervisor = Supervisor(settings)
        running = [info.name for info in supervisor.processes().values() if info.state in RUNNING_STATES]
        if supervisor.is_running():
            _stop_all(supervisor, running, console)
            supervisor.shutdown()
        stopped = [*running, *_end_leftovers(settings, console)]
        supervisor.remove_files()
    return stopped


def restore_dir(settings: Settings) -> Path:
    """Return the directory of a backup's verified files; it exists only while `cryptolake restore` moves them."""
    return settings.home / "restoring"


@contextmanager
def lifecycle_lock(settings: Settings, console: Console) -> Iterator[None]:
    """Allow one `up` or `down` of a home at a time: print a message and wait for another one.

    Raises `HomeError` after `LOCK_TIMEOUT_S`.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.run_dir / "lifecycle.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print("waiting for another `cryptolake up` or `down` of this home")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise HomeError(
                f"home: another `cryptolake up` or `down` has locked {settings.home} for {LOCK_TIMEOUT_S:.0f} s. "
                "Wait for it or stop it, then run this again."
            ) from None
    try:
        yield
    finally:
        lock.release()


def _check_home(settings: Settings) -> None:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(settings.home).free
    except OSError as error:
        raise HomeError(
            f"home: {settings.home} cannot be used ({error.strerror}). Set CRYPTOLAKE_HOME to a writable directory."
        ) from None
    if restore_dir(settings).exists():
        raise HomeError(
            f"home: a restore of {settings.home} is incomplete. Run `cryptolake restore` again, with --replace."
        )
    if not os.access(settings.home, os.W_OK | os.X_OK):
        raise HomeError(f"home: {settings.home} is not writable. Set CRYPTOLAKE_HOME to a writable directory.")
    if free_bytes < MIN_FREE_BYTES:
        raise HomeError(
            f"home: only {free_bytes / 1e6:.0f} MB are free on the disk of {settings.home}; "
            f"{MIN_FREE_BYTES / 1e6:.0f} MB are required. Free some space, or set CRYPTOLAKE_HOME to another disk."
        )


def _stop_dependents(supervisor: Supervisor, names: list[str]) -> list[str]:
    """Stop the running parts that restart with those in `names`; return both."""
    running = [info.name for info in supervisor.processes().values() if info.state in RUNNING_STATES]
    dependents = [
        part.name
        for part in catalogue.PARTS
        if part.name in running and part.name not in names and set(part.restarts_with) & set(names)
    ]
    for name in dependents:
        supervisor.stop(name)
    return [*names, *dependents]


def _select(chosen: tuple[Part, ...], settings: Settings, names: Iterable[str]) -> tuple[Part, ...]:
    selected = {part.name for part in chosen} | set(names)
    return tuple(part for part in local_parts(settings) if part.name in selected)


def _end_leftovers(settings: Settings, console: Console) -> list[str]:
    leftovers = processes.instance_processes(settings.home)
    if not leftovers:
        return []
    console.print(f"stopping {len(leftovers)} leftover processes")
    return [f"pid {pid}" for pid in processes.end_processes(leftovers)]


def _stop_all(supervisor: Supervisor, running: list[str], console: Console) -> None:
    """Stop parts in reverse order of their dependencies; independent parts stop in parallel."""
    remaining = [part for part in catalogue.PARTS if part.name in running]
    while remaining:
        needed = {need for part in remaining for need in _needed_parts(part)}
        level = [part for part in remaining if part.name not in needed]
        console.print(f"stopping {', '.join(part.name for part in level)}")
        with ThreadPoolExecutor(len(level)) as pool:
            list(pool.map(supervisor.stop, [part.name for part in level]))
        remaining = [part for part in remaining if part not in level]


def _needed_parts(part: Part) -> set[str]:
    """Return the names of the parts that `part` needs, directly or by steps."""
    steps = {step.name: step.needs for step in catalogue.STEPS}
    return {name for need in part.needs for name in steps.get(need, (need,))}


class _Start:
    """One start of parts and steps, each as soon as its dependencies are ready."""

    def __init__(self, settings: Settings, supervisor: Supervisor, console: Console) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._console = console
        self._failed = threading.Event()
        self._started: list[str] = []

    def run(self, parts: tuple[Part, ...], steps: tuple[Step, ...] | None = None) -> list[str]:
        """Return the names of the started parts once all serve.

        Raises the first failure after all other waits have ended.
        """
        names = {part.name for part in parts}
        work: dict[str, Part | Step] = {part.name: part for part in parts}
        work |= {
            step.name: step for step in (catalogue.STEPS if steps is None else steps) if names & set(step.required_by)
        }
        needs = {name: [need for need in item.needs if need in work] for name, item in work.items()}
        futures: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(work))) as pool:
            for name in TopologicalSorter(needs).static_order():
                futures[name] = pool.submit(self._after, [futures[need] for need in needs[name]], work[name])
        for future in futures.values():
            if (error := future.exception()) is not None and not isinstance(error, _Skipped):
                raise error
        return self._started

    def _after(self, needs: list[Future[None]], item: Part | Step) -> None:
        for need in needs:
            if need.exception() is not None:
                raise _Skipped
        try:
            if isinstance(item, Part):
                self._start_part(item)
            else:
                self._timed(item.title, lambda: item.run(self._settings))
        except Exception:
            self._failed.set()
            raise

    def _timed(self, title: str, action: Callable[[], object]) -> None:
        started = time.monotonic()
        action()
        self._console.print(f"  {title:<18} ready in {time.monotonic() - started:.1f} s")

    def _start_part(self, part: Part) -> None:
        info = self._supervisor.processes()[part.name]
        if info.alive and part.is_ready(self._settings, info.started_s):
            self._console.print(f"  {part.name:<18} already running")
            return
        if info.alive and info.now_s - info.started_s > part.start_timeout_s:
            self._console.print(f"  {part.name:<18} unresponsive, restarting")
            self._supervisor.stop(part.name)
        self._console.print(f"  {part.name:<18} starting")
        part.prepare(self._settings)
        self._started.append(part.name)
        self._timed(part.name, lambda: self._start_and_wait(part))

    def _start_and_wait(self, part: Part) -> None:
        log_file = part.log_file(self._settings)
        log_start = log_file.stat().st_size if log_file.exists() else 0
        self._supervisor.start(part.name)
        started = time.monotonic()
        reminded = started
        pids: set[int | None] = set()
        while True:
            info = self._supervisor.processes().get(part.name)
            if info is None:
                raise PartError(f"{part.name}: the supervisor has ended. Run `cryptolake up` again.")
            if info.alive and part.is_ready(self._settings, info.started_s):
                return
            pids.add(info.pid)
            if len(pids - {None, info.pid}) > MAX_START_CRASHES or info.state == "FATAL":
                cause = info.spawn_error or f"exit status {info.exit_status}"
                self._give_up(part, f"crashed while starting ({cause})", log_file, log_start)
            waited_s = time.monotonic() - started
            if waited_s > part.start_timeout_s:
                self._give_up(part, f"not ready after {waited_s:.0f} s", log_file, log_start)
            if self._failed.is_set():
                raise _Skipped
            if time.monotonic() - reminded > REMINDER_INTERVAL_S:
                reminded = time.monotonic()
                self._console.print(f"  {part.name:<18} still starting after {waited_s:.0f} s")
            time.sleep(POLL_S)

    def _give_up(self, part: Part, problem: str, log_file: Path, log_start: int) -> None:
        self._supervisor.stop(part.name)
        tail = tail_lines(log_file, LOG_TAIL_LINES, log_start)
        last_lines = "\n  " + "\n  ".join(tail) if tail else " (empty)"
        raise PartError(
            f"{part.name}: {problem}; the part was stopped. Log: {log_file}; its last lines:{last_lines}\n"
            f"Correct the cause, then run `cryptolake up` again; `cryptolake logs {part.name}` shows the full log."
        )


class _Skipped(Exception):
    """The part or step was not started, because a dependency or another part failed."""


def tail_lines(path: Path, count: int, start: int = 0) -> list[str]:
    """Return the last `count` lines of a text file; lines before byte `start` are ignored if the file is that long."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(start if start <= size else 0)
        return [line.decode("utf-8", "replace").rstrip() for line in deque(file, maxlen=count)]
