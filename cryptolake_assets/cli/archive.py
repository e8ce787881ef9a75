"""`cryptolake archive`: load days of history from the exchange's public archive into Bronze."""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from cryptolake_assets.captures.tracked_symbols import last_archived_day, resolve_subscriptions
from cryptolake_assets.cli.app import app
from cryptolake_assets.cli.output import OutputFormat, print_table, progress_bar, to_stderr
from cryptolake_assets.model.symbols import SYMBOL_MEANING, in_capitals, is_symbol
from cryptolake_assets.platform.lifecycle import reload_graph
from cryptolake_assets.settings import Settings, get_settings

if TYPE_CHECKING:
    from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
    from cryptolake_assets.ingest.archive_days import LoadedDay

MEGABYTE = 1e6


def _day(text: str) -> date:
    """Parse a UTC day that has begun. Raises `BadParameter`, which names the argument."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise typer.BadParameter(f"{text} is no day. Write it as YYYY-MM-DD, such as 2024-07-18.") from None
    if day > (today := datetime.now(UTC).date()):
        raise typer.BadParameter(f"{text} has not begun. Name a day up to {today} (UTC).")
    return day


def _symbol(text: str) -> str:
    """Return a symbol as the exchange spells it. Raises `BadParameter`, which names the argument."""
    if not is_symbol(symbol := in_capitals(text)):
        raise typer.BadParameter(f"{symbol!r} is no symbol: {SYMBOL_MEANING}. Name one such as BTCUSDT.")
    return symbol


@app.command()
def archive(
    first: Annotated[date, typer.Option("--from", parser=_day, metavar="YYYY-MM-DD", help="First UTC day.")],
    last: Annotated[
        date | None,
        typer.Option("--to", parser=_day, metavar="YYYY-MM-DD", help="Last UTC day; without it the first only."),
    ] = None,
    symbols: Annotated[
        list[str] | None,
        typer.Option(
            "--symbol",
            parser=_symbol,
            metavar="SYMBOL",
            help="Such as BTCUSDT or BTCUSD_PERP, more than once; without it those followed.",
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Also files that were loaded before and have not changed.")
    ] = False,
    klines: Annotated[
        bool, typer.Option("--klines/--no-klines", help="With the day's official one-minute klines, to compare with.")
    ] = True,
) -> None:
    """Load days of aggregate trades, and their official klines, from the exchange's public archive into Bronze; safe to
    run again."""
    from cryptolake_assets.ingest.archive_days import days_between

    settings, console = get_settings(), to_stderr()
    days = days_between(first, last or first)
    if not days:
        raise typer.BadParameter(f"{last} is before {first}. Name a day after it.", param_hint="--to")
    wanted = symbols or list(resolve_subscriptions(settings).symbols)
    if not wanted:
        raise typer.BadParameter("CRYPTOLAKE_SYMBOLS names no symbol; name those to load", param_hint="--symbol")
    loading = _Loading(settings, console, klines=klines, reload=reload)
    before = last_archived_day(settings)
    rows = loading.run([(symbol, day) for symbol in dict.fromkeys(wanted) for day in days])
    _show(rows)
    after = last_archived_day(settings)
    if after is not None and after != before:
        # A replay's partitions end at a day; the follower keeps hours of later days pending until the graph reloads.
        reload_graph(settings, after, console)
    if any(row["outcome"] in ("rejected", "missing") or row["klines"] == "rejected" for row in rows):
        raise typer.Exit(1)


class _Loading:
    """Load one day after the other with a progress bar; print a failed day at once and continue with the next."""

    def __init__(self, settings: Settings, console: Console, *, klines: bool, reload: bool) -> None:
        self._settings, self._console = settings, console
        self._klines, self._reload = klines, reload
        self._run_id = f"cli-{uuid.uuid4().hex[:12]}"

    def run(self, wanted: list[tuple[str, date]]) -> list[dict[str, Any]]:
        from cryptolake_assets.binance.archive_files import ArchiveClient

        with (
            ArchiveClient(self._settings.archive_url) as client,
            progress_bar(self._console, transient=True, disable=not sys.stderr.isatty()) as bar,
        ):
            whole = bar.add_task("", total=None)
            return [
                self._one(client, symbol, day, bar, whole, f"{number} of {len(wanted)}")
                for number, (symbol, day) in enumerate(wanted, 1)
            ]

    def _one(
        self, client: ArchiveClient, symbol: str, day: date, bar: Progress, task: TaskID, place: str
    ) -> dict[str, Any]:
        from cryptolake_assets.ingest.archive_days import NotLoaded
        from cryptolake_assets.transform.archive_history import LoadProgress, load_history

        def begun(file: ArchiveFile) -> None:
            bar.update(task, description=f"{file.name} ({place})", completed=0, total=None)

        def downloaded(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        def written(rows: int) -> None:
            bar.update(task, description=f"{symbol} {day} ({place}): {rows:,} rows")

        result = load_history(
            self._settings,
            client,
            symbol,
            day,
            self._run_id,
            klines=self._klines,
            reload=self._reload,
            progress=LoadProgress(begun, downloaded, written),
        )
        for part in (result.trades, result.klines):
            if isinstance(part, NotLoaded):
                self._console.print(part.reason, style="red", markup=False, soft_wrap=True)
        of_klines = "left out" if result.klines is None else result.klines.outcome.value
        if isinstance(result.trades, NotLoaded):
            return {"symbol": symbol, "day": day, "outcome": result.trades.outcome.value, "klines": of_klines}
        for outcome in result.trades.outcomes:
            if not outcome.passed:
                name = result.trades.file.name
                self._console.print(f"{name}: {outcome.name}: {outcome.description}", soft_wrap=True)
        return {**_row(result.trades), "klines": of_klines}


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

    integers = ("rows", "rows_replaced", "rows_per_s")
    fields = [("symbol", pa.string()), ("day", pa.date32()), ("outcome", pa.string())]
    fields += [(name, pa.int64()) for name in integers[:2]]
    fields += [("megabytes", pa.float64()), ("seconds", pa.float64()), ("rows_per_s", pa.int64())]
    fields += [("sha256", pa.string()), ("klines", pa.string())]
    print_table(pa.Table.from_pylist(rows, pa.schema(fields)), OutputFormat.TABLE)
    loaded = [row for row in rows if row["outcome"] in ("loaded", "replaced")]
    if loaded:
        typer.echo("Silver and Gold follow by themselves where the platform runs (`cryptolake up`).")
