"""How the test run itself works: lanes by fixture, order, and what a failing test shows."""

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


def test_a_failing_test_shows_what_the_parts_logged_meanwhile_and_no_more(pytester: pytest.Pytester) -> None:
    directory = pytester.mkdir("logs")
    text = "from pathlib import PosixPath\n" + LOGGING_TEST.format(directory=directory)
    pytester.makepyfile(text)
    result = pytester.runpytest_subprocess("-p", "cryptolake_tests.support.part_logs")
    result.assert_outcomes(passed=1, failed=1)
    _, _, section = result.stdout.str().partition("kafka: 102 lines logged during the test")
    assert section.count("ERROR broken pipe") == 1
    assert section.count("INFO more") == part_logs.LAST_LINES
    for of_no_interest in ("INFO before the test", "INFO much", "passes=True"):
        assert of_no_interest not in section


def test_a_log_that_was_rotated_is_read_from_its_begin(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    path.write_text("new\n")
    assert part_logs.new_lines(path, from_byte=1_000) == ["new"]
    assert part_logs.new_lines(path, from_byte=4) == []


def test_who_asks_for_a_platform_is_an_integration_test(pytester: pytest.Pytester) -> None:
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


def test_long_modules_begin_first(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
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
