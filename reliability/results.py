"""The result files: a line (JSON) per simulation, old bug, interleaving, drill run and drilled fault; runs append.

`docs/reliability.md` is generated from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from benchmarks.results import git

RESULTS: Final = Path(__file__).resolve().parent / "results"
MAX_DETAIL: Final = 400  # characters of a violation


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of all results."""

    at: str  # begin, ISO time in UTC
    commit: str  # abbreviated; with `+` if files had changed since
    cores: int
    violations: tuple[str, ...] = ()  # broken promises, each with what is needed to repeat it; empty: all held


class SimulationResult(Result, frozen=True, kw_only=True):
    """Consecutive seeds, each simulated from its start to a quiet end."""

    first_seed: int
    seeds: int
    simulated_hours: float
    cpu_s: float
    frames: int
    fewest_frames_per_hour: int  # over the seeds
    fewest_faults_per_hour: int
    faults: dict[str, int]  # number of times by kind
    states: dict[str, int]  # number of seeds in which a state was reached, such as `repair_during_restart`
    log_digest: str  # of the event logs of all seeds: the same for the same seeds and code


class OldBugResult(Result, frozen=True, kw_only=True):
    """The search of one old bug, put back into the code, by consecutive seeds of the simulation."""

    bug: str  # name of the patch
    description: str
    first_seed: int
    found_at_seed: int | None  # None: no seed found it
    seeds: int  # tried
    cpu_s: float
    violation: str = ""  # of the found seed


class InterleavingResult(Result, frozen=True, kw_only=True):
    """Consecutive seeds, each an interleaving of writers and readers on a fresh lake."""

    first_seed: int
    seeds: int
    cpu_s: float
    steps: int
    commits: dict[str, int]  # by writer
    reads: int
    states: dict[str, int]  # number of seeds in which a state was reached, such as `commit_retried`


class DrillResult(Result, frozen=True, kw_only=True):
    """A run of the drills on one platform: what the oracle compared over all quiet points."""

    run: str  # names the run's faults
    seed: int
    scenario: str
    lasted_s: float
    quiet_points: int
    trades_emitted: int
    bars_compared: int
    bars_complete: int
    states: dict[str, int]  # `sometimes` assertions: number of times reached
    load: float  # 1-minute load average at the begin


class FaultResult(Result, frozen=True, kw_only=True):
    """One fault of a run."""

    run: str
    fault: str  # name of the action, such as `kill`
    part: str = ""  # the affected part; empty: none in particular
    parameters: dict[str, str | int | float] = {}
    lasted_s: float  # from its begin to its end
    recovered_s: float | None = None  # from its end until all works again; None: it did not, within the limit


R = TypeVar("R", bound=Result)


def append(result: Result, directory: Path = RESULTS) -> None:
    """Append a result to its file."""
    directory.mkdir(parents=True, exist_ok=True)
    with _path(type(result), directory).open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")


def read(kind: type[R], directory: Path = RESULTS) -> Iterator[R]:
    """Yield the results of a kind, oldest first."""
    path = _path(kind, directory)
    if path.exists():
        for line in path.read_bytes().splitlines():
            yield msgspec.json.decode(line, type=kind)


def _path(kind: type[Result], directory: Path) -> Path:
    words = re.findall("[A-Z][a-z]*", kind.__name__.removesuffix("Result"))
    return directory / f"{'_'.join(words).lower()}s.jsonl"


def current_commit() -> str:
    """Return the abbreviated commit of the checkout, with `+` if files have changed since, except those of runs."""
    written = (":!reliability/results", ":!docs/reliability.md", ":!docs/images")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{'+' if changed else ''}"
