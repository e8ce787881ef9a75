"""`dagster definitions validate` for every code location of workspace.yaml, with deprecation and supersession warnings
as errors. Needs no network and no Java. The exceptions are those of the test suite, in pyproject.toml.
Usage: python -m scripts.validate [workspace file]"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path

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


def main() -> None:
    apply_filters(PROJECT_ROOT / "pyproject.toml")
    from dagster._cli import cli

    with tempfile.TemporaryDirectory() as home:
        os.environ["DAGSTER_HOME"] = home
        (Path(home) / "dagster.yaml").write_text((PROJECT_ROOT / "dagster.yaml").read_text(encoding="utf-8"))
        sys.argv = [
            "dagster",
            "definitions",
            "validate",
            "-w",
            *(sys.argv[1:] or [str(PROJECT_ROOT / "workspace.yaml")]),
        ]
        cli()


if __name__ == "__main__":
    main()
