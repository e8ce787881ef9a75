"""Old bugs, put back by patches, are found by the simulation."""

from __future__ import annotations

import pytest

from reliability.simulation.old_bugs.search import ROOT, OldBug, old_bugs, patched_tree

BUGS = old_bugs()
ids = [bug.name for bug in BUGS]


@pytest.mark.parametrize("bug", BUGS, ids=ids)
def test_patch_applies_to_the_tree(bug: OldBug) -> None:
    assert bug.description
    with patched_tree(bug) as tree:
        changed = [
            path
            for path in (tree / "cryptolake_assets").rglob("*.py")
            if path.read_bytes() != (ROOT / path.relative_to(tree)).read_bytes()
        ]
    assert changed


def test_there_are_at_least_five_old_bugs() -> None:
    assert len(BUGS) >= 5
