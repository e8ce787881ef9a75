"""Work beside the stream: compaction and expiry, and days of the public archive, also issued again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tenacity import Retrying, stop_after_delay, wait_fixed

from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.lake.maintenance.tasks import StreamPosition, Task, maintain
from cryptolake_assets.platform.parts import BRONZE, SPARK
from cryptolake_assets.transform.maintenance_inputs import stream_position
from cryptolake_tests.support.archives import Aggregate, write_day
from reliability.drills.actions import Action, Parameters
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.process_faults import WITH_RUNS
from reliability.drills.storage_faults import all_work

LIMIT_S: Final = 240.0  # until maintenance or a load has succeeded, with faults of other actions meanwhile
RETRY_S: Final = 5.0
LATER: Final = timedelta(hours=2)  # so much later than the exchange's clock, hours that the stream writes are closed
MAINTENANCE: Final = {
    "compaction_grace_s": 0,
    "compaction_min_files": 2,
    "snapshot_retention_s": 120,
    "snapshots_kept": 5,
}

Days = Mapping[tuple[str, date], Sequence[Aggregate]]


@contextmanager
def maintained(platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    """Compact also the hours that the stream writes, merge manifests and expire snapshots of two minutes ago."""
    settings = platform.settings.model_copy(update=MAINTENANCE)

    def run() -> None:
        position = stream_position(settings)
        later = None if position.exchange_time is None else position.exchange_time + LATER
        for task in (Task.COMPACTION, Task.MANIFESTS, Task.SNAPSHOTS):
            maintain(settings, task, StreamPosition(later, position.query_ids))

    _until_done(run)
    yield


@contextmanager
def archive_loaded(platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    """Load the days of the emitted trades from the archive."""
    _load(platform, _emitted_days(platform))
    yield


@contextmanager
def archive_reissued(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Load the days of the emitted trades without a range of ids, and then the files issued again with them."""
    days = _emitted_days(platform)
    draw = random.Random(int(parameters["seed"]))
    _load(platform, {key: _without_range(trades, draw) for key, trades in days.items()})
    _load(platform, days)
    yield


def _emitted_days(platform: DrilledPlatform) -> Days:
    """Return the trades emitted by now, by symbol and day."""
    days: defaultdict[tuple[str, date], list[Aggregate]] = defaultdict(list)
    clock_ms = platform.clock_ms()
    for frame in read_frames(platform.emitted.directory):
        data = json.loads(frame.raw)["data"]
        if data["T"] >= clock_ms:
            break
        day = datetime.fromtimestamp(data["T"] / 1000, UTC).date()
        days[data["s"], day].append(
            Aggregate(data["a"], data["p"], data["q"], data["f"], data["l"], data["T"], data["m"])
        )
    return days


def _without_range(trades: Sequence[Aggregate], draw: random.Random) -> Sequence[Aggregate]:
    first = draw.randrange(len(trades))
    kept = [*trades[:first], *trades[first + draw.randint(1, 500) :]]
    return kept or trades[:1]


def _load(platform: DrilledPlatform, days: Days) -> None:
    """Publish the days on the replay exchange and load them by the command."""
    for (symbol, day), trades in days.items():
        write_day(platform.emitted.directory, ArchiveFile(symbol, day), trades)
    symbols = sorted({symbol for symbol, _ in days})
    first, last = min(day for _, day in days), max(day for _, day in days)
    command = [sys.executable, "-m", "cryptolake_assets.cli", "archive", "--no-klines"]
    command += ["--from", str(first), "--to", str(last), *(word for name in symbols for word in ("--symbol", name))]

    def run() -> None:
        environment = {**os.environ, **platform.settings.environment()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        if done.returncode:
            raise OSError(f"archive: {(done.stderr or done.stdout).strip()[-300:]}")

    _until_done(run)


def _until_done(run: Callable[[], None]) -> None:
    """Repeat until it succeeds: a fault of another action may interrupt it. Raises the last error after the limit."""
    Retrying(stop=stop_after_delay(LIMIT_S), wait=wait_fixed(RETRY_S), reraise=True)(run)


_NEEDS: Final = frozenset({BRONZE, *WITH_RUNS})

_ARCHIVE: Final = Action(
    name="archive_day",
    fault=archive_loaded,
    probe=all_work,
    needs=_NEEDS,
    weight=0.7,
)
ACTIONS: Final = (
    Action(
        name="maintenance",
        fault=maintained,
        probe=all_work,
        needs=_NEEDS | {SPARK},
    ),
    _ARCHIVE,
    replace(
        _ARCHIVE,
        name="archive_reissued",
        fault=archive_reissued,
        draw=lambda draw: {"seed": draw.randrange(1_000)},
    ),
)
