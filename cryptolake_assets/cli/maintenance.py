"""`cryptolake maintain`: run table maintenance by hand."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from cryptolake_assets.cli.app import app
from cryptolake_assets.cli.output import print_wide
from cryptolake_assets.lake.maintenance import tasks
from cryptolake_assets.lake.maintenance.tasks import Report, Task
from cryptolake_assets.settings import get_settings


@app.command()
def maintain(
    only: Annotated[list[Task] | None, typer.Option(help="Run only this task; repeatable.")] = None,
) -> None:
    """Compact files, merge manifests, expire snapshots, remove orphan files; show every table before and after."""
    from cryptolake_assets.transform.maintenance_inputs import stream_position

    settings = get_settings()
    for task in only or list(Task):
        _print(tasks.maintain(settings, task, stream_position(settings)))


def _print(report: Report) -> None:
    names = ("files", "small_files", "manifests", "snapshots", "disk_files", "disk_bytes")
    table = Table(box=box.SIMPLE, pad_edge=False, title=report.task.value, title_justify="left")
    for title in ("Table", *(name.replace("_", " ").capitalize() for name in names), "Done"):
        table.add_column(title, justify="left" if title in ("Table", "Done") else "right", no_wrap=True)
    for change in report.tables:
        table.add_row(change.before.table, *map(change.shown, names), change.done or "nothing was due")
    print_wide(table, width=200)
