"""Results of a run: check verdicts by table and name, and the materialized tables."""

from __future__ import annotations

import dagster as dg


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, bool]]:
    """Return whether each check of a run passed in all partitions, by table or mart and check name.

    Comparing the entire dict also detects a check that was not evaluated, which `all(…)` does not.
    """
    evaluations = result.get_asset_check_evaluations()
    keys = [(evaluation.asset_check_key, evaluation.partition) for evaluation in evaluations]
    assert len(set(keys)) == len(keys), "a check was evaluated twice"
    found: dict[str, dict[str, bool]] = {}
    for evaluation in evaluations:
        of_asset = found.setdefault(evaluation.asset_key.path[-1], {})
        of_asset[evaluation.check_name] = of_asset.get(evaluation.check_name, True) and evaluation.passed
    return found


def passed(**names: set[str]) -> dict[str, dict[str, bool]]:
    """Return the verdicts of a run in which exactly these checks of each table were evaluated and passed."""
    return {table: dict.fromkeys(of_table, True) for table, of_table in names.items()}


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """Return the tables that a run materialized, independent of step names."""
    events = result.get_asset_materialization_events()
    return {event.asset_key.path[-1] for event in events if event.asset_key is not None}
