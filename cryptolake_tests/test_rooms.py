"""The rooms of the package: imports go one way, without a cycle, and a name is found once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from cryptolake_assets.settings import PACKAGE_DIR

PACKAGE = PACKAGE_DIR.name
ORDER = (
    "errors",
    "log",
    "model",
    "settings",
    "http",
    "binance",
    "captures",
    "kafka",
    "lake",
    "quality",
    "replay",
    "producer",
    "bronze",
    "ingest",
    "transform",
    "platform",
    "client",
    "dashboard",
    "defs",
    "marts_definitions",
    "definitions",
    "api",
    "cli",
)
"""A room imports those before it, and its own."""
BELOW_THE_GRAPH = ORDER[: ORDER.index("defs")]
"""`platform` runs Dagster's processes by their commands."""
NAMED_AFTER_ROOMS = ("settings", "defs", "cli", "views")
"""Rooms whose files repeat the names of what they set, assemble or show."""
REPEATED = ("__init__.py", "__main__.py", "app.py")
"""Base names with one meaning in every room that has them."""

PURE_MODULES = frozenset(
    (
        "__future__",
        "bisect",
        "collections",
        "collections.abc",
        "cryptolake_assets.binance.stream_type",
        "cryptolake_assets.binance.stream_types",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "itertools",
        "typing",
    )
)
"""What `quality` imports besides itself and `model`: a list of what is allowed, so that a new way to the disk, the
network or the clock needs a line here."""
PURE_NAMES = frozenset(
    (
        "cryptolake_assets.lake.coverage.CoverageRow",
        "cryptolake_assets.lake.coverage.Evidence",
        "cryptolake_assets.lake.coverage.LOADING",
        "cryptolake_assets.lake.gap_ledger.TradeGap",
    )
)
"""Values that it takes from modules which also read and write."""
IO_NAMES = frozenset(("__import__", "compile", "eval", "exec", "globals", "input", "open", "print", "vars"))
IO_ATTRIBUTES = frozenset(
    ("OSFile", "connect", "input_stream", "memory_map", "now", "open", "output_stream", "today", "utcnow")
)

MODULES = {
    ".".join(path.relative_to(PACKAGE_DIR.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE_DIR.rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Return every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def ours(module: str) -> set[str]:
    return {name for name in imports(MODULES[module]) if name.startswith(f"{PACKAGE}.") and name != module}


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(ORDER)


def test_imports_go_one_way() -> None:
    upward = [
        f"{module} imports {name}"
        for module in MODULES
        if "." in module
        for name in ours(module)
        if ORDER.index(room_of(name)) > ORDER.index(room_of(module))
    ]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({module: ours(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")


def test_model_imports_errors_alone_and_the_dashboard_the_client() -> None:
    of_model = {room_of(name) for module in MODULES if room_of(module) == "model" for name in ours(module)}
    assert of_model <= {"model", "errors"}
    of_pages = {room_of(name) for module in MODULES if room_of(module) == "dashboard" for name in ours(module)}
    assert of_pages <= {"dashboard", "client", "model", "settings", "errors", "log"}


@pytest.mark.parametrize("room", BELOW_THE_GRAPH)
def test_rooms_below_the_graph_do_not_import_dagster(room: str) -> None:
    paths = [path for module, path in MODULES.items() if room_of(module) == room]
    assert paths
    assert [(path.name, name) for path in paths for name in imports(path) if name.startswith("dagster")] == []


def impurities(source: str) -> Iterator[str]:
    """Return what a module does that is not computation on what it is given. Annotations may name anything."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name not in PURE_MODULES | {"pyarrow"})
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            is_pure = module in PURE_MODULES or module.startswith((f"{PACKAGE}.model.", f"{PACKAGE}.quality"))
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if not is_pure and name not in PURE_NAMES)
        elif isinstance(node, ast.Name) and node.id in IO_NAMES:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in IO_ATTRIBUTES:
            yield f".{node.attr}"


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) == "quality"])
def test_quality_reads_no_file_table_network_or_clock(module: str) -> None:
    assert list(impurities(MODULES[module].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import pyarrow.parquet",
        "from pyarrow import fs",
        "from pathlib import Path",
        "def f():\n    import httpx",
        "from cryptolake_assets.lake import catalog",
        "from cryptolake_assets.lake.coverage import read_coverage",
        "from cryptolake_assets.lake.duck import open_duckdb",
        "from cryptolake_assets.model import *\nfrom time import time",
        "from . import rules",
        "if TYPE_CHECKING:\n    import duckdb\nelse:\n    import duckdb",
        "open('file')",
        "__import__('os')",
        "datetime.now()",
    ],
)
def test_every_way_out_of_quality_is_found(source: str) -> None:
    assert list(impurities(source))


def test_base_name_is_used_once() -> None:
    found = defaultdict(list)
    for path in MODULES.values():
        if path.name not in REPEATED and path.parent.name not in NAMED_AFTER_ROOMS:
            found[path.name].append(str(path.relative_to(PACKAGE_DIR)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_class_name_is_used_once() -> None:
    found = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}
