"""The packages (rooms) of the project: imports go one way, without cycles, and module names are unique."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from cryptolake_assets.settings import PACKAGE_DIR

PACKAGE = PACKAGE_DIR.name
# A room imports only itself and rooms before it.
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
    "live",
    "platform",
    "client",
    "dashboard",
    "defs",
    "marts_definitions",
    "definitions",
    "api",
    "cli",
)
BELOW_THE_GRAPH = ORDER[: ORDER.index("defs")]  # `platform` starts Dagster by command, without importing it
NAMED_AFTER_ROOMS = ("settings", "defs", "cli", "views")  # rooms with modules named after other rooms
REPEATED = ("__init__.py", "__main__.py", "app.py")  # base names with the same meaning in every room

# Modules that `quality` may import in addition to itself and `model`. An allow list: new access to disk, network
# or clock requires an entry here.
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
# Names that `quality` may import from modules with I/O.
PURE_NAMES = frozenset(
    (
        "cryptolake_assets.lake.coverage.CoverageRow",
        "cryptolake_assets.lake.coverage.Evidence",
        "cryptolake_assets.lake.coverage.LOADING",
        "cryptolake_assets.lake.gap_ledger.TradeGap",
    )
)
IO_NAMES = frozenset(("__import__", "compile", "eval", "exec", "globals", "input", "open", "print", "vars"))
IO_ATTRIBUTES = frozenset(
    ("OSFile", "connect", "input_stream", "memory_map", "now", "open", "output_stream", "today", "utcnow")
)

MODULES = {
    ".".join(path.relative_to(PACKAGE_DIR.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE_DIR.rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, at the top level or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def own_imports(module: str) -> set[str]:
    return {name for name in imports(MODULES[module]) if name.startswith(f"{PACKAGE}.") and name != module}


def test_order_contains_every_room() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(ORDER)


def test_imports_go_one_way() -> None:
    upward = [
        f"{module} imports {name}"
        for module in MODULES
        if "." in module
        for name in own_imports(module)
        if ORDER.index(room_of(name)) > ORDER.index(room_of(module))
    ]
    assert upward == []


def test_imports_have_no_cycle() -> None:
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_model_imports_only_errors_and_dashboard_only_the_client() -> None:
    of_model = {room_of(name) for module in MODULES if room_of(module) == "model" for name in own_imports(module)}
    assert of_model <= {"model", "errors"}
    of_pages = {room_of(name) for module in MODULES if room_of(module) == "dashboard" for name in own_imports(module)}
    assert of_pages <= {"dashboard", "client", "model", "settings", "errors", "log"}


@pytest.mark.parametrize("room", BELOW_THE_GRAPH)
def test_rooms_below_the_graph_do_not_import_dagster(room: str) -> None:
    paths = [path for module, path in MODULES.items() if room_of(module) == room]
    assert paths
    assert [(path.name, name) for path in paths for name in imports(path) if name.startswith("dagster")] == []


def impurities(source: str) -> Iterator[str]:
    """Yield the imports, names and attributes of a module that allow I/O; annotations are ignored."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
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
def test_impurities_are_detected(source: str) -> None:
    assert list(impurities(source))


def test_module_base_names_are_unique() -> None:
    found = defaultdict(list)
    for path in MODULES.values():
        if path.name not in REPEATED and path.parent.name not in NAMED_AFTER_ROOMS:
            found[path.name].append(str(path.relative_to(PACKAGE_DIR)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_class_names_are_unique() -> None:
    found = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}
