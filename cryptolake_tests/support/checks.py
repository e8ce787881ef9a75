"""Asset check evaluations of a run, by asset and name."""

from __future__ import annotations

import dagster as dg


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, bool]]:
    """Return whether each check of a run passed, by table or mart and check name.

    Comparing the whole dict also notices a check that was not evaluated, which `all(…)` does not.
    """
    found: dict[str, dict[str, bool]] = {}
    for evaluation in result.get_asset_check_evaluations():
        of_asset = found.setdefault(evaluation.asset_key.path[-1], {})
        assert evaluation.check_name not in of_asset, "a check was evaluated twice"
        of_asset[evaluation.check_name] = evaluation.passed
    return found


def passed(**names: set[str]) -> dict[str, dict[str, bool]]:
    """Return the verdicts of a run in which exactly these checks were evaluated, by table, and all passed."""
    return {table: dict.fromkeys(of_table, True) for table, of_table in names.items()}
