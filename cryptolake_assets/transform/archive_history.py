"""Load a symbol's day from the public archive: its official klines, then its trades.

In this order, the klines are available to a run that computes the day's bars and compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile, Progress
from cryptolake_assets.captures.tracked_symbols import store_last_archived_day
from cryptolake_assets.ingest.archive_days import LoadedDay, NotLoaded, Outcome, RowsWritten, try_day
from cryptolake_assets.ingest.archive_evidence import prove_by_klines
from cryptolake_assets.ingest.archive_klines import LoadedKlines, kline_file, try_klines
from cryptolake_assets.ingest.klines import judge_hour
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.model.windows import DAY, hour_of
from cryptolake_assets.quality.official_bars import Agreement
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.load_inputs import load_run_inputs

Begun = Callable[[ArchiveFile], None]  # called with each file before its download


@dataclass(frozen=True)
class ArchiveDay:
    """Results of the day's files; `klines` is None if they were not requested.

    `agreements` are the comparisons for hours whose klines changed but whose trades did not: no other run repeats them.
    """

    trades: LoadedDay | NotLoaded
    klines: LoadedKlines | NotLoaded | None
    agreements: Mapping[datetime, Agreement] = field(default_factory=dict)

    @property
    def is_missing(self) -> bool:
        """Return whether the archive has neither file: the symbol was not listed that day, or the day is too new."""
        files = [self.trades, self.klines] if self.klines is not None else [self.trades]
        return all(item.outcome is Outcome.MISSING for item in files)


@dataclass(frozen=True)
class LoadProgress:
    """Callbacks that receive the progress of a load."""

    begun: Begun | None = None
    downloaded: Progress | None = None
    written: RowsWritten | None = None


def load_history(
    settings: Settings,
    client: ArchiveClient,
    symbol: str,
    day: date,
    run_id: str,
    *,
    klines: bool = True,
    reload: bool = False,
    progress: LoadProgress | None = None,
) -> ArchiveDay:
    """Load the UTC day of the symbol.

    If one file is rejected, the result reports it and the other file is still loaded. Raises `ArchiveRangeError` and
    `ExchangeError`.
    """
    progress, family = progress or LoadProgress(), settings.venue.family
    of_klines = None
    if klines:
        file = kline_file(symbol, day, family)
        if progress.begun is not None:
            progress.begun(file)
        of_klines = try_klines(settings, client, file, run_id, progress.downloaded)
    file = ArchiveFile(symbol, day, family=family)
    if progress.begun is not None:
        progress.begun(file)
    trades = try_day(
        settings, client, file, run_id, reload=reload, downloaded=progress.downloaded, written=progress.written
    )
    has_trades = isinstance(trades, LoadedDay) and trades.outcome is not Outcome.REJECTED
    if has_trades or isinstance(of_klines, LoadedKlines):
        prove_by_klines(settings, file)
    if has_trades:
        store_last_archived_day(settings, day)
    if not isinstance(of_klines, LoadedKlines) or trades.outcome in (Outcome.LOADED, Outcome.REPLACED):
        return ArchiveDay(trades, of_klines)
    return ArchiveDay(trades, of_klines, _judge(settings, of_klines, run_id))


def _judge(settings: Settings, klines: LoadedKlines, run_id: str) -> dict[datetime, Agreement]:
    """Compare the bars of the hours in which klines changed with the new klines."""
    start = datetime.fromtimestamp(klines.file.start_ms / 1000, UTC)
    bars = load_table(settings, settings.tables.bars).scan(
        row_filter=silver_day(start), selected_fields=("window_start",)
    )
    published = {hour_of(row["window_start"]) for row in bars.to_arrow().to_pylist()}
    hours = [hour for hour in klines.hours if hour in published]
    if not hours:
        return {}
    completeness = load_run_inputs(settings, start, start + DAY).completeness
    return {hour: judge_hour(settings, hour, completeness, run_id) for hour in hours}
