"""Put an old bug back into a copy of the tree, and simulate seeds there until a violation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

PATCHES: Final = Path(__file__).resolve().parent
ROOT: Final = PATCHES.parents[2]
COPIED: Final = ("cryptolake_assets", "reliability", "cryptolake_tests/support")


@dataclass(frozen=True, slots=True)
class OldBug:
    """A bug, and its patch."""

    name: str
    description: str
    path: Path


class Search(msgspec.Struct):
    """The result of a search in one tree."""

    found_at_seed: int | None  # None: no seed has a violation
    seeds: int  # tried
    cpu_s: float
    simulated_hours: float
    violation: str = ""


def old_bugs(directory: Path = PATCHES) -> list[OldBug]:
    """Return all old bugs, by name."""
    found = []
    for path in sorted(directory.glob("*.patch")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found.append(OldBug(path.stem, first.removeprefix("#").strip(), path))
    return found


@contextmanager
def patched_tree(bug: OldBug | None) -> Iterator[Path]:
    """Yield a copy of the tree with the bug; without any, if it is None. Raises `CalledProcessError`."""
    with TemporaryDirectory(prefix="cryptolake-old-bug-") as directory:
        tree = Path(directory).resolve()
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / name, tree / name, ignore=ignored, dirs_exist_ok=True)
        (tree / "cryptolake_tests" / "__init__.py").touch()
        if bug is not None:
            # Git applies a patch to plain files only outside of any repository.
            outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
            subprocess.run(["git", "apply", str(bug.path)], cwd=tree, env=outside, check=True)
        yield tree


def search(bug: OldBug, first_seed: int, seeds: int) -> Search:
    """Simulate consecutive seeds with the bug until one has a violation that it does not have without the bug.

    Raises `CalledProcessError`.
    """
    total = Search(None, 0, 0.0, 0.0)
    while total.seeds < seeds:
        found = _search(bug, first_seed + total.seeds, seeds - total.seeds)
        total.seeds += found.seeds
        total.cpu_s += found.cpu_s
        total.simulated_hours += found.simulated_hours
        seed = found.found_at_seed
        if seed is not None and _search(None, seed, 1).found_at_seed is None:
            total.found_at_seed, total.violation = seed, found.violation
            break
    return total


def _search(bug: OldBug | None, first_seed: int, seeds: int) -> Search:
    """Simulate consecutive seeds in a tree, with a bug if it is given, until one has a violation."""
    with patched_tree(bug) as tree:
        command = [sys.executable, "-m", "reliability.simulation.old_bugs.worker", str(first_seed), str(seeds)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Search)
