"""`cryptolake demo`: replay the capture through the platform and compare the bars with the official klines.

It starts the platform, replays the capture, waits until the sensor and the automation have built Silver and Gold of all
tracked markets, and prints the bars next to the official klines. It computes no data itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import dagster as dg
import httpx
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cryptolake_assets.binance.rest import ExchangeRest
from cryptolake_assets.binance.stream_types import EXTRA_STREAM_TYPES
from cryptolake_assets.bronze.offsets import lags_in_use
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions, streams_in_use
from cryptolake_assets.defs.automation import VERSION_TAG
from cryptolake_assets.errors import DemoError, PartError
from cryptolake_assets.lake.bronze_files import added_files, current_sequence
from cryptolake_assets.lake.bronze_follower import FollowerState
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.files import read_text
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.family_tables import FamilyTables
from cryptolake_assets.model.markets import EXCHANGES
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import EXCHANGE, PRODUCER
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.producer.status_file import StreamCounts, read_status
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.reconciliation import Comparison, Verdict, compare
from cryptolake_assets.settings import Settings, Source
from cryptolake_assets.transform.load_inputs import load_run_inputs
from cryptolake_assets.transform.silver_run import outdated_hours

POLL_S = 0.5
REPLAY_IDLE_S = 60.0
SETTLE_TIMEOUT_S = 240.0
EVENTS_PER_PAGE = 100
PIPE_WIDTH = 160
FATAL_STATES = ("FATAL", "EXITED")
BAR_COLUMNS = ("open", "high", "low", "close", "volume", "trades")
# Columns of Gold that the demo shows, with their headings.
DAILY_COLUMNS = {
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Close",
    "total_volume": "Volume",
    "vwap": "VWAP",
    "trades": "Trades",
    "taker_buy_ratio": "Taker buy",
    "realised_volatility": "Volatility",
    "minutes_with_trades": "Minutes",
    "is_complete": "Complete",
}


@dataclass(frozen=True)
class ReplayResult:
    """Number of frames that the exchange sent, and how many of them were control messages."""

    frames_sent: int
    control: int


def run(settings: Settings, console: Console | None = None) -> None:
    """Run the demo and leave the platform running. Raises a `CryptolakeError` that names the part and its log."""
    console = console or _console()
    if settings.source is not Source.REPLAY:
        raise DemoError(
            f"demo: CRYPTOLAKE_SOURCE is {settings.source.value}, but the demo replays recorded trades. Unset it, or "
            "use `cryptolake up` for live trades."
        )
    started = time.monotonic()
    already_up = _replay_state(settings) not in (None, "waiting")
    lifecycle.up(settings, console=console)
    if already_up and _replay_state(settings) != "waiting":
        _replay_again(settings, console)
    with _progress(console) as progress:
        replay = _watch_replay(settings, progress)
        _wait(progress, "Bronze: records from Kafka", settings, lambda: _bronze_backlog(settings))
        _wait(progress, "Silver and Gold: runs of the sensor and the automation", settings, _PendingWork(settings))
    _show_counts(settings, console, replay)
    show_bars(settings, console)
    show_daily(settings, console)
    show_marts(settings, console)
    console.print(
        f"\nDone in {time.monotonic() - started:.0f} s. The platform keeps running; stop it with `make down`.\n"
        f"  Dashboard {settings.dashboard_url}\n"
        f"  Dagster   http://127.0.0.1:{settings.dagster_port}/asset-groups\n"
        f"  API       {settings.api_url}/symbols\n"
        f"  Spark     http://127.0.0.1:{settings.spark_ui_port}\n"
        f"  Exchange  http://127.0.0.1:{settings.exchange_port}/replay/status\n"
        f'  SQL       .venv/bin/cryptolake sql "SELECT * FROM {settings.tables.bars.full_name}"',
        soft_wrap=True,
    )


def _console() -> Console:
    """Return the console; files and pipes get lines wide enough for the tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def _replay_again(settings: Settings, console: Console) -> None:
    console.print("replaying the capture again")
    # The first subscription starts the replay: it must come from the producer whose frames are counted below.
    lifecycle.stop(settings, PRODUCER)
    lifecycle.restart(settings, EXCHANGE, console)
    lifecycle.start(settings, PRODUCER, console)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        yield progress


def _replay_status(settings: Settings) -> dict[str, Any] | None:
    """Return the replay exchange's status; None while it does not respond."""
    try:
        response = httpx.get(f"http://127.0.0.1:{settings.exchange_port}/replay/status", timeout=5, trust_env=False)
        return dict(response.json())
    except (httpx.HTTPError, ValueError):
        return None


def _replay_state(settings: Settings) -> str | None:
    status = _replay_status(settings)
    return None if status is None else str(status["state"])


def unsettled_frames(sent: Mapping[str, int], streams: Mapping[str, StreamCounts]) -> dict[str, int]:
    """Return the number of sent frames that the producer has not settled, by kind of stream.

    A settled frame became an event, a dead letter or a counted control message. Kinds are names such as `aggTrade` and
    `markPrice@1s`; kinds without unsettled frames are omitted.
    """
    settled = Counter[str]()
    for kind in sent:
        names = {
            stream_type.name for stream_type in EXTRA_STREAM_TYPES if stream_type.is_recorded_as(f"symbol@{kind}")
        } or {kind}
        settled[kind] = sum(counts.settled for name, counts in streams.items() if name in names)
    return {kind: number - settled[kind] for kind, number in sent.items() if number > settled[kind]}


def _watch_replay(settings: Settings, progress: Progress) -> ReplayResult:
    """Wait until the capture has ended and Kafka has acknowledged the producer's last frame."""
    task = progress.add_task("Replay: exchange → producer → Kafka", total=None, note="")
    last_progress, last_counts = time.monotonic(), (0, 0)
    while True:
        status, producer = _replay_status(settings), read_status(settings)
        if status is not None and producer is not None:
            unsettled = {
                f"{market} {kind}": number
                for market, of_market in producer.markets.items()
                for kind, number in unsettled_frames(
                    status["markets"].get(market, {}).get("frames_sent_by_kind", {}), of_market.streams
                ).items()
            }
            settled = sum(counts.settled for counts in producer.streams.values())
            progress.update(
                task,
                total=status["frames_total"],
                completed=status["frames_passed"],
                note=f"{producer.events_acked:,} trades in Kafka",
            )
            if status["state"] == "finished" and not (unsettled or producer.queued_frames or producer.in_flight):
                progress.update(task, completed=status["frames_total"], total=status["frames_total"])
                return ReplayResult(status["frames_sent"], sum(counts.control for counts in producer.streams.values()))
            if (counts := (status["frames_passed"], settled)) != last_counts:
                last_progress, last_counts = time.monotonic(), counts
            missing = ", ".join(f"{number:,} frames of {kind}" for kind, number in unsettled.items())
        else:
            missing = "status of the replay exchange or of the producer"
        if time.monotonic() - last_progress > REPLAY_IDLE_S:
            raise DemoError(
                f"demo: no progress of the replay for {REPLAY_IDLE_S:.0f} s; missing: {missing or 'none'}. "
                f"See {settings.log_dir}/producer.log and {settings.log_dir}/exchange.log."
            )
        _check_parts(settings)
        time.sleep(POLL_S)


def _bronze_backlog(settings: Settings) -> str | None:
    """Return Bronze's lag as text; None without lag."""
    lag = sum(lag.records for lag in lags_in_use(settings))
    return f"lag: {lag:,} records" if lag else None


def _wait(progress: Progress, title: str, settings: Settings, unfinished: Callable[[], str | None]) -> None:
    """Wait until `unfinished` returns None; show its text meanwhile. Raises if a part ends or on timeout."""
    task = progress.add_task(title, total=None, note="")
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (note := unfinished()) is not None:
        progress.update(task, note=note)
        if time.monotonic() > deadline:
            raise DemoError(
                f"demo: not finished after {SETTLE_TIMEOUT_S:.0f} s ({title}; {note}). See the runs at "
                f"http://127.0.0.1:{settings.dagster_port}/runs and the logs in {settings.log_dir}."
            )
        _check_parts(settings)
        time.sleep(POLL_S)
    progress.update(task, total=1, completed=1, note="done")


def _check_parts(settings: Settings) -> None:
    """Raise `PartError` if a part has ended and the supervisor no longer restarts it."""
    for info in Supervisor(settings).processes().values():
        if info.state in FATAL_STATES:
            raise PartError(f"{info.name}: the process ended ({info.state}). See {settings.log_dir}/{info.name}.log.")


class _PendingWork:
    """The work that is left until Silver and Gold are up to date.

    They are up to date if no follower has pending hours and each family's Gold of each day is newer than the last
    change of that day's Silver rows: a Silver run that changes no rows triggers no Gold.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._instance = dg.DagsterInstance.from_config(str(settings.dagster_home))
        self._started_s = time.time()

    def __call__(self) -> str | None:
        """Return the unfinished work as text; None if there is none. Raises `DemoError` if a run has failed."""
        failed = self._instance.get_runs(
            dg.RunsFilter(
                statuses=[dg.DagsterRunStatus.FAILURE], created_after=datetime.fromtimestamp(self._started_s, UTC)
            )
        )
        if failed:
            raise DemoError(
                f"demo: a Dagster run failed (partition {failed[0].tags.get('dagster/partition', '?')}). See "
                f"http://127.0.0.1:{self._settings.dagster_port}/runs/{failed[0].run_id}"
            )
        for stream_type in (one for one in streams_in_use(self._settings) if one.is_followed):
            bronze = load_table(self._settings, stream_type.bronze)
            cursor = read_text(self._settings, stream_type.follower_location(self._settings))
            state = FollowerState.from_cursor(cursor) or FollowerState()
            if state.sequence < current_sequence(bronze):
                return f"the sensor has not read the newest snapshot of {stream_type.bronze.full_name}"
            if state.pending:
                return f"{len(state.pending)} pending hours of {stream_type.name}"
        pending = chain(
            map(self._pending_gold, self._settings.each_family),
            map(self._pending_coverage, self._settings.each_market),
            map(self._pending_bars, self._settings.each_family),
        )
        return next(filter(None, pending), None)

    def _pending_gold(self, family: Settings) -> str | None:
        tables = family.tables
        for hour in sorted({file.hour for file in added_files(load_table(family, tables.trades), 0)}):
            silver = self._materializations(tables.bars.identifier, f"{hour:%Y-%m-%d-%H:%M}")
            gold = self._materializations(tables.daily.identifier, f"{hour:%Y-%m-%d}")
            if (changed_at := last_change(silver)) is not None and next(gold, (0.0, None))[0] < changed_at:
                return f"{tables.daily.name} of {hour:%Y-%m-%d}"
        return None

    def _pending_coverage(self, market: Settings) -> str | None:
        """Return the unfinished work of the last minutes: they are complete once coverage reaches the capture's end."""
        status = _replay_status(market) or {"markets": {}}
        end_ms = int(status["markets"].get(market.market, {}).get("last_event_time_ms", 0))
        # The home may have coverage of symbols that are not in this capture.
        reached = dict.fromkeys(resolve_subscriptions(market).symbols, 0)
        for row in read_coverage(market, exchange=market.venue.exchange, symbols=reached):
            reached[row.symbol] = max(reached[row.symbol], row.connected_to_ms)
        lagging = [symbol for symbol, to_ms in reached.items() if to_ms < end_ms]
        return f"coverage of the last minute of {market.market} {', '.join(lagging[:5])}" if lagging else None

    def _pending_bars(self, family: Settings) -> str | None:
        return "bars to be marked complete" if outdated_hours(family, load_run_inputs(family)) else None

    def _materializations(self, key: tuple[str, str], partition: str) -> Iterator[tuple[float, str | None]]:
        """Yield time (epoch s) and data version of the partition's materializations, the latest first."""
        records_filter = dg.AssetRecordsFilter(asset_key=dg.AssetKey(list(key)), asset_partitions=[partition])
        cursor = None
        while True:
            found = self._instance.fetch_materializations(records_filter, limit=EVENTS_PER_PAGE, cursor=cursor)
            for record in found.records:
                event = record.asset_materialization
                yield record.timestamp, None if event is None else (event.tags or {}).get(VERSION_TAG)
            if not found.has_more:
                return
            cursor = found.cursor


def last_change(materializations: Iterable[tuple[float, str | None]]) -> float | None:
    """Return the time at which the current data version first appeared; None without a materialization.

    `materializations` are (time, version), the latest first.
    """
    changed_at = current = None
    for made_at, version in materializations:
        if changed_at is not None and version != current:
            break
        changed_at, current = made_at, version
    return changed_at


def _show_counts(settings: Settings, console: Console, replay: ReplayResult) -> None:
    console.print(
        f"\n[bold]Bronze[/bold]  {replay.frames_sent:,} frames replayed, {replay.control:,} of them control messages"
    )
    for family in settings.each_family:
        trades, rejected = family.tables.trades, family.tables.rejected
        (row,) = run_sql(
            family,
            "SELECT count(*) AS total, count(DISTINCT (exchange, symbol, stream, trade_id)) AS distinct_trades, "
            f"(SELECT count(*) FROM {rejected.full_name}) AS rejected FROM {trades.full_name}",
        ).to_pylist()
        console.print(
            f"        {trades.name}: {row['total']:,} rows, {row['distinct_trades']:,} distinct trades, "
            f"{row['total'] - row['distinct_trades']:,} duplicates, {row['rejected']:,} rejected frames"
        )


def show_bars(settings: Settings, console: Console) -> None:
    """Print the bars of all markets next to the official klines."""
    bars = _rows(settings, lambda tables: tables.bars, "window_start")
    table = _table("Silver: one-minute bars (UTC) and the official klines")
    for heading in ("Market", "Symbol", "Minute"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Open", "High", "Low", "Close", "Volume", "Trades", "Complete"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Official kline")
    comparisons = _compare(settings, bars)
    styles = {Verdict.EQUAL: "green", Verdict.DIFFERS: "bold red"}
    for bar, comparison in zip(bars, comparisons, strict=True):
        numbers = (_plain(bar[name]) for name in (*BAR_COLUMNS, "is_complete"))
        verdict = f"[{styles.get(comparison.verdict, 'dim')}]{comparison}[/]"
        table.add_row(_market(bar), bar["symbol"], f"{bar['window_start']:%m-%d %H:%M}", *numbers, verdict)
    console.print(table)
    if bars and all(item.verdict is Verdict.NO_REFERENCE for item in comparisons):
        complete = sum(1 for bar in bars if bar["is_complete"])
        console.print(f"{complete} of {len(bars)} bars are complete. The capture has no official klines")
        return
    compared = [item for item in comparisons if item.verdict in (Verdict.EQUAL, Verdict.DIFFERS)]
    equal = sum(1 for item in compared if item.verdict is Verdict.EQUAL)
    console.print(f"{equal} of {len(compared)} complete bars equal the official klines in all comparable fields")


def _rows(settings: Settings, table: Callable[[FamilyTables], TableSpec], time: str) -> list[dict[str, Any]]:
    """Return the rows of a table of each family, by exchange, symbol and time."""
    return [
        row
        for family in settings.each_family
        for row in run_sql(
            family, f"SELECT * FROM {table(family.tables).full_name} ORDER BY exchange, symbol, {time}"
        ).to_pylist()
    ]


def _market(row: Mapping[str, Any]) -> str:
    return EXCHANGES[row["exchange"]].market


def _compare(settings: Settings, bars: list[dict[str, Any]]) -> list[Comparison]:
    times: dict[str, dict[str, list[int]]] = {}  # open times by exchange and symbol
    for bar in bars:
        times.setdefault(bar["exchange"], {}).setdefault(bar["symbol"], []).append(epoch_ms(bar["window_start"]))
    klines = {}
    for market in settings.each_market:
        name, wanted = market.venue.exchange, times.get(market.venue.exchange, {})
        with ExchangeRest(market.rest_url, venue=market.venue) as exchange:
            for symbol in wanted.keys() & set(exchange.exchange_info().symbol_names):
                for kline in exchange.klines(symbol, "1m", min(wanted[symbol]), max(wanted[symbol])):
                    klines[name, symbol, kline.open_time_ms] = kline
    return [compare(bar, klines.get((bar["exchange"], bar["symbol"], epoch_ms(bar["window_start"])))) for bar in bars]


def show_daily(settings: Settings, console: Console) -> None:
    """Print the daily stats of all markets."""
    table = _table("Gold: daily stats")
    for heading in ("Market", "Symbol", "Date"):
        table.add_column(heading, no_wrap=True)
    for heading in DAILY_COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in _rows(settings, lambda tables: tables.daily, "trade_date"):
        numbers = (_plain(row[name]) for name in DAILY_COLUMNS)
        table.add_row(_market(row), row["symbol"], row["trade_date"].isoformat(), *numbers)
    console.print(table)


def show_marts(settings: Settings, console: Console) -> None:
    """Print the marts' row counts, from table metadata. Do not wait for marts: they follow Gold by minutes."""
    catalog = get_catalog(settings)
    counts = []
    for identifier in sorted(catalog.list_tables(MARTS_NAMESPACE)):
        snapshot = catalog.load_table(identifier).current_snapshot()
        rows = snapshot.summary["total-records"] if snapshot is not None and snapshot.summary is not None else 0
        counts.append(f"{identifier[-1]} {rows}")
    console.print(
        f"[bold]Marts[/bold]  {', '.join(counts)} rows"
        if counts
        else "[bold]Marts[/bold]  built by dbt minutes after the last Gold run (`make dbt` builds them now)",
        soft_wrap=True,
    )


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _plain(value: Any) -> str:
    """Return a number without exponent and trailing zeros."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6f}"
    text = f"{value:f}" if not isinstance(value, int) else str(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
