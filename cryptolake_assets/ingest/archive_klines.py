"""Load a symbol's day of official one-minute klines from the archive into its family's table of klines.

A day is one small file, so each load fetches and compares it. The same issue changes nothing; another issue replaces
earlier archive klines, and REST klines of the same minutes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from filelock import FileLock

from cryptolake_assets.binance.archive_csv import BadLine
from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile, Progress
from cryptolake_assets.binance.archive_klines_csv import INTERVAL, read_kline_zip
from cryptolake_assets.errors import ArchiveChecksumError, ArchiveFormatError, ArchiveMissingError
from cryptolake_assets.ingest.archive_checks import KLINES_OF_DAY
from cryptolake_assets.ingest.archive_days import NotLoaded, Outcome
from cryptolake_assets.ingest.klines import ARCHIVE, record, replace_klines
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import all_of, at_least, below, equal
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.windows import DAY, hour_of
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from datetime import date

log = structlog.get_logger(__name__)

MINUTES_OF_A_DAY = 1_440


@dataclass(frozen=True)
class LoadedKlines:
    """Result of loading a day of klines.

    `klines` counts the file's klines, `changed` those that were new or different, `removed` those that are no longer in
    the file. `hours` lists the hours with a change.
    """

    file: ArchiveFile
    outcome: Outcome
    sha256: str
    klines: int
    changed: int = 0
    removed: int = 0
    hours: tuple[datetime, ...] = ()
    duration_ms: int = 0
    rejected_lines: tuple[BadLine, ...] = ()  # lines of the file that are not klines


def kline_file(symbol: str, day: date, family: Family = Family.FUTURES) -> ArchiveFile:
    """Return the archive's file of the symbol's one-minute klines of the UTC day."""
    return ArchiveFile(symbol, day, INTERVAL, family)


def try_klines(
    settings: Settings, client: ArchiveClient, file: ArchiveFile, run_id: str, downloaded: Progress | None = None
) -> LoadedKlines | NotLoaded:
    """Call `load_klines`; return a missing or invalid file as `NotLoaded`, so that callers continue without it.

    Raises `ExchangeError`.
    """
    try:
        return load_klines(settings, client, file, run_id, downloaded)
    except ArchiveMissingError as error:
        return NotLoaded(file, Outcome.MISSING, str(error))
    except (ArchiveChecksumError, ArchiveFormatError) as error:
        return NotLoaded(file, Outcome.REJECTED, str(error))


def load_klines(
    settings: Settings, client: ArchiveClient, file: ArchiveFile, run_id: str, downloaded: Progress | None = None
) -> LoadedKlines:
    """Fetch, verify and publish a day of klines in one commit, or in none if nothing changed.

    Raises `ArchiveMissingError`, `ArchiveChecksumError`, `ArchiveFormatError` and `ExchangeError`; these leave the
    table unchanged. One load at a time runs per home.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.run_dir / "archive.lock"):
        started = time.monotonic()
        sha256 = client.checksum(file)
        path = client.fetch(file, sha256, settings.archive_dir / file.venue.exchange, downloaded)
        try:
            klines, rejected_lines = read_kline_zip(path, file)
        finally:
            path.unlink()
        rows = [record(file.venue.exchange, file.symbol, kline, ARCHIVE) for kline in klines]
        before = _archived(settings, file)
        start = datetime.fromtimestamp(file.start_ms / 1000, UTC)
        publication = replace_klines(settings, start, rows, [*before, *rows], run_id)
    removed = {row["open_time"] for row in before} - {row["open_time"] for row in rows}
    changed = {row["open_time"] for row in publication.changed_keys.to_pylist()} | removed
    outcome = (Outcome.REPLACED if before else Outcome.LOADED) if publication.committed else Outcome.UNCHANGED
    log.info(
        "archive_klines_loaded",
        symbol=file.symbol,
        day=file.day.isoformat(),
        outcome=outcome.value,
        klines=len(rows),
        changed=publication.rows_changed,
        removed=publication.rows_removed,
        snapshot=publication.snapshot_id,
    )
    return LoadedKlines(
        file,
        outcome,
        sha256,
        len(rows),
        publication.rows_changed,
        publication.rows_removed,
        tuple(sorted({hour_of(moment) for moment in changed})),
        round((time.monotonic() - started) * 1000),
        tuple(rejected_lines),
    )


def check_klines(result: LoadedKlines | NotLoaded) -> CheckOutcome:
    """Check that the archive has a valid kline for every minute of the day."""
    if isinstance(result, NotLoaded):
        return CheckOutcome(KLINES_OF_DAY, False, result.reason, 1)
    missing = MINUTES_OF_A_DAY - result.klines
    description = f"{result.file.name}: {result.klines} of {MINUTES_OF_A_DAY} minutes"
    if result.rejected_lines:
        first = result.rejected_lines[0]
        description += f"; {len(result.rejected_lines)} lines rejected, first: line {first.number}: {first.reason}"
    sample = [{"line": str(line.number), "reason": line.reason} for line in result.rejected_lines[:SAMPLE_ROWS]]
    return CheckOutcome(KLINES_OF_DAY, not missing and not result.rejected_lines, description, missing, sample)


def _archived(settings: Settings, file: ArchiveFile) -> list[dict[str, Any]]:
    """Return the stored archive klines of the symbol's day."""
    start = datetime.fromtimestamp(file.start_ms / 1000, UTC)
    of_day = (at_least("open_time", start), below("open_time", start + DAY))
    of_symbol = (equal("exchange", file.venue.exchange), equal("symbol", file.symbol))
    table = load_table(settings, file.tables.klines)
    rows = table.scan(row_filter=all_of(*of_day, *of_symbol, equal("source", ARCHIVE))).to_arrow()
    found: list[dict[str, Any]] = rows.to_pylist()
    return found
