"""Faults of the Bronze stream's position: damaged, incomplete and deleted checkpoints, and records deleted in Kafka."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.bronze.offsets import committed_offsets, query_of, rejected_query_of
from cryptolake_assets.kafka.topics import end_offsets
from cryptolake_assets.lake.stream_checkpoints import checkpoint
from cryptolake_assets.platform.parts import BRONZE, KAFKA, PRODUCER, SPARK
from cryptolake_tests.support.records import delete_records
from reliability.drills.actions import Action, Parameters, Probe
from reliability.drills.drilled_platform import DrilledPlatform

QUERIES: Final = {"trades": query_of(TRADES), "rejected": rejected_query_of(TRADES)}
GATHER_S: Final = 6.0  # a paused Spark leaves the records of this time in Kafka
KILL_WAIT_S: Final = 10.0


def damaging(damage: Callable[[Path, Parameters], None]) -> Callable[..., Iterator[None]]:
    """Return a fault: kill the Bronze client, and with `spark` the server too, and damage a checkpoint meanwhile."""

    def fault(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
        parts = [BRONZE, *([SPARK] if parameters["spark"] else [])]
        killed = [process for part in parts for process in platform.processes(part)]
        for part in parts:
            platform.kill(part)
        for process in killed:
            with suppress(Exception):
                process.wait(KILL_WAIT_S)
        location = checkpoint(platform.settings, QUERIES[str(parameters["part"])])
        with suppress(FileNotFoundError):  # the queries of a running server write and delete files meanwhile
            damage(Path(location.removeprefix("file://")), parameters)
        yield

    return fault


def truncate(directory: Path, parameters: Parameters) -> None:
    """Cut a newest file of the checkpoint, `offsets`, `commits` or `metadata`, to the drawn share."""
    name = str(parameters["file"])
    path = directory / name if name == "metadata" else _newest(directory / name)
    if path is not None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * float(parameters["share"]))])


def lose_commit(directory: Path, _parameters: Parameters) -> None:
    """Delete the newest entry of `commits`."""
    if (path := _newest(directory / "commits")) is not None:
        path.unlink()


def delete(directory: Path, _parameters: Parameters) -> None:
    """Delete the checkpoint."""
    shutil.rmtree(directory, ignore_errors=True)


def _newest(directory: Path) -> Path | None:
    batches = [path for path in directory.iterdir() if path.name.isdigit()]
    return max(batches, key=lambda path: int(path.name), default=None)


@contextmanager
def records_expired(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Pause Spark, and delete a share of the records in Kafka that Bronze has not read."""
    settings, paused = platform.settings, platform.processes(SPARK)
    for process in paused:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
    try:
        time.sleep(GATHER_S)
        read, ends = committed_offsets(settings), end_offsets(settings, settings.topic_trades)
        share = float(parameters["share"])
        delete_records(
            settings,
            settings.topic_trades,
            {number: read.get(number, 0) + int((end - read.get(number, 0)) * share) for number, end in ends.items()},
        )
        yield
    finally:
        for process in paused:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)


def stored(platform: DrilledPlatform, _parameters: Parameters) -> Probe:
    """Return a probe: a trade emitted from now on is in Bronze, and the stream is running."""
    return platform.stored_after_now(BRONZE)


def _with_spark(draw: random.Random) -> Parameters:
    return {"spark": int(draw.random() < 0.7)}


def _truncation(draw: random.Random) -> Parameters:
    file = draw.choice(("offsets", "offsets", "commits", "metadata"))
    return {**_with_spark(draw), "file": file, "share": draw.choice((0, 0.5, round(draw.random(), 2)))}


_NEEDS: Final = frozenset({BRONZE, SPARK, KAFKA})

_of_checkpoint = partial(Action, probe=stored, parts=tuple(QUERIES), needs=_NEEDS)

ACTIONS: Final = (
    _of_checkpoint(name="checkpoint_truncated", fault=contextmanager(damaging(truncate)), draw=_truncation),
    _of_checkpoint(name="commit_entry_lost", fault=contextmanager(damaging(lose_commit)), draw=_with_spark, weight=0.5),
    _of_checkpoint(name="checkpoint_deleted", fault=contextmanager(damaging(delete)), draw=_with_spark, weight=0.5),
    Action(
        name="records_expired",
        fault=records_expired,
        probe=stored,
        draw=lambda draw: {"share": round(draw.uniform(0.1, 1.0), 2)},
        needs=_NEEDS | {PRODUCER},
        withholds=frozenset({SPARK, KAFKA}),
    ),
)
