"""Commands that run the platform, such as up, down, status, logs, health, setup, replay and demo."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cryptolake_assets.captures.market_of_capture import capture_directory
from cryptolake_assets.captures.reader import summarise
from cryptolake_assets.cli.app import app
from cryptolake_assets.cli.output import print_wide, to_stderr
from cryptolake_assets.lake.migrations import lake_schema
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform import status as part_status
from cryptolake_assets.platform.dbt import ensure_manifest
from cryptolake_assets.platform.jars import describe, ensure_jars, needed_jars
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.launch import become
from cryptolake_assets.platform.notify import Alert, AlertKind, notify
from cryptolake_assets.platform.parts import EXCHANGE, part_named, require_part
from cryptolake_assets.platform.status import PartStatus
from cryptolake_assets.platform.supervisor import write_private
from cryptolake_assets.settings import Settings, Source, get_settings, load_settings

_STATE_STYLES = {"running": "green", "external": "cyan", "starting": "yellow", "stopped": "dim"}


@app.command()
def setup() -> None:
    """Find Java, download missing jars, and parse the dbt project."""
    console = to_stderr()
    java = find_java()
    console.print(f"Java {java.version} ({java.origin}): {java.executable}", soft_wrap=True)
    ensure_jars(get_settings(), console)
    console.print(f"{describe(needed_jars(get_settings()))}: complete")
    console.print(f"dbt manifest: {ensure_manifest(get_settings())}", soft_wrap=True)


@app.command()
def up(
    only: Annotated[list[str] | None, typer.Option(help="Start only this part; repeatable.")] = None,
) -> None:
    """Start the platform, or apply changed settings to a running one; return when every part is ready."""
    settings = get_settings()
    lifecycle.up(settings, only, to_stderr())
    _print_addresses(settings, to_stderr())


@app.command()
def run(part: Annotated[str, typer.Argument(help="Name of the part, as shown by `cryptolake status`.")]) -> None:
    """Run one part in the foreground, for containers and other supervisors."""
    settings = get_settings()
    chosen = part_named(part)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    for path, text in (chosen.files(settings) | chosen.watched_files(settings)).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text)
    chosen.prepare(settings)
    become(chosen.spec(settings))


@app.command()
def ready(part: Annotated[str, typer.Argument(help="Name of the part, as shown by `cryptolake status`.")]) -> None:
    """Exit with 0 if a part on this machine is ready: a health check for containers."""
    if not part_named(part).is_ready(get_settings(), 0.0):
        typer.secho(f"{part}: not ready. See its log.", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop all processes of this home, and no others."""
    stopped = lifecycle.down(get_settings(), to_stderr())
    to_stderr().print("nothing was running" if not stopped else f"stopped: {', '.join(stopped)}")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False) -> None:
    """Show the state of every part (pid, port, uptime, lag, progress, log) and the lake's schema version."""
    rows = part_status.status(get_settings())
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    _print_status(rows)
    if schema := lake_schema(get_settings()):
        typer.echo(f"lake: {schema}")


@app.command()
def health() -> None:
    """Report the platform's problems; exit with 0 if there are none."""
    found = part_status.problems(get_settings())
    for problem in found:
        typer.secho(problem, fg=typer.colors.RED, err=True)
    if found:
        raise typer.Exit(1)
    typer.secho("healthy: every part is ready", fg=typer.colors.GREEN)


@app.command("notify-test")
def notify_test() -> None:
    """Send a test alert on every channel of CRYPTOLAKE_NOTIFY_URLS and report each delivery."""
    alert = Alert(AlertKind.TEST, job="notify-test", cause="test alert, nothing failed", at=datetime.now(UTC))
    deliveries = notify(get_settings(), alert)
    for delivery in deliveries:
        sent = delivery.error is None
        colour = typer.colors.GREEN if sent else typer.colors.RED
        typer.secho(f"{delivery.channel}: {'sent' if sent else f'not sent: {delivery.error}'}", fg=colour, err=not sent)
    if not deliveries:
        typer.echo("CRYPTOLAKE_NOTIFY_URLS has no channel: alerts go only to the log")
    if any(delivery.error is not None for delivery in deliveries):
        raise typer.Exit(1)


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="Name of the part, as shown by `cryptolake status`, or `supervisord`.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Number of lines.")] = 50,
) -> None:
    """Show the last lines of a part's log."""
    require_part(part, more=["supervisord"])
    path = get_settings().log_dir / f"{part}.log"
    if follow:
        # `-F` reopens a rotated file.
        os.execvp("tail", ["tail", "-n", str(lines), "-F", str(path)])  # noqa: S606
    if not path.exists():
        typer.echo(f"{part}: no log yet ({path})", err=True)
    for line in lifecycle.tail_lines(path, lines):
        typer.echo(line)


@app.command()
def replay(
    directory: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Directory of captures (*.ndjson, *.ndjson.gz).")
    ],
    speed: Annotated[
        float | None, typer.Option(min=0, help="1: real time, 60: a minute per second, 0: as fast as possible.")
    ] = None,
) -> None:
    """Replay a directory of captures through the platform; start it if it does not run."""
    console = to_stderr()
    directory = directory.expanduser().resolve()
    overrides = {"source": Source.REPLAY, "replay_dir": directory, **({} if speed is None else {"replay_speed": speed})}
    settings = load_settings(**overrides)
    for view in settings.each_market:
        summary = summarise(capture_directory(view), view.run_dir)
        symbols = ", ".join(summary.symbols)
        console.print(f"{summary.directory}: {summary.frame_count} frames of {symbols}", soft_wrap=True)
    if EXCHANGE not in lifecycle.up(settings, console=console):
        lifecycle.restart(settings, EXCHANGE, console)
    _print_addresses(settings, console)


@app.command()
def demo() -> None:
    """Replay the shipped capture through the platform and compare its bars with the official klines."""
    from cryptolake_assets.cli.demo import run

    run(get_settings())


def _print_addresses(settings: Settings, console: Console) -> None:
    console.print(
        f"Dashboard: {settings.dashboard_url}   Dagster: http://127.0.0.1:{settings.dagster_port}   "
        f"API: {settings.api_url}   Logs: {settings.log_dir}",
        soft_wrap=True,
    )


def _print_status(rows: list[PartStatus]) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("Part", "State", "Pid", "Port", "Uptime", "Lag", "Progress", "Log"):
        table.add_column(title, justify="right" if title in ("Pid", "Port", "Uptime", "Lag") else "left", no_wrap=True)
    for row in rows:
        cells = (row.pid, row.port, _duration(row.uptime_s), row.lag, row.detail, row.log)
        table.add_row(
            row.name,
            Text(row.state, style=_STATE_STYLES.get(row.state, "red")),
            *("" if cell is None else Text(str(cell)) for cell in cells),
        )
    print_wide(table, width=240)


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"
