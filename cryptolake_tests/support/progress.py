"""Lanes, order and progress of a test run.

A test that uses a fixture of `LANES` belongs to that lane. One that uses none is a component test if it is in a folder
of `COMPONENT_FOLDERS` (entire graphs, processes and pages, without broker and Spark), else a unit test.
Modules run in order of their seconds in `durations.json`, the longest first, so that workers end at about the
same time.
`CRYPTOLAKE_TEST_DURATIONS=FILE` writes those seconds after a run of all tests on an idle machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

DURATIONS = Path(__file__).parents[1] / "durations.json"
DEFAULT_S = 1.0
"""Duration of a module that is not in the file yet."""
LANES = {"cluster": "cluster", "start_platform": "integration"}
"""Marker by fixture."""
COMPONENT_FOLDERS = {"integration"}
INTEGRATION_TIMEOUT_S = 600
"""The start of a platform counts towards the first test that uses it."""
REPORT_EVERY_S = 15.0


def known_durations() -> dict[str, float]:
    """Return the seconds of each test module, by its path below the project's root."""
    known: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    return known


def module_of(node_id: str) -> str:
    return node_id.partition("::")[0]


def lane_of(item: pytest.Item) -> str | None:
    """Return the marker of the test's lane, None for a unit test."""
    fixtures = getattr(item, "fixturenames", ())
    by_fixture = next((marker for fixture, marker in LANES.items() if fixture in fixtures), None)
    return by_fixture or ("component" if item.path.parent.name in COMPONENT_FOLDERS else None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = known_durations()
    for item in items:
        if (lane := lane_of(item)) is not None:
            item.add_marker(lane)
            item.add_marker(pytest.mark.timeout(INTEGRATION_TIMEOUT_S))
    items.sort(key=lambda item: -known.get(module_of(item.nodeid), DEFAULT_S))  # stable: a module's order stays


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "cryptolake-progress")


class Progress:
    """Print progress and the estimated remaining time every `REPORT_EVERY_S`.

    The estimate uses the durations of modules, scaled by the speed of the finished ones on this machine.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = self._printed_at = time.monotonic()
        self._known = known_durations()
        self._tests: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._is_first = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._register(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Iterable[str]) -> None:
        self._register(ids)

    def _register(self, ids: Iterable[str]) -> None:
        if not self._tests:
            self._tests.update(module_of(node_id) for node_id in ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        module = module_of(report.nodeid)
        self._seconds[module] += report.duration
        if report.when == "teardown":
            self._done[module] += 1
            self._print()

    def _print(self) -> None:
        now = time.monotonic()
        if now - self._printed_at < REPORT_EVERY_S:
            return
        self._printed_at = now
        total = sum(self._expected_s(module) for module in self._tests)
        share = sum(self._expected_s(module) * self._done[module] / self._tests[module] for module in self._tests)
        elapsed = now - self._began
        left_s = elapsed * (total - share) / share if share else 0.0
        failed = len(self._stats("failed")) + len(self._stats("error"))
        line = (
            f"[{self._done.total()} of {self._tests.total()} tests, {elapsed / 60:.1f} min, "
            f"about {left_s / 60:.1f} min left{f', {failed} failed' if failed else ''}]"
        )
        print(f"\n{line} ", end="", file=sys.__stderr__, flush=True)

    def _expected_s(self, module: str) -> float:
        return self._known.get(module, DEFAULT_S)

    def _stats(self, kind: str) -> list[object]:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        return list(reporter.stats.get(kind, ())) if reporter else []

    def pytest_sessionfinish(self) -> None:
        target = os.environ.get("CRYPTOLAKE_TEST_DURATIONS")
        if target and self._seconds:
            path = Path(target)
            known = json.loads(path.read_text()) if path.exists() else {}
            known |= {module: round(seconds, 1) for module, seconds in self._seconds.items()}
            path.write_text(json.dumps(dict(sorted(known.items())), indent=0) + "\n")
