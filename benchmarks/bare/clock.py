"""Measure wall time, CPU time of all threads and peak resident memory of a process."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


class Clock:
    """A stopwatch that starts on creation; create it after the imports."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def reading(self) -> dict[str, float]:
        """Return `query_s` and `cpu_s` since the start, and the process's peak `rss_mb`."""
        return {
            "query_s": round(time.perf_counter() - self._wall, 3),
            "cpu_s": round(time.process_time() - self._cpu, 3),
            "rss_mb": peak_mb(),
        }


def peak_mb(pid: int | str = "self") -> float:
    """Return the peak resident memory of a process in MB (10^6 bytes); outside Linux, only of this process."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        # Not getrusage: its peak is inherited from the parent process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round((peak if sys.platform == "darwin" else peak * 1024) / 1e6, 1)


def report(name: str, clock: Clock, **more: object) -> None:
    """Print the result as the last line of standard output."""
    print(json.dumps({"result": {"name": name, **clock.reading(), **more}}), flush=True)
