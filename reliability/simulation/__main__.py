"""`python -m reliability.simulation`: simulate consecutive seeds, and append what was found to the results."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from reliability import results
from reliability.page import record
from reliability.simulation.schedules import Outcome, schedule_of, simulate
from reliability.simulation.shorten import shortened

console = Console(highlight=False, soft_wrap=True)


def main(
    seed: Annotated[int, typer.Option(help="The first seed.")] = 1,
    minutes: Annotated[float, typer.Option(help="CPU minutes; no seed begins after them.", min=0.01)] = 1.0,
    seeds: Annotated[int, typer.Option(help="Number of seeds, instead of CPU minutes.")] = 0,
    log: Annotated[Path | None, typer.Option(help="Write all events to this file.")] = None,
    directory: Annotated[Path, typer.Option("--results", help="Directory of the result files.")] = results.RESULTS,
    shorten: Annotated[bool, typer.Option(help="Search for a shorter schedule after a violation.")] = True,
) -> None:
    """Simulate the core on virtual time with random faults, until a violation or the end of the budget."""
    begin, at = time.process_time(), datetime.now(UTC)
    outcomes: list[Outcome] = []
    with (
        log.open("w", encoding="utf-8") if log is not None else open(os.devnull, "w") as file,  # noqa: PTH123
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("", total=seeds or minutes * 60)
        while len(outcomes) < seeds if seeds else time.process_time() - begin < minutes * 60:
            outcomes.append(simulate(seed + len(outcomes), log_file=file if log is not None else None))
            done = len(outcomes) if seeds else time.process_time() - begin
            hours = sum(outcome.hours for outcome in outcomes)
            progress.update(task, completed=done, description=f"seed {outcomes[-1].seed}, {hours:.0f} hours")
            if outcomes[-1].violations:
                break
    cpu_s = time.process_time() - begin
    found = result_of(outcomes, at, cpu_s)
    record(found, directory)
    _print(found)
    if found.violations:
        _print_violation(outcomes[-1], found.commit, shorten=shorten)
        sys.exit(1)


def result_of(outcomes: list[Outcome], at: datetime, cpu_s: float) -> results.SimulationResult:
    """Return the result of consecutive seeds."""
    faults: Counter[str] = Counter()
    states: Counter[str] = Counter()
    digest = blake2b(digest_size=16)
    for outcome in outcomes:
        faults.update(outcome.actions)
        states.update(outcome.states)
        digest.update(outcome.digest.encode())
    last = outcomes[-1]
    return results.SimulationResult(
        at=at.isoformat(timespec="seconds"),
        commit=results.current_commit(),
        cores=os.cpu_count() or 1,
        violations=tuple(f"seed {last.seed}: {text}"[: results.MAX_DETAIL] for text in last.violations[:3]),
        first_seed=outcomes[0].seed,
        seeds=len(outcomes),
        simulated_hours=round(sum(outcome.hours for outcome in outcomes), 2),
        cpu_s=round(cpu_s, 1),
        frames=sum(outcome.frames for outcome in outcomes),
        fewest_frames_per_hour=min(int(outcome.frames / outcome.hours) for outcome in outcomes),
        fewest_faults_per_hour=min(int(sum(outcome.actions.values()) / outcome.hours) for outcome in outcomes),
        faults=dict(sorted(faults.items())),
        states=dict(sorted(states.items())),
        log_digest=digest.hexdigest(),
    )


def _print(found: results.SimulationResult) -> None:
    table = Table(show_header=False)
    for name, value in {
        "seeds": f"{found.first_seed} to {found.first_seed + found.seeds - 1}",
        "simulated hours": f"{found.simulated_hours:,.1f}",
        "simulated hours per CPU minute": f"{found.simulated_hours / found.cpu_s * 60:.1f}",
        "frames": f"{found.frames:,}, per hour at least {found.fewest_frames_per_hour:,}",
        "faults": f"{sum(found.faults.values()):,}, per hour at least {found.fewest_faults_per_hour}",
        "event log": found.log_digest,
    }.items():
        table.add_row(name, value)
    console.print(table)
    for title, counts in (("fault", found.faults), ("state reached, seeds", found.states)):
        table = Table(title, "number")
        for name, number in counts.items():
            table.add_row(name, f"{number:,}")
        console.print(table)


def _print_violation(outcome: Outcome, commit: str, *, shorten: bool) -> None:
    """Print what is needed to repeat a violation."""
    console.print(f"[red]Seed {outcome.seed} at commit {commit} broke a promise[/red]", markup=True)
    for violation in outcome.violations[:5]:
        console.print(violation, markup=False)
    actions = schedule_of(outcome.seed)
    if shorten:
        kind = outcome.violations[0].partition(":")[0]
        actions = shortened(
            actions,
            lambda shorter: any(text.startswith(kind) for text in simulate(outcome.seed, shorter).violations),
        )
        console.print(f"{len(actions)} of {len(schedule_of(outcome.seed))} actions are needed:")
    for action in actions:
        console.print(f"    {action},", markup=False)


if __name__ == "__main__":
    typer.run(main)
