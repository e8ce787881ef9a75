"""Commands that back up a home and restore the backup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cryptolake_assets.cli.app import app
from cryptolake_assets.cli.output import print_wide, progress_bar, to_stderr
from cryptolake_assets.platform import backup as backups
from cryptolake_assets.platform import restore as restores
from cryptolake_assets.platform.backup import Manifest
from cryptolake_assets.settings import get_settings


@app.command()
def backup(
    directory: Annotated[Path, typer.Argument(help="New directory; created only when the backup is complete.")],
) -> None:
    """Back up the home: tables, catalog, checkpoints, Kafka log, Dagster storage. The platform may be running."""
    console = to_stderr()
    with _progress(console, None) as progress:
        manifest = backups.backup(get_settings(), directory, progress)
    _print(manifest)
    console.print(f"backed up to {directory}", soft_wrap=True)


@app.command()
def restore(
    directory: Annotated[Path, typer.Argument(help="Directory of a backup by `cryptolake backup`.")],
    replace: Annotated[bool, typer.Option("--replace", help="Move the home's existing data aside.")] = False,
) -> None:
    """Restore a backup into the home after verifying all of its files. The platform must be stopped."""
    settings, console = get_settings(), to_stderr()
    total = sum(file.bytes for file in restores.read_manifest(directory.expanduser().resolve()).files)
    with _progress(console, total) as progress:
        restored = restores.restore(settings, directory, replace=replace, progress=progress, console=console)
    _print(restored.manifest)
    for path in restored.moved_aside:
        console.print(f"moved aside: {path}", soft_wrap=True)
    console.print(f"restored to {settings.home}; start the platform with `cryptolake up`", soft_wrap=True)


@contextmanager
def _progress(console: Console, total: int | None) -> Iterator[Callable[[str, int], None]]:
    with progress_bar(console, transient=True) as bar:
        task = bar.add_task("copying", total=total)

        def advance(name: str, count: int) -> None:
            bar.update(task, description=name.partition("/")[0], advance=count)

        yield advance


def _print(manifest: Manifest) -> None:
    parts = Table("Part", box=box.SIMPLE, pad_edge=False)
    tables = Table("Table", box=box.SIMPLE, pad_edge=False)
    for title in ("Files", "Bytes"):
        parts.add_column(title, justify="right")
    for title in ("Snapshot", "Rows"):
        tables.add_column(title, justify="right")
    for part in sorted({file.part for file in manifest.files}):
        sizes = [file.bytes for file in manifest.files if file.part == part]
        parts.add_row(part, f"{len(sizes):,}", f"{sum(sizes):,}")
    for table in manifest.tables:
        tables.add_row(table.name, str(table.snapshot_id or "none"), f"{table.rows:,}")
    print_wide(f"Release {manifest.release}, {manifest.created_at}", parts, tables, width=120)
