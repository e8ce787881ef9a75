"""`dagster definitions validate` for every code location of workspace.yaml, with deprecation and supersession warnings
as errors. Needs no network and no Java. The exceptions are those of the test suite, in pyproject.toml.
Usage: python -m scripts.validate [workspace file]"""

from __future__ import annotations

import builtins
import importlib
import os
import subprocess
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path

import yaml

from cryptolake_assets.settings import PROJECT_ROOT


def apply_filters(pyproject: Path) -> int:
    """Sets this process's warning filters to pytest's, `action:message:category:module`; returns how many."""
    lines = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]["filterwarnings"]
    for line in lines:
        action, message, category, module = [*line.split(":"), "", "", ""][:4]
        warnings.filterwarnings(action, message, _category(category), module)
    return len(lines)


def _category(name: str) -> type[Warning]:
    """A warning class by its name: built-in, or with its module."""
    if not name:
        return Warning
    module, _, attribute = name.rpartition(".")
    category: type[Warning] = getattr(importlib.import_module(module) if module else builtins, attribute)
    return category


def targets(workspace: Path) -> list[list[str]]:
    """What `definitions validate` is to look at: each location alone, because only then is its code loaded in this
    program's own process, where the filters count; then the whole workspace, as one graph."""
    alone = []
    for entry in yaml.safe_load(workspace.read_text(encoding="utf-8"))["load_from"]:
        ((kind, where),) = entry.items()
        if kind == "python_module":
            alone.append(["-m", where["module_name"] if isinstance(where, dict) else where])
        else:
            alone.append(["-f", str(workspace.parent / where)])
    return [*alone, ["-w", str(workspace)]]


def main() -> None:
    workspace = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT_ROOT / "workspace.yaml"
    failed = [target for target in targets(workspace) if subprocess.run([*COMMAND, *target]).returncode]
    sys.exit(f"not valid: {', '.join(' '.join(target) for target in failed)}" if failed else 0)


COMMAND = (sys.executable, "-c", "from scripts.validate import validate; validate()")


def validate() -> None:
    """One run of `dagster definitions validate` with this process's arguments."""
    apply_filters(PROJECT_ROOT / "pyproject.toml")
    from dagster._cli import cli

    with tempfile.TemporaryDirectory() as home:
        os.environ["DAGSTER_HOME"] = home
        (Path(home) / "dagster.yaml").write_text((PROJECT_ROOT / "dagster.yaml").read_text(encoding="utf-8"))
        sys.argv = ["dagster", "definitions", "validate", *sys.argv[1:]]
        cli()


if __name__ == "__main__":
    main()
