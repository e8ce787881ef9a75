"""`python -m reliability.simulation.old_bugs`: search each old bug, print a table, append to the results."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from reliability.page import record as record_result
from reliability.results import OldBugResult, current_commit
from reliability.simulation.old_bugs.search import OldBug, Search, old_bugs, search

console = Console(stderr=True, highlight=False)


def main(
    only: Annotated[str, typer.Option(help="Name of one bug. Default: all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Maximum number of seeds per bug.")] = 200,
    first_seed: Annotated[int, typer.Option(help="The seed to begin with.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Bugs searched at a time.")] = 1,
    record: Annotated[bool, typer.Option(help="Append the outcomes to the results.")] = True,
) -> None:
    """Search the old bugs with the simulation; each search ends at its first violation."""
    bugs = [bug for bug in old_bugs() if only in ("", bug.name)]
    if not bugs:
        raise typer.BadParameter(f"unknown bug {only}; the bugs are {', '.join(bug.name for bug in old_bugs())}")
    begin = datetime.now(UTC)

    def searched(bug: OldBug) -> Search:
        console.print(f"[bold]{bug.name}[/bold]: {bug.description}")
        return search(bug, first_seed, seeds)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        found = list(zip(bugs, pool.map(searched, bugs), strict=True))
    table = Table("Bug", "Found at seed", "Seeds", "Simulated h", "CPU s", "Violation")
    for bug, outcome in found:
        seed = "[red]not found" if outcome.found_at_seed is None else str(outcome.found_at_seed)
        hours, cpu_s = f"{outcome.simulated_hours:.1f}", f"{outcome.cpu_s:.1f}"
        table.add_row(bug.name, seed, str(outcome.seeds), hours, cpu_s, outcome.violation[:120])
        if record:
            record_result(
                OldBugResult(
                    at=begin.isoformat(timespec="seconds"),
                    commit=current_commit(),
                    cores=os.cpu_count() or 1,
                    bug=bug.name,
                    description=bug.description,
                    first_seed=first_seed,
                    found_at_seed=outcome.found_at_seed,
                    seeds=outcome.seeds,
                    cpu_s=round(outcome.cpu_s, 1),
                    violation=outcome.violation,
                )
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
