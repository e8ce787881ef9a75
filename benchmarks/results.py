"""Figures, and the result file of a part's run: its figures with machine, load and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` is a comparison such as `<= 1.5`, or empty if the figure is only reported."""

    figure: str
    value: float
    unit: str
    target: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Return whether the target is reached; None without one."""
        return reached(self.value, self.target)


def reached(value: float, target: str) -> bool | None:
    """Return whether a value reaches a target such as `<= 1.5` or `>= 2`; None for an empty target."""
    if not target:
        return None
    comparison, limit = target.split()
    return value <= float(limit) if comparison == "<=" else value >= float(limit)


class Report:
    """The report of a part: create it when the part begins, write it when the part has ended."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._began_at = datetime.now(UTC)
        self._began = time.monotonic()
        self._load = load()
        self._commit = commit()

    def write(self, figures: list[Figure], directory: Path) -> Path:
        """Write `<part>.json` into the directory and return its path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.part}.json"
        # Name both commits if they differ: it is then uncertain which code was measured.
        at_end = commit()
        content = {
            "part": self.part,
            "commit": at_end if at_end == self._commit else f"{self._commit} to {at_end}",
            "machine": machine(),
            "load": {"begin": self._load, "end": load()},
            "began_at": self._began_at.isoformat(timespec="seconds"),
            "took_s": round(time.monotonic() - self._began, 1),
            "figures": [asdict(figure) for figure in figures],
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def load() -> list[float]:
    """Return the load averages over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def commit() -> str:
    """Return the current commit, with suffix `-dirty` if files differ from it, except those that a run writes."""
    written = (":!benchmarks/results", ":!docs/benchmarks.md", ":!docs/scale.md", ":!docs/images")
    head = git("rev-parse", "--short=12", "HEAD")
    return (head or "unknown") + ("-dirty" if git("status", "--porcelain", "--", ".", *written) else "")


def git(*arguments: str) -> str:
    """Return the output of a git command in the checkout; empty if it fails."""
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
