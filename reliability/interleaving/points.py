"""The points at which actors give up the baton: real code with hooks at its accesses to catalog, files, locks and time.

Within `installed`, the actors' threads pass a point before and after each commit, before each load of a table, before
a file is opened, created or deleted, after a metadata file is written, before each connection to DuckDB, at file
locks, and at pauses of retries. They see the virtual clock and draw random numbers from the seed; their thread pools
run the tasks at once. Other threads see none of it.
"""

from __future__ import annotations

import concurrent.futures
import datetime as datetime_module
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, tzinfo
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol
from unittest.mock import patch

from reliability.interleaving.scheduler import Actor, Scheduler

AFTER_COMMIT: Final = 8.0  # a process that ends between a commit and its account of it leaves the most to recover


class Observer(Protocol):
    """Is told what has happened, before anyone else can run."""

    def committed(self, actor: Actor, table: str, metadata: Any, location: str) -> None: ...
    def created(self, actor: Actor, path: str) -> None: ...
    def deleting(self, actor: Actor, path: str) -> None: ...


class InlineExecutor(concurrent.futures.Executor):
    """Runs each task when it is submitted, in the thread of the caller."""

    def __init__(self, max_workers: int | None = None) -> None: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # as an executor does
            future.set_exception(error)
        return future


@contextmanager
def installed(scheduler: Scheduler, observer: Observer) -> Iterator[None]:
    """Hook the points into this process."""
    with ExitStack() as stack:
        for hook in (_clock, _randomness, _threads, _files, _catalog, _locks, _duckdb, _small_files):
            for patched in hook(scheduler, observer):
                stack.enter_context(patched)
        yield


def _clock(scheduler: Scheduler, _: Observer) -> Iterator[Any]:
    real_time, real_monotonic, real_sleep = time.time, time.monotonic, time.sleep

    def sleep(seconds: float) -> None:
        if scheduler.current is None:
            real_sleep(seconds)
        else:
            scheduler.sleep(seconds)

    yield patch.object(time, "time", lambda: real_time() if scheduler.current is None else scheduler.now)
    yield patch.object(time, "monotonic", lambda: real_monotonic() if scheduler.current is None else scheduler.now)
    yield patch.object(time, "sleep", sleep)

    class AnyDatetime(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class VirtualDatetime(datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) if scheduler.current is None else datetime.fromtimestamp(scheduler.now, tz)

    for name, module in list(sys.modules.items()):
        is_ours = name.startswith("cryptolake_assets.") or name == "pyiceberg.table.update"
        if is_ours and getattr(module, "datetime", None) is datetime_module.datetime:
            yield patch.object(module, "datetime", VirtualDatetime)


def _randomness(scheduler: Scheduler, _: Observer) -> Iterator[Any]:
    """Names of files and ids of snapshots come from `os.urandom`, the lengths of pauses from `random`."""
    urandom, uniform, seeded = os.urandom, random.uniform, random.Random(scheduler.seed ^ 0x5EED)

    def bytes_of_seed(size: int) -> bytes:
        return urandom(size) if scheduler.current is None else seeded.randbytes(size)

    def uniform_of_seed(low: float, high: float) -> float:
        return uniform(low, high) if scheduler.current is None else seeded.uniform(low, high)

    yield patch.object(os, "urandom", bytes_of_seed)
    yield patch.object(random, "uniform", uniform_of_seed)


def _threads(_: Scheduler, __: Observer) -> Iterator[Any]:
    from pyiceberg.utils.concurrent import ExecutorFactory

    from cryptolake_assets.binance import archive_csv
    from cryptolake_assets.transform.engines import duckdb_engine

    yield patch.object(ExecutorFactory, "get_or_create", staticmethod(InlineExecutor))
    yield patch.object(duckdb_engine, "ThreadPoolExecutor", InlineExecutor)
    yield patch.object(archive_csv, "ThreadPoolExecutor", InlineExecutor)


def _files(scheduler: Scheduler, observer: Observer) -> Iterator[Any]:
    from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

    real_open, real_create, real_delete = PyArrowFile.open, PyArrowFile.create, PyArrowFileIO.delete

    def opened(self: PyArrowFile, seekable: bool = True) -> Any:
        scheduler.point(f"opens {kind_of(self.location)}")
        return real_open(self, seekable)

    def created(self: PyArrowFile, overwrite: bool = False) -> Any:
        scheduler.point(f"creates {kind_of(self.location)}")
        stream = real_create(self, overwrite)
        if (actor := scheduler.current) is not None:
            observer.created(actor, self.location)
        scheduler.point(f"writes {kind_of(self.location)}")
        return stream

    def deleted(self: PyArrowFileIO, location: Any) -> None:
        path = location if isinstance(location, str) else location.location
        scheduler.point(f"deletes {kind_of(path)}")
        if (actor := scheduler.current) is not None:
            observer.deleting(actor, path)
        real_delete(self, location)

    yield patch.object(PyArrowFile, "open", opened)
    yield patch.object(PyArrowFile, "create", created)
    yield patch.object(PyArrowFileIO, "delete", deleted)


def kind_of(path: str) -> str:
    """Return what kind of file it is, and of which table."""
    parts = path.split("/")
    name = parts[-1]
    if name.endswith(".metadata.json"):
        kind = "metadata"
    elif name.startswith("snap-"):
        kind = "manifest list"
    elif name.endswith(".avro"):
        kind = "manifest"
    else:
        kind = "data"
    for marker in ("metadata", "data"):
        if marker in parts[1:]:
            return f"{kind} of {parts[len(parts) - 1 - parts[::-1].index(marker) - 1]}"
    return kind


def _catalog(scheduler: Scheduler, observer: Observer) -> Iterator[Any]:
    from pyiceberg.catalog.sql import SqlCatalog

    from cryptolake_assets.lake.table_cache import TableCache

    real_load, real_commit = SqlCatalog.load_table, SqlCatalog.commit_table
    real_create, real_rename = SqlCatalog.create_table, SqlCatalog.rename_table
    real_write, real_locations = SqlCatalog._write_metadata, TableCache._locations

    def loaded(self: SqlCatalog, identifier: Any) -> Any:
        scheduler.point(f"loads {_name(identifier)}")
        return real_load(self, identifier)

    def committed(self: SqlCatalog, table: Any, requirements: Any, updates: Any) -> Any:
        name = ".".join(table.name())
        scheduler.point(f"commits {name}")
        response = real_commit(self, table, requirements, updates)
        actor = scheduler.current
        if actor is not None and response.metadata_location is not None:
            scheduler.log.append(f"{scheduler.steps} {actor.name} has committed {name}")
            observer.committed(actor, name, response.metadata, response.metadata_location)
        scheduler.point(f"committed {name}", danger=AFTER_COMMIT)
        return response

    def created(self: SqlCatalog, identifier: Any, *args: Any, **kwargs: Any) -> Any:
        scheduler.point(f"creates {_name(identifier)}")
        table = real_create(self, identifier, *args, **kwargs)
        scheduler.point(f"created {_name(identifier)}")
        return table

    def renamed(self: SqlCatalog, old: Any, new: Any) -> Any:
        scheduler.point(f"renames {_name(old)}")
        table = real_rename(self, old, new)
        scheduler.point(f"renamed {_name(old)}")
        return table

    def written(*args: Any, **kwargs: Any) -> None:
        real_write(*args, **kwargs)
        scheduler.point("wrote metadata")

    def located(self: TableCache, catalog: Any) -> Any:
        scheduler.point("polls the catalog")
        return real_locations(self, catalog)

    yield patch.object(SqlCatalog, "load_table", loaded)
    yield patch.object(SqlCatalog, "commit_table", committed)
    yield patch.object(SqlCatalog, "create_table", created)
    yield patch.object(SqlCatalog, "rename_table", renamed)
    yield patch.object(SqlCatalog, "_write_metadata", staticmethod(written))
    yield patch.object(TableCache, "_locations", located)


def _name(identifier: Any) -> str:
    return identifier if isinstance(identifier, str) else ".".join(identifier)


def _locks(scheduler: Scheduler, _: Observer) -> Iterator[Any]:
    """File locks that the scheduler knows: their waiters are blocked until the holder releases or dies."""
    import filelock

    held: dict[str, int] = {}

    class ScheduledLock:
        def __init__(self, path: str | Path, timeout: float = -1) -> None:
            self._path, self._timeout = str(path), timeout

        def __enter__(self) -> None:
            scheduler.point(f"locks {Path(self._path).name}")
            if self._path in held and self._timeout == 0:
                scheduler.states["lock_held"] += 1
                raise filelock.Timeout(self._path)
            if self._path in held:
                scheduler.states["lock_waited"] += 1
                scheduler.wait_until(lambda: self._path not in held, Path(self._path).name)
            held[self._path] = 1

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            del held[self._path]

    yield patch.object(filelock, "FileLock", ScheduledLock)


def _duckdb(scheduler: Scheduler, _: Observer) -> Iterator[Any]:
    from cryptolake_assets.lake import duck

    real = duck._set_up

    def connected(connection: Any) -> Any:
        scheduler.point("queries DuckDB")
        return real(connection)

    yield patch.object(duck, "_set_up", connected)


def _small_files(scheduler: Scheduler, _: Observer) -> Iterator[Any]:
    """Points around the small files next to the tables: checkpoints, cursors, the last look of maintenance."""
    from pyarrow.fs import LocalFileSystem

    from cryptolake_assets.lake import files

    class Points:
        def __init__(self) -> None:
            self._files = LocalFileSystem()

        def open_output_stream(self, path: str) -> Any:
            scheduler.point(f"writes {Path(path).name}")
            return self._files.open_output_stream(path)

        def move(self, source: str, target: str) -> None:
            scheduler.point(f"moves {Path(source).name}")
            self._files.move(source, target)

        def open_input_file(self, path: str) -> Any:
            scheduler.point(f"reads {Path(path).name}")
            return self._files.open_input_file(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._files, name)

    def opened(_: Any, location: str) -> tuple[Any, str]:
        return Points(), location.removeprefix("file://")

    yield patch.object(files, "open_filesystem", opened)
