"""Load history from the public archive: a day of a symbol's aggregate trades into its family's table of trades.

A file is verified, parsed and written in blocks, checked, and committed at once in place of the day's earlier issue.
Its trades have the ids of the live `aggTrade` stream, so Silver deduplicates trades that came from both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.binance.archive_csv import HEADER, SPOT_HEADER, Block, prefetch, read_blocks
from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile, Progress
from cryptolake_assets.captures.tracked_symbols import default_start_date
from cryptolake_assets.errors import (
    ArchiveChecksumError,
    ArchiveFormatError,
    ArchiveMissingError,
    ArchiveRangeError,
)
from cryptolake_assets.ingest.archive_checks import DAY_MS, Inspection, contradicting_ids
from cryptolake_assets.ingest.archive_evidence import STREAM, is_of_day, replace_day_rows, rows_of_day
from cryptolake_assets.lake.archive_rows import count_day, replace_day
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.dead_letters import write_rejected_lines
from cryptolake_assets.lake.hour_files import HourFiles
from cryptolake_assets.model.coverage_rows import LOADING, CoverageRow
from cryptolake_assets.quality.candidate_checks import CheckOutcome
from cryptolake_assets.quality.minute_bars import MARKET
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.manifest import DataFile

log = structlog.get_logger(__name__)

SHA256_MARK = "#sha256="  # precedes the zip's sha256 in the source of a file's coverage rows

RowsWritten = Callable[[int], None]  # called with the number of the file's rows written so far


class Outcome(StrEnum):
    """The outcome of loading a day."""

    LOADED = "loaded"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    MISSING = "missing"


@dataclass(frozen=True)
class LoadedDay:
    """Result of loading a day.

    `rows` counts the day's archive rows in Bronze afterwards (for a rejected file: the rows in the file),
    `rows_removed` the removed rows of an earlier issue. `outcomes` is empty for a day that was loaded before.
    """

    file: ArchiveFile
    outcome: Outcome
    sha256: str
    rows: int
    rows_removed: int = 0
    size_bytes: int = 0
    snapshot_id: int | None = None
    duration_ms: int = 0
    outcomes: tuple[CheckOutcome, ...] = ()


@dataclass(frozen=True)
class NotLoaded:
    """A missing or invalid archive file, with its outcome and reason."""

    file: ArchiveFile
    outcome: Outcome
    reason: str


def try_day(
    settings: Settings,
    client: ArchiveClient,
    file: ArchiveFile,
    run_id: str,
    *,
    reload: bool = False,
    downloaded: Progress | None = None,
    written: RowsWritten | None = None,
) -> LoadedDay | NotLoaded:
    """Call `load_day`; return a missing or invalid file as `NotLoaded`, so that callers continue with other files.

    Raises `ArchiveRangeError` and `ExchangeError`.
    """
    try:
        return load_day(settings, client, file, run_id, reload=reload, downloaded=downloaded, written=written)
    except ArchiveMissingError as error:
        return NotLoaded(file, Outcome.MISSING, str(error))
    except (ArchiveChecksumError, ArchiveFormatError) as error:
        return NotLoaded(file, Outcome.REJECTED, str(error))


def load_day(
    settings: Settings,
    client: ArchiveClient,
    file: ArchiveFile,
    run_id: str,
    *,
    reload: bool = False,
    downloaded: Progress | None = None,
    written: RowsWritten | None = None,
) -> LoadedDay:
    """Load a day, unless the same file (by its sha256) was loaded before; `reload` loads it anyway.

    A file that fails a blocking check has the outcome `REJECTED`, and rows loaded before stay. Raises
    `ArchiveRangeError` for a day before the lake's first day, `ArchiveMissingError`, `ArchiveChecksumError`,
    `ArchiveFormatError` and `ExchangeError`; these leave the lake unchanged. One load at a time runs per home.
    """
    from filelock import FileLock

    _require_partition(settings, file)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.run_dir / "archive.lock"):
        started = time.monotonic()
        sha256 = client.checksum(file)
        if not reload and _recorded(settings, file) == sha256:
            rows = count_day(load_table(settings, file.tables.trades), file.venue.exchange, file.symbol, file.day)
            log.info("archive_day_skipped", symbol=file.symbol, day=file.day.isoformat(), rows=rows)
            return LoadedDay(file, Outcome.UNCHANGED, sha256, rows)
        path = client.fetch(file, sha256, settings.archive_dir / file.venue.exchange, downloaded)
        loaded = _load(settings, client.url(file), file, path, sha256, run_id, started, written)
        path.unlink()
        return loaded


def _load(
    settings: Settings,
    url: str,
    file: ArchiveFile,
    path: Path,
    sha256: str,
    run_id: str,
    started: float,
    written: RowsWritten | None,
) -> LoadedDay:
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    table = load_table(settings, file.tables.trades)
    size_bytes = path.stat().st_size
    hour_files, inspection = HourFiles(table), Inspection(file)
    try:
        files = write_day(path, file, hour_files, inspection, written)
        if inspection.may_contradict and len(ids := contradicting_ids(partial(_read, path, file), file)):
            hour_files.abort()
            hour_files, inspection = HourFiles(table), Inspection(file, ids)
            files = write_day(path, file, hour_files, inspection, written)
    except BaseException:
        hour_files.abort()
        raise
    outcomes = inspection.outcomes(sum(item.record_count for item in files))
    if not inspection.passed(outcomes):
        hour_files.abort()
        log.error("archive_day_rejected", symbol=file.symbol, day=file.day.isoformat(), file=file.name)
        return LoadedDay(
            file,
            Outcome.REJECTED,
            sha256,
            inspection.rows,
            size_bytes=size_bytes,
            duration_ms=_ms_since(started),
            outcomes=tuple(outcomes),
        )
    earlier = _record_loading(settings, url, file)
    properties = {
        "cryptolake.run-id": run_id,
        "cryptolake.archive-file": file.name,
        "cryptolake.archive-sha256": sha256,
    }
    try:
        replaced = replace_day(table, file.venue.exchange, file.symbol, file.day, files, properties)
    except (CommitFailedException, ValidationException):
        hour_files.abort()
        if earlier:
            replace_day_rows(settings, file, earlier)
        raise
    write_rejected_lines(settings, f"archive:{file.name}", inspection.rejected_lines)
    replace_day_rows(settings, file, rows_of_day(file, inspection.runs(), f"{url}{SHA256_MARK}{sha256}"))
    outcome = Outcome.REPLACED if replaced.rows_removed else Outcome.LOADED
    log.info(
        "archive_day_loaded",
        symbol=file.symbol,
        day=file.day.isoformat(),
        outcome=outcome.value,
        rows=inspection.rows,
        rows_removed=replaced.rows_removed,
        files_rewritten=replaced.files_rewritten,
        snapshot=replaced.snapshot_id,
        duration_s=round(time.monotonic() - started, 1),
    )
    return LoadedDay(
        file,
        outcome,
        sha256,
        inspection.rows,
        replaced.rows_removed,
        size_bytes,
        replaced.snapshot_id,
        _ms_since(started),
        tuple(outcomes),
    )


def write_day(
    path: Path, file: ArchiveFile, hour_files: HourFiles, inspection: Inspection, written: RowsWritten | None = None
) -> list[DataFile]:
    """Write the zip's accepted rows as data files; one block is parsed while another is written."""
    received, schema = datetime.now(UTC), file.tables.trades.arrow_schema()
    for block in prefetch(_read(path, file)):
        if (rows := inspection.add_block(block)).num_rows:
            hour_files.write(_bronze_rows(rows, file, received, schema))
        if written is not None:
            written(inspection.rows)
    return hour_files.close()


def _read(path: Path, file: ArchiveFile) -> Iterator[Block]:
    return read_blocks(path, columns=SPOT_HEADER if file.venue.archive_best_match else HEADER)


def _bronze_rows(block: pa.Table, file: ArchiveFile, received: datetime, schema: pa.Schema) -> pa.Table:
    """Return rows of the table of trades; constant text columns are dictionaries of one value."""
    import pyarrow as pa

    number = block.num_rows
    maker = block["is_buyer_maker"].combine_chunks().cast(pa.int8())
    columns = {
        "symbol": _constant(file.symbol, number),
        "event_time": block["transact_time"].cast(schema.field("event_time").type),
        "price": block["price"],
        "qty": block["quantity"],
        "side": pa.DictionaryArray.from_arrays(maker, pa.array(["buy", "sell"])),
        "trade_id": block["agg_trade_id"],
        "exchange": _constant(file.venue.exchange, number),
        "ingest_ts": pa.repeat(pa.scalar(received, schema.field("ingest_ts").type), number),
        "first_trade_id": block["first_trade_id"],
        "last_trade_id": block["last_trade_id"],
        "trade_type": _constant(MARKET, number),
        "stream": _constant(STREAM, number),
    }
    for name in schema.names:
        if name not in columns:
            columns[name] = pa.nulls(number, schema.field(name).type)
    return pa.table(columns)


def _constant(value: str, number: int) -> pa.Array:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), number), pa.array([value]))


def _require_partition(settings: Settings, file: ArchiveFile) -> None:
    first = default_start_date(settings)
    if file.day < first:
        raise ArchiveRangeError(
            f"archive: {file.day} is before the lake's first day, {first}. Set CRYPTOLAKE_START_DATE={file.day} (or an "
            "earlier day), restart the platform, then load the day again."
        )


def _recorded(settings: Settings, file: ArchiveFile) -> str | None:
    """Return the sha256 of the issue whose trades are in Bronze; None if there is none."""
    sources = [
        row.source for row in _rows_of(settings, file) if SHA256_MARK in row.source and row.kafka_partition != LOADING
    ]
    return sources[0].rpartition(SHA256_MARK)[2] if sources else None


def _record_loading(settings: Settings, url: str, file: ArchiveFile) -> list[CoverageRow]:
    """Replace the day's coverage by a `LOADING` row before the first trade is readable; return the earlier coverage.

    Without that row, readers of Bronze would treat the trades as strays. The coverage of an earlier issue must be
    removed before its rows are.
    """
    earlier = [row for row in _rows_of(settings, file) if row.kafka_partition != LOADING]
    exchange, end_ms = file.venue.exchange, file.start_ms + DAY_MS
    loading = CoverageRow(exchange, file.symbol, STREAM, file.start_ms, end_ms, LOADING, 0, url)
    replace_day_rows(settings, file, [loading])
    return earlier


def _rows_of(settings: Settings, file: ArchiveFile) -> list[CoverageRow]:
    """Return the archive's coverage rows of the file's day."""
    return [
        row
        for row in read_coverage(settings, exchange=file.venue.exchange, symbols=[file.symbol])
        if is_of_day(row, file.start_ms)
    ]


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def days_between(first: date, last: date) -> list[date]:
    """Return the days from `first` to `last`, both included; empty if `last` is before `first`."""
    return [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
