"""Launch a part: read its command and environment from a file, and replace this process with it.

Unlike the supervisor's configuration, the file can hold any value, including quotes, percent signs, semicolons and
secrets; only its owner can read it. Runs isolated (`python -I -S`) and uses only the standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 1.0


def main(spec_file: str) -> None:
    """Run the part of a JSON spec file, once the disk has the space that it needs to start."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    if "start_space" in spec:
        wait_for_space(**spec["start_space"])
    become(spec)


def wait_for_space(part: str, directory: str, free_bytes: int) -> None:
    """Wait until the disk of the directory has as many free bytes."""
    is_reported = False
    while (free := shutil.disk_usage(directory).free) < free_bytes:
        if not is_reported:
            sys.stderr.write(
                f"{part}: only {free / 1e6:.0f} MB are free on the disk of {directory}; it starts with "
                f"{free_bytes / 1e6:.0f} MB. Free some space.\n"
            )
            is_reported = True
        time.sleep(POLL_S)


def become(spec: dict[str, Any]) -> None:
    """Replace this process with a part. `spec` has `command`, `environment` and `directory`."""
    # Parts read nothing from stdin. Keep the supervisor's stdin pipe open under another descriptor, because
    # supervisord (4.3) busy-polls a pipe without a reader if its descriptor was a socket's before.
    os.set_inheritable(os.dup(0), True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A shell starts background processes with these signals ignored, but Dagster stops on an interrupt.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(spec["directory"])
    os.execve(spec["command"][0], spec["command"], {**os.environ, **spec["environment"]})  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
