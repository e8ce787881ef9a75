"""The Makefile: the list of `make help`, and the errors for a missing Python or partition."""

from __future__ import annotations

import subprocess

import pytest

from cryptolake_assets.settings import PROJECT_ROOT

TARGETS = (
    *("help", "setup", "demo", "up", "down", "status", "test", "lint", "format", "types", "lock"),
    *("kafka-create-topics", "kafka-peek", "bootstrap", "bootstrap-iceberg", "run-bronze", "bronze-available-now"),
    *("run-silver", "run-gold", "trigger-silver", "spark-sql-check"),
)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True)


def test_help_lists_every_target_with_a_description() -> None:
    listed = dict(line.split(maxsplit=1) for line in make("help").stdout.splitlines())
    assert set(TARGETS) <= set(listed)
    assert all(description for description in listed.values())


def test_make_without_target_shows_the_help() -> None:
    assert make().stdout == make("help").stdout


def test_missing_python_is_reported() -> None:
    result = make("setup", "PYTHON=")
    assert result.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13 was found" in result.stderr
    assert "PYTHON=" in result.stderr


@pytest.mark.parametrize("target", ["run-silver", "run-gold", "trigger-silver"])
def test_run_target_requires_a_partition(target: str) -> None:
    # `-o` keeps make from setting up the environment first.
    result = make(target, "-o", ".venv/cryptolake/ready")
    assert result.returncode != 0
    assert "PARTITION=" in result.stderr
