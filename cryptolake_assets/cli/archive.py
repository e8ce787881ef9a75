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
from cryptolake_assets.cli.market_option import MarketOption, settings_of
from cryptolake_assets.cli.output import OutputFormat, print_table, progress_bar, to_stderr
from cryptolake_assets.model.markets import venue_of
from cryptolake_assets.model.symbols import SYMBOL_MEANING, in_capitals, is_symbol
from cryptolake_assets.platform.lifecycle import reload_graph
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
    from cryptolake_assets.ingest.archive_days import LoadedDay

MEGABYTE = 1e6


def _day(text: str) -> date:
    """Parse a UTC day that has begun. Raises `BadParameter`, which names the argument."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise typer.BadParameter(f"{text} is not a date. Write it as YYYY-MM-DD, such as 2024-07-18.") from None
    if day > (today := datetime.now(UTC).date()):
        raise typer.BadParameter(f"{text} has not begun. Use a day up to {today} (UTC).")
    return day


def _symbol(text: str) -> str:
    """Return a symbol as the exchange spells it. Raises `BadParameter`, which names the argument."""
    if not is_symbol(symbol := in_capitals(text)):
        raise typer.BadParameter(f"{symbol!r} is not a symbol: {SYMBOL_MEANING}. Use a symbol such as BTCUSDT.")
    return symbol


@app.command()
def archive(
    first: Annotated[date, typer.Option("--from", parser=_day, metavar="YYYY-MM-DD", help="First UTC day.")],
    last: Annotated[
        date | None,
        typer.Option("--to", parser=_day, metavar="YYYY-MM-DD", help="Last UTC day. Default: the first day."),
    ] = None,
    symbols: Annotated[
        list[str] | None,
        typer.Option(
            "--symbol",
            parser=_symbol,
            metavar="SYMBOL",
            help="Symbol, such as BTCUSDT or BTCUSD_PERP; repeatable. Default: the tracked symbols of `--market`, "
            "or of all tracked markets.",
        ),
    ] = None,
    market: MarketOption = None,
    reload: Annotated[bool, typer.Option("--reload", help="Load unchanged files again too.")] = False,
    klines: Annotated[
        bool, typer.Option("--klines/--no-klines", help="Load the day's official one-minute klines too.")
    ] = True,
) -> None:
    """Load days of trades and official klines from the exchange's public archive into Bronze. Idempotent."""
    from cryptolake_assets.ingest.archive_days import days_between

    settings, console = settings_of(market), to_stderr()
    days = days_between(first, last or first)
    if not days:
        raise typer.BadParameter(f"{last} is before {first}. Use a later day.", param_hint="--to")
    markets = [settings] if symbols or market else settings.each_market
    selected = [
        (one, symbol) for one in markets for symbol in dict.fromkeys(symbols or resolve_subscriptions(one).symbols)
    ]
    if not selected:
        raise typer.BadParameter(
            "CRYPTOLAKE_SYMBOLS selects no symbol. Give the symbols to load.", param_hint="--symbol"
        )
    loader = _DayLoader(console, klines=klines, reload=reload)
    before = last_archived_day(settings)
    rows = loader.run(settings.archive_url, [(*one, day) for one in selected for day in days])
    _print_days(rows)
    after = last_archived_day(settings)
    if after is not None and after != before:
        # A replay's partitions end at a day; the follower keeps hours of later days pending until the graph reloads.
        reload_graph(settings, after, console)
    if any(row["outcome"] in ("rejected", "missing") or row["klines"] == "rejected" for row in rows):
        raise typer.Exit(1)


class _DayLoader:
    """Load days one after the other with a progress bar; print a failure at once and continue with the next day."""

    def __init__(self, console: Console, *, klines: bool, reload: bool) -> None:
        self._console = console
        self._klines, self._reload = klines, reload
        self._run_id = f"cli-{uuid.uuid4().hex[:12]}"

    def run(self, archive_url: str, days: list[tuple[Settings, str, date]]) -> list[dict[str, Any]]:
        """Load the days, each with the settings of its market; return a row of each."""
        from cryptolake_assets.binance.archive_files import ArchiveClient

        with (
            ArchiveClient(archive_url) as client,
            progress_bar(self._console, transient=True, disable=not sys.stderr.isatty()) as bar,
        ):
            task = bar.add_task("", total=None)
            return [
                self._load_day(settings, client, symbol, day, bar, task, f"{number} of {len(days)}")
                for number, (settings, symbol, day) in enumerate(days, 1)
            ]

    def _load_day(
        self,
        settings: Settings,
        client: ArchiveClient,
        symbol: str,
        day: date,
        bar: Progress,
        task: TaskID,
        position: str,
    ) -> dict[str, Any]:
        from cryptolake_assets.ingest.archive_days import NotLoaded
        from cryptolake_assets.transform.archive_history import LoadProgress, load_history

        def show_file(file: ArchiveFile) -> None:
            bar.update(task, description=f"{file.name} ({position})", completed=0, total=None)

        def show_download(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        def show_rows(rows: int) -> None:
            bar.update(task, description=f"{symbol} {day} ({position}): {rows:,} rows")

        result = load_history(
            settings,
            client,
            symbol,
            day,
            self._run_id,
            klines=self._klines,
            reload=self._reload,
            progress=LoadProgress(show_file, show_download, show_rows),
        )
        for part in (result.trades, result.klines):
            if isinstance(part, NotLoaded):
                self._console.print(part.reason, style="red", markup=False, soft_wrap=True)
        klines = "skipped" if result.klines is None else result.klines.outcome.value
        if isinstance(result.trades, NotLoaded):
            return {
                "exchange": venue_of(symbol, settings.venue.family).exchange,
                "symbol": symbol,
                "day": day,
                "outcome": result.trades.outcome.value,
                "klines": klines,
            }
        for outcome in result.trades.outcomes:
            if not outcome.passed:
                name = result.trades.file.name
                self._console.print(f"{name}: {outcome.name}: {outcome.description}", soft_wrap=True)
        return {**_row(result.trades), "klines": klines}


def _row(loaded: LoadedDay) -> dict[str, Any]:
    seconds = loaded.duration_ms / 1000
    return {
        "exchange": loaded.file.venue.exchange,
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


def _print_days(rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    integers = ("rows", "rows_replaced", "rows_per_s")
    fields = [("exchange", pa.string()), ("symbol", pa.string()), ("day", pa.date32()), ("outcome", pa.string())]
    fields += [(name, pa.int64()) for name in integers[:2]]
    fields += [("megabytes", pa.float64()), ("seconds", pa.float64()), ("rows_per_s", pa.int64())]
    fields += [("sha256", pa.string()), ("klines", pa.string())]
    print_table(pa.Table.from_pylist(rows, pa.schema(fields)), OutputFormat.TABLE)
    loaded = [row for row in rows if row["outcome"] in ("loaded", "replaced")]
    if loaded:
        typer.echo("The running platform (`cryptolake up`) updates Silver and Gold automatically.")
