"""`python -m benchmarks`: measure, write one JSON file per part, and update the result blocks in docs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import api, ingest, live, page, scale, silver, soak
from benchmarks.results import RESULTS, Figure, Report
from benchmarks.runner import BenchmarkError, Runner

# Approximate disk space of each part's generated data.
NEEDED_BYTES = {
    "silver": 12 * 10**9,
    "api": 10**9,
    "ingest": 3 * 10**9,
    "scale": 10**9,
    "soak": 10**9,
    "live": 3 * 10**9,
}


def _silver(runner: Runner, *, small: bool) -> list[Figure]:
    return silver.run(runner, silver.SMALL if small else silver.Scale())


def _api(runner: Runner, *, small: bool) -> list[Figure]:
    return api.run(runner, api.SMALL if small else api.Scale())


def _ingest(runner: Runner, *, small: bool) -> list[Figure]:
    return ingest.run(runner, ingest.SMALL if small else ingest.Scale())


def _scale(runner: Runner, *, small: bool) -> list[Figure]:
    return scale.run(runner, scale.SMALL if small else scale.Scale())


def _live(runner: Runner, *, small: bool) -> list[Figure]:
    return live.run(runner, live.SMALL if small else live.Scale())


def _soak(runner: Runner, *, small: bool) -> list[Figure]:
    return soak.run(runner, soak.SMALL if small else soak.Scale())


PARTS: dict[str, Callable[..., list[Figure]]] = {
    "silver": _silver,
    "api": _api,
    "ingest": _ingest,
    "scale": _scale,
    "soak": _soak,
    "live": _live,
}

console = Console(stderr=True, highlight=False)


def main(
    only: Annotated[str, typer.Option(help=f"Part to run: {', '.join(PARTS)}. Default: all parts.")] = "",
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            envvar="CRYPTOLAKE_BENCH_DIR",
            help="Directory of generated data and lakes, which later runs reuse. Default: in the system's temporary "
            "directory.",
        ),
    ] = None,
    small: Annotated[
        bool, typer.Option(help="Smoke test with 1 % of the size; results are written to the directory only.")
    ] = False,
    only_page: Annotated[
        bool, typer.Option("--page", help="Only regenerate the result blocks in docs, without measuring.")
    ] = False,
) -> None:
    """Compare CryptoLake with bare scripts on this machine."""
    if only and only not in PARTS:
        raise typer.BadParameter(f"unknown part {only}; the parts are {', '.join(PARTS)}")
    if only_page:
        page.rewrite()
        return
    state = directory or Path(tempfile.gettempdir()) / "cryptolake-bench"
    state = (state / "small" if small else state).expanduser().resolve()
    state.mkdir(parents=True, exist_ok=True)
    for part in [only] if only else PARTS:
        _check_disk_space(state, part, small)
        console.print(f"[bold]{part}[/bold], in {state}, on {os.cpu_count()} cores")
        report = Report(part)
        try:
            figures = PARTS[part](Runner(state, console), small=small)
        except BenchmarkError as error:
            console.print(f"[red]{part}[/red]: {error}", soft_wrap=True)
            sys.exit(1)
        path = report.write(figures, state / "results" if small else RESULTS)
        _show(figures)
        console.print(f"Results: {path}", soft_wrap=True)
    if not small:
        page.rewrite()


def _check_disk_space(state: Path, part: str, small: bool) -> None:
    free, needed = shutil.disk_usage(state).free, 0 if small else NEEDED_BYTES[part]
    if free < needed:
        console.print(
            f"[red]{part}[/red]: needs about {needed / 1e9:.0f} GB in {state}, but only {free / 1e9:.1f} GB are free. "
            "Select another directory with --dir."
        )
        sys.exit(1)


def _show(figures: list[Figure]) -> None:
    table = Table("Figure", "Value", "Unit", "Target", "Reached")
    for figure in figures:
        reached = {True: "[green]yes", False: "[red]no", None: ""}[figure.reached]
        table.add_row(figure.figure, f"{figure.value:g}", figure.unit, figure.target, reached)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
