"""Becomes a part: reads its command and environment from a file, then replaces itself by it.

A file carries any value, secrets too, unchanged and readable by its owner only; the supervisor's own configuration
cannot hold quotes, percent signs or semicolons. Runs isolated (`python -I -S`), with the standard library alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def main(spec_file: str) -> None:
    """Runs what `spec_file` says, as JSON."""
    become(json.loads(Path(spec_file).read_text(encoding="utf-8")))


def become(spec: dict[str, Any]) -> None:
    """Replaces this process by a part: `command`, `environment` and `directory`."""
    # Nothing comes on standard input. The supervisor's pipe for it stays open under another number all the same:
    # supervisord (4.3) polls without a pause on a pipe whose reader is gone, once its number was a socket's before.
    os.set_inheritable(os.dup(0), True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A shell starts what is to run in the background with these ignored, and Dagster treats a stop as an interrupt.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(spec["directory"])
    os.execve(spec["command"][0], spec["command"], {**os.environ, **spec["environment"]})  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
