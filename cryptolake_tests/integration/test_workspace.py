"""Every code location of workspace.yaml, loaded as by the webserver, the daemon and `make validate`.

The instance has the shipped dagster.yaml.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from cryptolake_assets.settings import PROJECT_ROOT

WORKSPACE = PROJECT_ROOT / "workspace.yaml"
MAX_LOAD_S = 60.0
"""Limit for all locations on two busy cores; about 4 s each on idle ones."""


def locations() -> list[str]:
    """Return the names of the code locations in workspace.yaml."""
    entries = yaml.safe_load(WORKSPACE.read_text(encoding="utf-8"))["load_from"]
    return [str(next(iter(entry.values()))["location_name"]) for entry in entries]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as one:
        yield one


def test_instance_has_the_settings_of_dagster_yaml(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert instance.run_monitoring_enabled
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.freshness_enabled
    assert {"FRESHNESS_DAEMON", "EVENT_LOG_CONSUMER", "MONITORING"} <= set(instance.get_required_daemon_types())
    assert not instance.telemetry_enabled


def test_every_location_loads_in_its_own_server(instance: dg.DagsterInstance) -> None:
    began = time.monotonic()
    with WorkspaceProcessContext(instance, WorkspaceFileTarget(paths=[str(WORKSPACE)])) as process:
        context = process.create_request_context()
        entries = {entry.origin.location_name: entry for entry in context.get_code_location_entries().values()}
        seconds = time.monotonic() - began
        assert sorted(entries) == sorted(locations())
        for name, entry in entries.items():
            assert entry.load_error is None, f"{name}: {entry.load_error}"
            assert isinstance(entry.code_location, GrpcServerCodeLocation)
            repositories = entry.code_location.get_repositories().values()
            assert any(repository.asset_graph.materializable_asset_keys for repository in repositories), name
    assert seconds < MAX_LOAD_S


def validate(workspace: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.validate", *([] if workspace == WORKSPACE else [str(workspace)])],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.nightly
def test_every_location_is_valid_with_deprecations_as_errors() -> None:
    result = validate(WORKSPACE)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in locations():
        assert f"code location {name}\n" in result.stdout
    assert result.stdout.count("Validation successful") + result.stderr.count("Validation successful") == len(
        locations()
    )


def test_deprecation_in_a_location_is_an_error(tmp_path: Path) -> None:
    for name, category in (("old", "DeprecationWarning"), ("superseded", "SupersessionWarning")):
        (tmp_path / f"{name}.py").write_text(
            "import warnings\nimport dagster\nfrom dagster._utils.warnings import SupersessionWarning\n"
            f"warnings.warn('this is {name}', {category})\ndefs = dagster.Definitions()\n"
        )
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from:\n  - python_file: old.py\n  - python_file: superseded.py\n")
    result = validate(workspace)
    assert result.returncode == 1
    for name in ("old", "superseded"):
        assert f"this is {name}" in result.stdout + result.stderr
