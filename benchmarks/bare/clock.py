"""What a stretch of a process took: wall time, CPU time of all its threads, peak resident memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


class Clock:
    """Runs from its making; imports come before it."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def reading(self) -> dict[str, float]:
        """`query_s`, `cpu_s` since the start; `rss_mb` since the process began."""
        return {
            "query_s": round(time.perf_counter() - self._wall, 3),
            "cpu_s": round(time.process_time() - self._cpu, 3),
            "rss_mb": peak_mb(),
        }


def peak_mb(pid: int | str = "self") -> float:
    """Peak resident memory of a process in MB (10^6 bytes). Elsewhere than on Linux only this process can be asked."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        # Not getrusage: its peak is inherited from the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round((peak if sys.platform == "darwin" else peak * 1024) / 1e6, 1)


def report(name: str, clock: Clock, **more: object) -> None:
    """The result as the last line of standard output."""
    print(json.dumps({"result": {"name": name, **clock.reading(), **more}}), flush=True)
