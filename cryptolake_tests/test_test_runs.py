"""The test run: lanes by fixture, order of modules, and output of failing tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryptolake_assets.settings import PROJECT_ROOT
from cryptolake_tests.support import part_logs

pytest_plugins = ["pytester"]

LOGGING_TEST = """
import pytest
from cryptolake_tests.support import part_logs

part_logs.watch({directory!r})
log = {directory!r} / "kafka.log"
log.write_text("INFO before the test\\n")

@pytest.mark.parametrize("passes", [True, False])
def test_one(passes):
    with log.open("a") as file:
        file.write(f"INFO passes={{passes}}\\n" + "INFO much\\n" * 50 + "ERROR broken pipe\\n" + "INFO more\\n" * 50)
    assert passes
"""

LANES_TEST = """
import pytest

@pytest.fixture(scope="module")
def start_platform(): ...

@pytest.fixture
def platform(start_platform): ...

def test_unit(tmp_path): ...
def test_direct(start_platform): ...
def test_through_another_fixture(platform): ...
"""


@pytest.fixture(autouse=True)
def _plugins_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_failing_test_shows_logs_of_the_parts_during_the_test_only(pytester: pytest.Pytester) -> None:
    directory = pytester.mkdir("logs")
    text = "from pathlib import PosixPath\n" + LOGGING_TEST.format(directory=directory)
    pytester.makepyfile(text)
    result = pytester.runpytest_subprocess("-p", "cryptolake_tests.support.part_logs")
    result.assert_outcomes(passed=1, failed=1)
    _, _, section = result.stdout.str().partition("kafka: 102 lines logged during the test")
    assert section.count("ERROR broken pipe") == 1
    assert section.count("INFO more") == part_logs.LAST_LINES
    for unrelated in ("INFO before the test", "INFO much", "passes=True"):
        assert unrelated not in section


def test_rotated_log_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    path.write_text("new\n")
    assert part_logs.new_lines(path, from_byte=1_000) == ["new"]
    assert part_logs.new_lines(path, from_byte=4) == []


def test_tests_that_use_a_platform_are_integration_tests(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n  integration\n  component\n  cluster\n  timeout(seconds)\n")
    pytester.makepyfile(LANES_TEST)
    plugin = ("-p", "cryptolake_tests.support.progress", "--collect-only", "-q")
    integration = pytester.runpytest_subprocess(*plugin, "-m", "integration").stdout.str()
    assert "test_direct" in integration
    assert "test_through_another_fixture" in integration
    assert "test_unit" not in integration
    unit = pytester.runpytest_subprocess(*plugin, "-m", "not integration and not cluster").stdout.str()
    assert "test_unit" in unit
    assert "test_direct" not in unit


def test_slow_modules_run_first(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        pytester.makepyfile(**{f"test_{name}": "def test_it(): ...\ndef test_again(): ..."})
    durations = pytester.path / "durations.json"
    durations.write_text('{"test_b.py": 60.0, "test_a.py": 0.1}')
    pytester.makeconftest(
        "from pathlib import Path\n"
        "from cryptolake_tests.support import progress\n"
        f"progress.DURATIONS = Path({str(durations)!r})\n"
    )
    result = pytester.runpytest_subprocess("-p", "cryptolake_tests.support.progress", "--collect-only", "-q")
    order = [line.partition("::")[0] for line in result.stdout.lines if "::" in line]
    assert order == ["test_b.py", "test_b.py", "test_c.py", "test_c.py", "test_a.py", "test_a.py"]
