"""Derive coverage from archive days, by consecutive ids or by official klines.

Consecutive ids cover the time between them, within a day and across midnight. Klines cover minutes with equal trade
count and volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Final

from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.ingest.archive_checks import DAY_MS, MAX_GAPS, IdRun
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import change_archive_rows, read_coverage
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import all_of, at_least, below, equal
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.windows import DAY, MINUTE_MS
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import MARKET
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

STREAM: Final = "aggTrade"  # the stream whose ids the archive's aggregates have
BORDER: Final = "archive: ids that continue from one day to the next"  # source of a row that joins two days


def rows_of_day(file: ArchiveFile, runs: Sequence[IdRun], source: str) -> list[CoverageRow]:
    """Return the coverage of a day's ids: for each run, the time from after its first trade to its last.

    Trades of the same ms as a run's first or last trade may be missing. The missing trades of a gap may lie anywhere
    between the two trades around it, whose times may be out of order. A day without evidence is stored too, as a row
    without time and ids.
    """
    if len(runs) > MAX_GAPS + 1 or not runs:
        return [_row(file, file.start_ms, file.start_ms, source)]
    gaps = [
        (min(before.last_us, after.first_us) // 1000, max(before.last_us, after.first_us) // 1000 + 1)
        for before, after in pairwise(sorted(runs, key=lambda run: run.first_id))
    ]
    found = []
    for run in runs:
        from_ms = min(run.first_us // 1000 + 1, file.start_ms + DAY_MS - 1)
        to_ms = max(run.last_us // 1000, from_ms)
        parts = _outside(from_ms, to_ms, gaps)
        if parts == [(from_ms, to_ms)]:
            found.append(_row(file, from_ms, to_ms, source, run.first_id, run.last_id))
        else:
            # Without ids: the run is clipped here, so its ids must not join a neighboring day.
            found += [_row(file, *part, source) for part in parts]
    return found


def _outside(from_ms: int, to_ms: int, gaps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of the interval that are in no gap."""
    parts = [(from_ms, to_ms)]
    for begin, end in gaps:
        if begin < to_ms and end > from_ms:
            cut = [((first, min(last, begin)), (max(first, end), last)) for first, last in parts]
            parts = [part for both in cut for part in both if part[0] < part[1]]
    return parts


def _row(
    file: ArchiveFile,
    from_ms: int,
    to_ms: int,
    source: str,
    first_id: int | None = None,
    last_id: int | None = None,
    evidence: Evidence = Evidence.IDS,
) -> CoverageRow:
    exchange = file.venue.exchange
    return CoverageRow(exchange, file.symbol, STREAM, from_ms, to_ms, None, None, source, evidence, first_id, last_id)


def is_of_day(row: CoverageRow, start_ms: int) -> bool:
    """Return whether the row covers the archive's UTC day that begins at `start_ms`."""
    return row.of_archive and row.source != BORDER and start_ms <= row.connected_from_ms < start_ms + DAY_MS


def replace_day_rows(settings: Settings, file: ArchiveFile, rows: Sequence[CoverageRow]) -> None:
    """Replace the coverage of the file's day, and join it to its neighbors where the ids continue."""

    def change(before: list[CoverageRow]) -> list[CoverageRow]:
        return with_borders([row for row in before if not is_of_day(row, file.start_ms)] + list(rows))

    change_archive_rows(settings, file.venue.exchange, file.symbol, change)


def with_borders(rows: Iterable[CoverageRow]) -> list[CoverageRow]:
    """Return a symbol's archive rows with newly built rows that join neighboring days."""
    result = [row for row in rows if row.source != BORDER]
    by_ids = sorted((row for row in result if row.first_id is not None), key=lambda row: row.connected_from_ms)
    days = [(day, list(of_day)) for day, of_day in groupby(by_ids, key=lambda row: row.connected_from_ms // DAY_MS)]
    joins = []
    for (day, earlier), (next_day, later) in pairwise(days):
        last = max(earlier, key=lambda row: row.last_id or 0)
        first = min(later, key=lambda row: row.first_id or 0)
        if next_day == day + 1 and last.last_id is not None and first.first_id == last.last_id + 1:
            joins.append((last, first))
    firsts, lasts = {first for _, first in joins}, {last for last, _ in joins}
    for last, first in joins:
        # A row without time comes from a run of one or two ms; trades of the ms at its other end may be missing.
        is_known_before = last.connected_from_ms < last.connected_to_ms or last in firsts
        is_known_after = first.connected_from_ms < first.connected_to_ms or first in lasts
        result.append(
            CoverageRow(
                last.exchange,
                last.symbol,
                last.stream,
                last.connected_to_ms - is_known_before,
                first.connected_from_ms - (not is_known_after),
                None,
                None,
                BORDER,
                Evidence.IDS,
                last.last_id,
                first.first_id,
            )
        )
    return result


def prove_by_klines(settings: Settings, file: ArchiveFile) -> int:
    """Cover the day's minutes whose official klines agree with the aggregates; return their number.

    These are the minutes that ids do not cover and whose trade count and volume are equal, including minutes without
    trades.
    """
    klines = _official_minutes(settings, file)
    aggregates = _minutes_of_bronze(settings, file) if klines else {}
    exchange = file.venue.exchange
    coverage = read_coverage(settings, exchange=exchange, symbols=[file.symbol])
    by_ids = CompletenessIndex((row for row in coverage if row.of_archive and row.evidence is Evidence.IDS), {}, 0)
    nothing = (0, Decimal(0))
    minutes = [
        start_ms
        for start_ms, counted in sorted(klines.items())
        if counted == aggregates.get(start_ms, nothing)
        and not by_ids.is_complete(exchange, file.symbol, STREAM, start_ms, start_ms + MINUTE_MS)
    ]
    source = f"archive: klines of {file.day.isoformat()}"
    rows = [
        _row(file, first, last + MINUTE_MS, source, evidence=Evidence.KLINES) for first, last in _consecutive(minutes)
    ]

    def change(before: list[CoverageRow]) -> list[CoverageRow]:
        replaced = [row for row in before if row.evidence is Evidence.KLINES and is_of_day(row, file.start_ms)]
        return [row for row in before if row not in replaced] + rows

    change_archive_rows(settings, exchange, file.symbol, change)
    return len(minutes)


def _consecutive(minutes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last minute of each run of consecutive minutes."""
    found: list[tuple[int, int]] = []
    for start_ms in minutes:
        if found and start_ms == found[-1][1] + MINUTE_MS:
            found[-1] = found[-1][0], start_ms
        else:
            found.append((start_ms, start_ms))
    return found


def _official_minutes(settings: Settings, file: ArchiveFile) -> Mapping[int, tuple[int, Decimal]]:
    """Return trade count and volume of the day's official klines by open time (ms)."""
    start = datetime.fromtimestamp(file.start_ms / 1000, UTC)
    of_symbol = (equal("exchange", file.venue.exchange), equal("symbol", file.symbol))
    of_day = all_of(at_least("open_time", start), below("open_time", start + DAY), *of_symbol)
    fields = ("open_time", "trades", "volume")
    rows = load_table(settings, file.tables.klines).scan(row_filter=of_day, selected_fields=fields).to_arrow()
    return {round(row["open_time"].timestamp() * 1000): (row["trades"], row["volume"]) for row in rows.to_pylist()}


def _minutes_of_bronze(settings: Settings, file: ArchiveFile) -> Mapping[int, tuple[int, Decimal]]:
    """Return trade count and volume of the day's distinct aggregates by open time (ms)."""
    start = datetime.fromtimestamp(file.start_ms / 1000, UTC)
    of_day = all_of(
        *(at_least("event_time", start), below("event_time", start + DAY), equal("symbol", file.symbol)),
        *(equal("exchange", file.venue.exchange), equal("stream", STREAM), equal("trade_type", MARKET)),
    )
    fields = ("event_time", "trade_id", "qty", "first_trade_id", "last_trade_id")
    table = load_table(settings, file.tables.trades)
    rows: pa.Table = table.scan(row_filter=of_day, selected_fields=fields).to_arrow()
    with open_duckdb() as duck:
        duck.register("aggregates", rows)
        minutes = duck.sql(
            f"""SELECT epoch_us(event_time) // {MINUTE_MS * 1000} * {MINUTE_MS} AS start_ms,
              sum(last_trade_id - first_trade_id + 1)::BIGINT AS trades, sum(qty) AS volume
            FROM (SELECT DISTINCT * FROM aggregates) GROUP BY ALL"""
        ).fetchall()
    return {int(start_ms): (int(trades), volume) for start_ms, trades, volume in minutes}
