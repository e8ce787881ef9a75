"""`cryptolake archive`: days of history from the exchange's public archive into Bronze."""

from __future__ import annotations

import sys
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryptolake_assets.cli import app

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from cryptolake_assets.settings import Settings
    from cryptolake_assets.transform.archive import LoadedDay

MEGABYTE = 1e6


@app.command()
def archive(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")],
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day; without it the first only.")
    ] = None,
    symbols: Annotated[
        list[str] | None,
        typer.Option("--symbol", help="Of USD-M or COIN-M (BTCUSD_PERP), more than once; without it those followed."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Also files that were loaded before and have not changed.")
    ] = False,
) -> None:
    """Load days of aggregate trades from the exchange's public archive into Bronze; safe to run again."""
    from rich.console import Console

    from cryptolake_assets.exchange.universe import resolve_subscriptions
    from cryptolake_assets.settings import get_settings
    from cryptolake_assets.transform.archive import days_between

    settings, console = get_settings(), Console(stderr=True, highlight=False)
    days = days_between(first.date(), (last or first).date())
    if not days:
        raise typer.BadParameter("the last day is before the first")
    wanted = [symbol.upper() for symbol in symbols or ()] or list(resolve_subscriptions(settings).symbols)
    if not wanted:
        raise typer.BadParameter("CRYPTOLAKE_SYMBOLS names no symbol; name those to load", param_hint="--symbol")
    rows = _Loading(settings, console).run([(symbol, day) for symbol in dict.fromkeys(wanted) for day in days], reload)
    _show(rows)
    if any(row["outcome"] in ("refused", "missing") for row in rows):
        raise typer.Exit(1)


class _Loading:
    """Loads one file after the other beneath a progress bar; what fails is told at once, and the others go on."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings, self._console = settings, console
        self._run_id = f"cli-{uuid.uuid4().hex[:12]}"

    def run(self, wanted: list[tuple[str, Any]], reload: bool) -> list[dict[str, Any]]:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        from cryptolake_assets.exchange.archive import ArchiveClient

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        with (
            ArchiveClient(self._settings.archive_url) as client,
            Progress(*columns, console=self._console, transient=True, disable=not sys.stderr.isatty()) as bar,
        ):
            whole = bar.add_task("", total=None)
            return [
                self._one(client, symbol, day, reload, bar, whole, f"{number} of {len(wanted)}")
                for number, (symbol, day) in enumerate(wanted, 1)
            ]

    def _one(
        self, client: Any, symbol: str, day: Any, reload: bool, bar: Progress, task: TaskID, place: str
    ) -> dict[str, Any]:
        from cryptolake_assets.exchange.archive import ArchiveFile
        from cryptolake_assets.transform.archive import NotLoaded, try_day

        file = ArchiveFile(symbol, day)
        bar.update(task, description=f"{file.name} ({place})", completed=0, total=None)

        def downloaded(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        def written(rows: int) -> None:
            bar.update(task, description=f"{file.name} ({place}): {rows:,} rows")

        result = try_day(
            self._settings, client, file, self._run_id, reload=reload, downloaded=downloaded, written=written
        )
        if isinstance(result, NotLoaded):
            self._console.print(result.reason, style="red", markup=False, soft_wrap=True)
            return {"symbol": symbol, "day": day, "outcome": result.outcome.value}
        for outcome in result.outcomes:
            if not outcome.passed:
                self._console.print(f"{file.name}: {outcome.name}: {outcome.description}", soft_wrap=True)
        return _row(result)


def _row(loaded: LoadedDay) -> dict[str, Any]:
    seconds = loaded.duration_ms / 1000
    return {
        "symbol": loaded.file.symbol,
        "day": loaded.file.day,
        "outcome": loaded.outcome.value,
        "rows": loaded.rows,
        "rows_replaced": loaded.rows_removed,
        "megabytes": round(loaded.size_bytes / MEGABYTE, 1),
        "seconds": round(seconds, 1),
        "rows_per_s": round(loaded.rows / seconds) if seconds else 0,
        "sha256": loaded.sha256[:12],
    }


def _show(rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    from cryptolake_assets.cli.output import Format, print_table

    integers = ("rows", "rows_replaced", "rows_per_s")
    fields = [("symbol", pa.string()), ("day", pa.date32()), ("outcome", pa.string())]
    fields += [(name, pa.int64()) for name in integers[:2]]
    fields += [("megabytes", pa.float64()), ("seconds", pa.float64()), ("rows_per_s", pa.int64())]
    print_table(pa.Table.from_pylist(rows, pa.schema([*fields, ("sha256", pa.string())])), Format.TABLE)
    loaded = [row for row in rows if row["outcome"] in ("loaded", "replaced")]
    if loaded:
        typer.echo("Silver and Gold follow by themselves where the platform runs (`cryptolake up`).")
