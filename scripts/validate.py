"""Run `dagster definitions validate` for every code location of workspace.yaml, with deprecation and supersession
warnings as errors. Needs no network and no Java. The warning filters are those of the tests, from pyproject.toml.

Each location has a separate process, which loads the code itself: for a workspace with several locations Dagster would
start servers, which do not apply the filters.
Usage: python -m scripts.validate [workspace file]"""

from __future__ import annotations

import builtins
import importlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path

from cryptolake_assets.settings import PROJECT_ROOT

LOCATION = "--location"


def apply_filters(pyproject: Path) -> int:
    """Apply pytest's warning filters, `action:message:category:module`, to this process; return their number."""
    lines = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]["filterwarnings"]
    for line in lines:
        action, message, category, module = [*line.split(":"), "", "", ""][:4]
        warnings.filterwarnings(action, message, _category(category), module)
    return len(lines)


def _category(name: str) -> type[Warning]:
    """Return a warning class by its name: a built-in one, or one with its module."""
    if not name:
        return Warning
    module, _, attribute = name.rpartition(".")
    category: type[Warning] = getattr(importlib.import_module(module) if module else builtins, attribute)
    return category


def locations(workspace: Path) -> dict[str, list[str]]:
    """Return the command that validates each code location, by the location's name."""
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    commands = {}
    for origin in WorkspaceFileTarget(paths=[str(workspace)]).create_origins():
        target = origin.loadable_target_origin
        options = {
            "--module-name": target.module_name,
            "--python-file": target.python_file,
            "--package-name": target.package_name,
            "--working-directory": target.working_directory,
            "--attribute": target.attribute,
        }
        chosen = [part for name, value in options.items() if value for part in (name, value)]
        commands[origin.location_name] = [
            target.executable_path or sys.executable,
            "-m",
            __spec__.name,
            LOCATION,
            *chosen,
        ]
    return commands


def validate_location(options: list[str]) -> None:
    """Run Dagster's command in this process, which exits with the command's exit code."""
    apply_filters(PROJECT_ROOT / "pyproject.toml")
    with tempfile.TemporaryDirectory() as home:
        os.environ["DAGSTER_HOME"] = home
        shutil.copy(PROJECT_ROOT / "dagster.yaml", home)
        sys.argv = ["dagster", "definitions", "validate", *options]
        runpy.run_module("dagster", run_name="__main__")


def main() -> None:
    if sys.argv[1:2] == [LOCATION]:
        validate_location(sys.argv[2:])
        return
    failed = []
    for name, command in locations(Path(sys.argv[1]) if sys.argv[1:] else PROJECT_ROOT / "workspace.yaml").items():
        print(f"code location {name}", flush=True)
        if subprocess.run(command, cwd=PROJECT_ROOT).returncode:
            failed.append(name)
    print(f"not valid: {', '.join(failed)}" if failed else "all code locations are valid")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
