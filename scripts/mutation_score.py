"""Print the results of a mutmut run by module, and on request the surviving mutants.

`.venv/bin/python -m scripts.mutation_score [--all]`: the score is killed / all; `--all` shows each survivor as a diff.
Exit code 1 if the total score is below `TARGET`.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

MUTANTS = Path("mutants")
TARGET = 0.85
KILLED, SURVIVED, NO_TESTS = 1, 0, 33  # mutmut's exit codes; others are timeouts or crashes and count as killed


def verdicts() -> dict[str, dict[str, int]]:
    """Return the exit code of each mutant, by module file."""
    found = {}
    for path in sorted(MUTANTS.rglob("*.py.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            found[str(path.relative_to(MUTANTS)).removesuffix(".meta")] = codes
    return found


def survivors(module: str, codes: dict[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Yield each surviving mutant's name and its changed lines."""
    text = (MUTANTS / module).read_text()
    lines = text.splitlines()
    bodies = {
        node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for key, code in codes.items():
        name = key.rpartition(".")[2]
        original = re.sub(r"__mutmut_\d+$", "__mutmut_orig", name)
        if code in (SURVIVED, NO_TESTS) and name in bodies and original in bodies:
            before = bodies[original].replace(original, "").splitlines()
            after = bodies[name].replace(name, "").splitlines()
            changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
            yield name, changed


def main(arguments: list[str]) -> int:
    console = Console()
    found = verdicts()
    if not found:
        raise SystemExit("mutation score: no results in mutants/. Run `make mutate`.")
    table = Table("Module", "Mutants", "Killed", "Survived", "Untested", "Score")
    total: Counter[str] = Counter()
    for module, codes in found.items():
        counts = Counter({SURVIVED: "survived", NO_TESTS: "untested"}.get(code, "killed") for code in codes.values())
        total.update(counts)
        table.add_row(module, *_cells(counts))
    table.add_section()
    table.add_row("All", *_cells(total))
    console.print(table)
    if "--all" in arguments:
        for module, codes in found.items():
            for name, changed in survivors(module, codes):
                console.print(f"\n{module}: {name}", style="bold", highlight=False)
                console.print("\n".join(changed), markup=False, highlight=False)
    return 0 if total["killed"] / total.total() >= TARGET else 1


def _cells(counts: Counter[str]) -> list[str]:
    numbers = (counts.total(), counts["killed"], counts["survived"], counts["untested"])
    return [*map(str, numbers), f"{counts['killed'] / counts.total():.1%}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
