"""`python -m reliability.drills`: drill a fresh platform for some minutes, and append what was found to the results."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reliability import results
from reliability.drills import small_disk
from reliability.drills.actions import Drawer, Round, parse_rounds, rounds_text, selected
from reliability.drills.catalogue import SCENARIOS, Scenario
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.feed import write_feed
from reliability.drills.oracle import Oracle
from reliability.drills.runner import Drill, Recorder, drilled_before
from reliability.drills.states import LogReader
from reliability.page import percentile

LONGEST_SHARE = 0.2  # of the run: no fault lasts longer
LOG_LINES = 15
MIN_FEED_MS = 300_000  # of a feed, for another round
SHOW_S = 20.0  # between two lines of progress, where there is no terminal

console = Console(stderr=True, highlight=False)


def main(
    seed: Annotated[int, typer.Option(help="The same seed and earlier results draw the same faults.")] = 1,
    minutes: Annotated[float, typer.Option(help="No round begins after this time.", min=0.5)] = 5.0,
    only: Annotated[str, typer.Option(help="Actions, or actions of a part: `kill,pause:kafka`. Default: all.")] = "",
    listed: Annotated[str, typer.Option("--list", help="Rounds to repeat, as a failed run printed them.")] = "",
    scenario: Annotated[str, typer.Option(help=f"One of {', '.join(SCENARIOS)}.")] = "random",
    directory: Annotated[Path, typer.Option("--results", help="Directory of the result files.")] = results.RESULTS,
    state: Annotated[
        Path | None, typer.Option("--dir", help="Directory of the homes. Default: the system's temporary directory.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep the home of a run without violations, too.")] = False,
) -> None:
    """Drill the platform: faults at random points, and after each round a comparison with what was emitted."""
    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"unknown scenario {scenario}; the scenarios are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the platform, too
    root = Path(tempfile.mkdtemp(prefix=f"drill-{seed}-", dir=state))
    found = _drill(SCENARIOS[scenario], seed, minutes, only, listed, directory, root)
    if found.violations:
        console.print(f"[red]{len(found.violations)} violations[/red]; home: {root / 'home'}", soft_wrap=True)
        sys.exit(1)
    if not keep:
        small_disk.release(root / "home")
        shutil.rmtree(root, ignore_errors=True)


def _drill(
    scenario: Scenario, seed: int, minutes: float, only: str, listed: str, directory: Path, root: Path
) -> results.DrillResult:
    actions = selected(scenario.actions, only)
    text = listed or scenario.rounds
    listed_rounds = parse_rounds(text, scenario.actions) if text else None
    recorder = Recorder(run=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{seed}", directory=directory)
    seconds = round(minutes * 60)
    emitted = write_feed(scenario.feed(seed, seconds), root / "capture")
    small_disk.mount(root / "home")
    platform = DrilledPlatform(root / "home", emitted, scenario.settings, is_live=scenario.is_live)
    began = time.monotonic()
    live = console.status("starting the platform") if console.is_terminal else nullcontext()
    with live as status:

        def passed() -> str:
            return f"{time.monotonic() - began:6.0f} s  "

        def report(text: str) -> None:
            console.print(f"{passed()}{text}", soft_wrap=True, markup=False)

        shown = [time.monotonic()]

        def show(text: str) -> None:
            if status is not None:
                status.update(f"{passed()}{text}")
            elif time.monotonic() - shown[0] > SHOW_S:
                report(text)
                shown[0] = time.monotonic()

        try:
            platform.start()
            report(f"the platform is up: {platform.settings.home}")
            drill = Drill(
                platform=platform,
                actions={action.name: action for action in scenario.actions},
                oracle=Oracle(platform, scenario.deadline_s),
                recovery_limit_s=scenario.deadline_s,
                report=report,
                show=show,
                logs=LogReader(platform.settings),
                on_fault=recorder.fault,
            )
            drawer = Drawer(actions, seed, drilled_before(directory), max(1.0, LONGEST_SHARE * seconds))
            rounds = iter(listed_rounds) if listed_rounds else _drawn(drawer, platform, time.monotonic() + seconds)
            drill.run(_while_fed(rounds, platform, report))
            found = recorder.drill(drill, seed=seed, scenario=scenario.name, lasted_s=time.monotonic() - began)
            if found.violations:
                _explain(drill, seed, minutes, scenario.name)
        finally:
            report("stopping the platform")
            platform.stop()
    _show(recorder, found)
    return found


def _drawn(drawer: Drawer, platform: DrilledPlatform, until: float) -> Iterator[Round]:
    """Yield drawn rounds until the time (`time.monotonic`) is over, at least one."""
    while faults := drawer.next_round(frozenset(platform.capabilities)):
        yield faults
        if time.monotonic() > until:
            return


def _while_fed(rounds: Iterator[Round], platform: DrilledPlatform, report: Callable[[str], None]) -> Iterator[Round]:
    """Yield the rounds, but none that the feed's end would disturb."""
    for faults in rounds:
        status = platform.exchange_status()
        if status["last_event_time_ms"] - status["clock_ms"] < MIN_FEED_MS:
            report("the feed is about to end: no more rounds")
            return
        yield faults


def _explain(drill: Drill, seed: int, minutes: float, scenario: str) -> None:
    console.print(drill.logs.tails(LOG_LINES), soft_wrap=True, markup=False)
    for violation in drill.violations:
        console.print(f"violation: {violation}", soft_wrap=True, markup=False)
    repeat = f"make drill SEED={seed} MINUTES={minutes:g}"
    repeat += f" SCENARIO={scenario}" if scenario != "random" else ""
    console.print(f"repeat: {repeat} LIST='{rounds_text(drill.rounds)}'", soft_wrap=True, markup=False)


def _show(recorder: Recorder, found: results.DrillResult) -> None:
    table = Table("Fault", "Part", "Number", "Recovered p50 s", "p95 s", "Not recovered")
    by_key: dict[tuple[str, str], list[results.FaultResult]] = {}
    for fault in recorder.faults:
        by_key.setdefault((fault.fault, fault.part), []).append(fault)
    for (name, part), faults in sorted(by_key.items()):
        times = [fault.recovered_s for fault in faults if fault.recovered_s is not None]
        figures: list[Any] = [percentile(times, 0.5), percentile(times, 0.95)] if times else ["", ""]
        table.add_row(name, part, str(len(faults)), *map(str, figures), str(len(faults) - len(times)))
    console.print(table)
    console.print(
        f"run {found.run}, commit {found.commit}: {found.lasted_s:.0f} s, {found.quiet_points} quiet points, "
        f"{found.trades_emitted} trades, {found.bars_compared} bars compared; states: {found.states}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    typer.run(main)
