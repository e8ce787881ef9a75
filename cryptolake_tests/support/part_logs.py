"""Log lines of platform parts during one test, added to the report of a failed test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SUSPICIOUS_LINES = 20
LAST_LINES = 8
MAX_LINE_CHARS = 400
_is_suspicious = re.compile(r"error|warn|exception|traceback|fatal|refused|killed", re.IGNORECASE).search

_directories: set[Path] = set()
_sizes_at_start: dict[Path, int] = {}


def watch(directory: Path) -> None:
    """Include the `*.log` files of this directory in the reports from now on."""
    _directories.add(directory)


def new_lines(path: Path, from_byte: int) -> list[str]:
    """Return the lines added to the file; all of them if it was rotated meanwhile."""
    with path.open("rb") as file:
        if path.stat().st_size >= from_byte:
            file.seek(from_byte)
        return file.read().decode(errors="replace").splitlines()


def excerpt(lines: list[str]) -> list[str]:
    """Return the last lines, preceded by the last earlier ones that contain an error or a warning."""
    head, tail = lines[:-LAST_LINES], lines[-LAST_LINES:]
    chosen = [line for line in head if _is_suspicious(line)][-SUSPICIOUS_LINES:]
    omitted = len(head) - len(chosen)
    note = [f"({omitted} lines omitted)"] if omitted else []
    return [line[:MAX_LINE_CHARS] for line in (*note, *chosen, *tail)]


def sections() -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each log with new lines since the test began."""
    for path in _log_files():
        if lines := new_lines(path, _sizes_at_start.get(path, 0)):
            yield f"{path.stem}: {len(lines)} lines logged during the test ({path})", "\n".join(excerpt(lines))


def _log_files() -> list[Path]:
    return sorted(path for directory in _directories if directory.is_dir() for path in directory.glob("*.log"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    _sizes_at_start.clear()
    _sizes_at_start.update({path: path.stat().st_size for path in _log_files()})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        report.sections.extend(sections())
    return report  # type: ignore[return-value]
