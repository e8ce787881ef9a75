"""The `sometimes` assertions: states that a run reached, counted from the log lines of its parts and Dagster runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cryptolake_assets.settings import Settings

STATES: Final = (
    "repair_during_restart",  # the producer repaired a gap while the Bronze stream was down
    "gap_fetched",
    "commit_retried",  # a commit lost a race with another writer
    "batch_resent",  # the producer sent a batch again whose acknowledgement was missing
    "orphaned_run_canceled",  # a Silver run whose process was killed
    "query_restarted",  # the Bronze stream finished the unfinished batch of a killed one
    "leftover_query_stopped",  # a new Bronze client replaced the queries of a killed one
    "resume_points_read",  # a new producer continued from the last ids
    "broker_recovered",
)
"""Names of log events, and of the states derived from them."""


class LogReader:
    """Reads the log lines that were added since the last call, from all parts and runs of a platform."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sizes: dict[Path, int] = {}

    def new_events(self) -> dict[str, list[dict[str, Any]]]:
        """Return the structured log events by part, in the order written; other lines are skipped."""
        return {name: list(_events(self._added(path))) for name, path in self._files()}

    def tails(self, lines: int) -> str:
        """Return the last lines of each part's log."""
        return "\n".join(
            f"--- {name} ({path})\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for name, path in self._files()
            if path.parent == self._settings.log_dir
        )

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self._settings.log_dir.glob("*.log")):
            yield path.stem, path
        for path in sorted(self._settings.dagster_home.rglob("*.err")):
            yield f"run {path}", path

    def _added(self, path: Path) -> Iterable[bytes]:
        before = self._sizes.get(path, 0)
        data = path.read_bytes()
        if len(data) < before:  # rotated
            before = 0
        complete = data.rfind(b"\n") + 1
        self._sizes[path] = max(complete, before)
        return data[before:complete].splitlines()


_TEXT_EVENT: Final = re.compile(rb"\[(?:info|warning|error) *\] ([a-z_]+)")


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if (found := _TEXT_EVENT.search(line)) is not None:  # of a Dagster process, which logs text
            yield {"event": found[1].decode()}
        elif line.startswith(b"{"):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


def reached(events: Mapping[str, list[dict[str, Any]]]) -> Counter[str]:
    """Return the number of times each state was reached."""
    counted = Counter(str(event["event"]) for of_part in events.values() for event in of_part)
    found = Counter({state: counted[state] for state in STATES if counted[state]})
    restarts = _restarts(events.get("bronze", []))
    repairs = [str(event["timestamp"]) for event in events.get("producer", []) if event["event"] == "gap_fetched"]
    if during := sum(any(begin <= at <= end for begin, end in restarts) for at in repairs):
        found["repair_during_restart"] = during
    return found


def _restarts(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the times (ISO) between a stream's last event and the start of the next one."""
    return [
        (str(before["timestamp"]), str(event["timestamp"]))
        for before, event in pairwise(events)
        if event["event"] == "bronze_stream_started"
    ]
