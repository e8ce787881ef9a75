"""Old bugs, put back by patches, are found by the simulation."""

from __future__ import annotations

import pytest

from reliability.results import OldBugResult, read
from reliability.simulation.old_bugs.search import ROOT, OldBug, old_bugs, patched_tree, search

BUGS = old_bugs()
ids = [bug.name for bug in BUGS]
NEWEST = {found.bug: found for found in read(OldBugResult)}
FOUND = {name: found.description for name, found in NEWEST.items() if found.found_at_seed is not None}


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


def test_old_bug_is_found_at_its_seed() -> None:
    (bug,) = (bug for bug in BUGS if bug.name == "restart_without_resume")
    found = search(bug, 1, 3)
    assert found.found_at_seed is not None
    assert found.violation


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(FOUND))
def test_old_bug_of_the_results_is_found_again(name: str) -> None:
    (bug,) = (bug for bug in BUGS if bug.name == name)
    assert search(bug, 1, 200).found_at_seed is not None


def test_at_least_three_bugs_of_the_changelog_were_found() -> None:
    assert sum("changelog" in description for description in FOUND.values()) >= 3


def test_there_are_at_least_five_old_bugs() -> None:
    assert len(BUGS) >= 5
