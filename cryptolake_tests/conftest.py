"""Fixtures of all tests. Settings have a separate home, so that no test touches the user's state."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import structlog

from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, get_settings, load_settings

if TYPE_CHECKING:
    from cryptolake_tests.support.api import Api
    from cryptolake_tests.support.captures import HostileFrame
    from cryptolake_tests.support.platforms import StartPlatform

pytest_plugins = ["cryptolake_tests.support.part_logs", "cryptolake_tests.support.progress"]

# A slow machine must not fail a test.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("nightly", hypothesis.settings.get_profile("busy"), max_examples=1_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "busy"))

# A test's JVM ends before the optimizing compiler pays off: with C1 alone, Spark starts and runs its first queries in
# about 60 % of the CPU time. C1 alone would reserve only 48 MB of code cache, which Spark fills in ten minutes.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")

# Partitions would end with the last day of the demo capture, but tests use later days, too.
os.environ.setdefault("CRYPTOLAKE_END_DATE", "2100-01-01")

# A shell starts background jobs with SIGINT ignored, and Dagster sets the same handler for SIGTERM: its child processes
# would ignore SIGTERM.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Raise the GC thresholds: full collections would traverse all objects of imported packages repeatedly, for nothing.
gc.set_threshold(50_000, 20, 100)

PLAIN_LOG: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.dev.set_exc_info,
    structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=True),
    structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
]


@pytest.fixture(scope="session")
def start_platform() -> StartPlatform:
    """Return a context manager that runs parts of a platform; tests that use it are integration tests."""
    from cryptolake_tests.support.platforms import running

    return running


@pytest.fixture(scope="session")
def empty_lakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the home of an empty lake; copy it, do not use it."""
    from cryptolake_tests.support.lakes import HOME, make_empty

    directory = tmp_path_factory.mktemp("empty-lake")
    make_empty(load_settings(home=directory / HOME))
    return directory


@pytest.fixture
def lake(empty_lakes: Path, tmp_path: Path) -> Settings:
    """Return the settings of an empty lake in a separate directory with a space in its name."""
    from cryptolake_tests.support.lakes import open_copy

    return open_copy(empty_lakes, tmp_path)


@pytest.fixture(scope="session")
def hostile_capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[HostileFrame]]:
    """Return the shipped capture with hostile frames added, and these frames. Read-only."""
    from cryptolake_tests.support.captures import with_hostile_frames

    directory = tmp_path_factory.mktemp("hostile")
    return directory, with_hostile_frames(DEMO_CAPTURE_DIR, directory)


@pytest.fixture
def bars(lake: Settings) -> Settings:
    """Return the settings of a lake with bars of two symbols on three days."""
    from cryptolake_tests.support.api import put_days

    put_days(lake)
    return lake


@pytest.fixture
def api(bars: Settings) -> Iterator[Api]:
    """Serve the API on a lake with bars."""
    from cryptolake_tests.support.api import serving

    with serving(bars) as api:
        yield api


@pytest.fixture(scope="module")
def shared_api(empty_lakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Serve the API on a lake with bars, for read-only tests of a module."""
    from cryptolake_tests.support.api import put_days, serving
    from cryptolake_tests.support.lakes import open_copy

    settings = open_copy(empty_lakes, tmp_path_factory.mktemp("shared"))
    put_days(settings)
    with serving(settings) as api:
        yield api


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process's settings a home in the test's directory."""
    monkeypatch.setenv("CRYPTOLAKE_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset logging after each test; cached loggers would continue to write to its captured output."""
    configure = structlog.configure

    def without_cache(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", without_cache)
    # The default renderer shows the locals of every frame in tracebacks, which takes seconds for tables.
    configure(processors=PLAIN_LOG)
    yield
    structlog.reset_defaults()
