"""`python -m reliability.interleaving`: play seeds of interleaved writers and readers, and append the result.

Exit 1 on a broken promise, with its seed and the last steps; `--seed N --minutes 0` plays it again.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from reliability.interleaving.seeds import Played, lakes, play
from reliability.page import record
from reliability.results import MAX_DETAIL, RESULTS, InterleavingResult, current_commit

LAST_STEPS: Final = 40
HASH_SEED: Final = "0"  # the order of sets is the same in every run

console = Console(stderr=True, highlight=False)


def main(
    seed: Annotated[int, typer.Option(help="First seed; further ones count on from it.")] = 1,
    minutes: Annotated[float, typer.Option(help="CPU minutes to play; at least one seed is played.")] = 1.0,
    seeds: Annotated[int, typer.Option(help="Maximum number of seeds; 0: as many as the minutes allow.")] = 0,
    log: Annotated[Path | None, typer.Option(help="File for the steps of the last seed.")] = None,
    results: Annotated[Path, typer.Option(help="Directory to which the result is appended.")] = RESULTS,
) -> None:
    """Interleave writers and readers of one lake in the order of a seed, and judge every commit and read."""
    _same_order_of_sets()
    gc.set_threshold(50_000, 20, 100)
    began, cpu = datetime.now(UTC), time.process_time()
    played: list[Played] = []
    stops: list[int] = []  # signals that end the run after the seed that is played
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stops.append(received))
    with lakes() as places:
        gc.freeze()
        while not played or (
            time.process_time() - cpu < minutes * 60 and len(played) != seeds and not played[-1].failure and not stops
        ):
            played.append(play(places, seed + len(played)))
            _show_progress(played[-1])
    if log is not None:
        log.write_text("\n".join(played[-1].log) + "\n", "utf-8")
    result = _result(played, began, time.process_time() - cpu)
    record(result, results)
    _show(result)
    if played[-1].failure:
        console.print("\n".join(played[-1].log[-LAST_STEPS:]), markup=False)
        console.print(f"[red]seed {played[-1].seed}[/red]", played[-1].failure, soft_wrap=True)
        sys.exit(1)


def _same_order_of_sets() -> None:
    """Start again with a fixed hash seed: the order of a set of texts must not depend on the process."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        environment = {**os.environ, "PYTHONHASHSEED": HASH_SEED}
        os.execve(sys.executable, [sys.executable, "-m", "reliability.interleaving", *sys.argv[1:]], environment)  # noqa: S606


def _show_progress(played: Played) -> None:
    outcome = "[red]broken" if played.failure else "[green]held"
    commits = sum(played.commits.values())
    console.print(f"seed {played.seed}: {outcome}[/], {played.steps} steps, {commits} commits, {played.reads} reads")


def _result(played: Sequence[Played], began: datetime, cpu_s: float) -> InterleavingResult:
    commits: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for one in played:
        commits += one.commits
        states.update(name for name, number in one.states.items() if number)
    failures = [f"seed {one.seed}: {one.failure}"[:MAX_DETAIL] for one in played if one.failure]
    return InterleavingResult(
        at=began.isoformat(timespec="seconds"),
        commit=current_commit(),
        cores=os.cpu_count() or 1,
        violations=tuple(failures),
        first_seed=played[0].seed,
        seeds=len(played),
        cpu_s=round(cpu_s, 1),
        steps=sum(one.steps for one in played),
        commits=dict(sorted(commits.items())),
        reads=sum(one.reads for one in played),
        states=dict(sorted(states.items())),
    )


def _show(result: InterleavingResult) -> None:
    table = Table("Writer", "Commits")
    for writer, number in result.commits.items():
        table.add_row(writer, str(number))
    states = Table("State", "Seeds")
    for state, number in result.states.items():
        states.add_row(state, str(number))
    console.print(table, states)
    rate = result.seeds / max(result.cpu_s, 0.1) * 60
    console.print(
        f"{result.seeds} seeds, {result.steps} steps, {sum(result.commits.values())} commits, {result.reads} reads, "
        f"{rate:.0f} seeds per CPU minute"
    )


if __name__ == "__main__":
    typer.run(main)
