"""Simulate the days of a lake for part `soak`, and maintain it as the schedules do.

Rows of past days are few, because no step reads them: what grows with time is their files, partitions, manifests,
gaps and events. Bronze's files of past hours are links to one file.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import lakes
from benchmarks.runner import progress
from benchmarks.trades import DAY_MS, HOUR_MS
from cryptolake_assets.model.markets import USD_M

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

    from cryptolake_assets.lake.gap_ledger import TradeGap
    from cryptolake_assets.model.coverage_rows import CoverageRow
    from cryptolake_assets.model.table_spec import TableSpec
    from cryptolake_assets.settings import Settings

STREAM = "trade"
# Per day: symbols with a gap that stays open, gaps that were repaired, and quarantined trades.
OPEN_GAPS, REPAIRED_GAPS, QUARANTINED = 2, 30, 5
ARCHIVED = 40  # symbols whose archive days are loaded
OF_ARCHIVE: dict[str, Any] = {"kafka_partition": None, "kafka_offset": None}
MICRO_BATCHES = 60  # of the newest hour, not merged yet
SNAPSHOTS = 2  # that expiry leaves of every table before the newest hour
MAINTAINED_EVERY = 15  # days


def names(number: int) -> list[str]:
    return [f"S{index}USDT" for index in range(number)]


def settings_of(home: Path, symbols: int, first_ms: int, clock_url: str = "") -> Settings:
    start = _moment(first_ms).date().isoformat()
    return lakes.lake_settings(home, clock_url, symbols=tuple(names(symbols)), start_date=start)


def simulate(home: Path, symbols: int, first_ms: int, days: int, seed: int, clock_url: str) -> None:
    """Create a lake of `days` days, maintained, with an open hour at its end that Silver has followed."""
    lakes.create(home, first_ms, days)
    settings = settings_of(home, symbols, first_ms, clock_url)
    chosen = random.Random(seed)  # noqa: S311 - reproducible data, no secret
    since_ms = dict.fromkeys(settings.symbols, first_ms)
    hours = _HourFiles(settings, first_ms)
    for day in range(days):
        start_ms = first_ms + day * DAY_MS
        broken = chosen.sample(sorted(since_ms), min(OPEN_GAPS, len(since_ms)))
        _write_gaps(settings, chosen, broken, start_ms, day)
        for symbol in broken:
            since_ms[symbol] = start_ms + chosen.randrange(DAY_MS // 2)
        _write_coverage(settings, _day_of_coverage(since_ms, start_ms, (day + 1) * 1_000_000))
        is_last = day == days - 1
        hours.append(range(start_ms, start_ms + DAY_MS - (HOUR_MS if is_last else 0), HOUR_MS))
        _append_days(settings, broken, start_ms, day, is_last=is_last)
        if day % MAINTAINED_EVERY == 0 or is_last:
            maintain(settings)
        progress((day + 1) / days)
    end_ms = first_ms + days * DAY_MS
    _write_archive(settings, range(first_ms, end_ms, DAY_MS))
    for number in range(MICRO_BATCHES):
        append_trades(settings, end_ms - HOUR_MS + number * HOUR_MS // MICRO_BATCHES, number)
    lakes.follow_to_head(settings)
    refresh(settings, _moment(end_ms - HOUR_MS), None)


# The streams' records.


def claim(symbol: str, from_ms: int, to_ms: int, partition: int, offset: int, evidence: Any) -> CoverageRow:
    from cryptolake_assets.model.coverage_rows import CoverageRow

    return CoverageRow(USD_M.exchange, symbol, STREAM, from_ms, to_ms, partition, offset, "wss://x", evidence)


def _day_of_coverage(since_ms: dict[str, int], start_ms: int, offset: int) -> Iterator[CoverageRow]:
    """Yield a day's claims: each symbol's connection is replaced; ids prove the time since its last open gap."""
    from cryptolake_assets.model.coverage_rows import Evidence

    for number, symbol in enumerate(since_ms):
        partition, end_ms = number % 4, start_ms + DAY_MS
        yield claim(symbol, max(since_ms[symbol], start_ms - 62_000), end_ms - 400, partition, offset, Evidence.IDS)
        yield claim(symbol, start_ms - 30_000, end_ms, partition, offset, Evidence.BARRIER)


def _write_coverage(settings: Settings, claims: Iterator[CoverageRow]) -> None:
    from cryptolake_assets.lake.coverage import IcebergCoverageSink

    IcebergCoverageSink(settings).write(list(claims))


def _write_archive(settings: Settings, starts_ms: range) -> None:
    """Record the archive days of the first symbols as loaded."""
    from cryptolake_assets.lake.coverage import change_archive_rows
    from cryptolake_assets.model.coverage_rows import Evidence

    for symbol in settings.symbols[:ARCHIVED]:
        rows = [replace(claim(symbol, at, at + DAY_MS, 0, 0, Evidence.IDS), **OF_ARCHIVE) for at in starts_ms]
        change_archive_rows(settings, USD_M.exchange, symbol, lambda _, rows=rows: rows)  # type: ignore[misc]


def _write_gaps(settings: Settings, chosen: random.Random, broken: Sequence[str], start_ms: int, day: int) -> None:
    from cryptolake_assets.lake.gap_ledger import IcebergGapSink

    repaired = [(chosen.choice(settings.symbols), chosen.randrange(DAY_MS)) for _ in range(REPAIRED_GAPS)]
    first_id = day * 1_000
    gaps = [gap(symbol, first_id + n, start_ms + at_ms, closed=True) for n, (symbol, at_ms) in enumerate(repaired)]
    gaps += [gap(symbol, first_id + 500, start_ms, closed=False) for symbol in broken]
    IcebergGapSink(settings).write(gaps)


def gap(symbol: str, first_id: int, at_ms: int, *, closed: bool) -> TradeGap:
    from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, TradeGap

    at = _moment(at_ms)
    return TradeGap(
        exchange=USD_M.exchange,
        symbol=symbol,
        stream=STREAM,
        first_missing_id=first_id,
        last_missing_id=first_id,
        ids_missing=0 if closed else 1,
        after_us=at_ms * 1000,
        before_us=at_ms * 1000 + 5_000,
        detected_at=at,
        closed_at=at if closed else None,
        closed_by=ClosedBy.REST if closed else None,
        outcome=GapOutcome.REPAIRED if closed else None,
        kafka_partition=0 if closed else None,
        kafka_offset=1 if closed else None,
    )


# Bronze.


class _HourFiles:
    """Writer of Bronze's compacted hours: links to one file."""

    def __init__(self, settings: Settings, first_ms: int) -> None:
        self._settings = settings
        table = lakes.bronze(settings)
        (self._file,) = lakes.data_files(table, _trades(settings, first_ms, 0))

    def append(self, starts_ms: range) -> None:
        lakes.append(lakes.bronze(self._settings), [self._of(start_ms // HOUR_MS) for start_ms in starts_ms])

    def _of(self, hour: int) -> DataFile:
        from pyiceberg.manifest import DataFile
        from pyiceberg.typedef import Record

        path = self._file.file_path.removeprefix("file://")
        link = f"{path.removesuffix('.parquet')}-{hour}.parquet"
        os.link(path, link)
        values = list(self._file._data)
        values[values.index(self._file.file_path)] = f"file://{link}"
        values[values.index(self._file.partition)] = Record(hour)
        return DataFile(*values)


def append_trades(settings: Settings, start_ms: int, number: int, price: str = "100.5") -> int:
    """Append a micro-batch with a trade per symbol to Bronze; return its sequence number."""
    from cryptolake_assets.lake.bronze_files import current_sequence

    lakes.append(
        lakes.bronze(settings), lakes.data_files(lakes.bronze(settings), _trades(settings, start_ms, number, price))
    )
    return current_sequence(lakes.bronze(settings))


def _trades(settings: Settings, start_ms: int, number: int, price: str = "100.5") -> Any:
    import pyarrow as pa

    from cryptolake_assets.model.family_tables import FUTURES

    at = _moment(start_ms)
    rows = [
        {
            "symbol": symbol,
            "event_time": at,
            "price": Decimal(price),
            "qty": Decimal("0.25"),
            "side": "buy",
            "trade_id": number,
            "exchange": USD_M.exchange,
            "ingest_ts": at,
            "first_trade_id": number,
            "last_trade_id": number,
            "trade_type": "MARKET",
            "stream": STREAM,
            "kafka_partition": 0,
            "kafka_offset": number,
            "kafka_timestamp": at,
        }
        for symbol in settings.symbols
    ]
    return pa.Table.from_pylist(rows, FUTURES.trades.arrow_schema())


def refresh(settings: Settings, hour: datetime, from_sequence: int | None) -> None:
    """Run Silver for the hour, as the follower requests it."""
    from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
    from cryptolake_assets.transform.silver_run import run_silver

    (outcome,) = run_silver(settings, DuckDBEngine(settings), [hour], "soak", from_sequence=from_sequence)
    assert outcome.publication is not None
    assert outcome.publication.rows_changed >= len(settings.symbols)


# The other tables: a file per partition, as their writers and compaction leave them.


def _append_days(settings: Settings, broken: Sequence[str], start_ms: int, day: int, *, is_last: bool) -> None:
    from cryptolake_assets.model.family_tables import FUTURES
    from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS

    at = _moment(start_ms)
    keys = [{"exchange": USD_M.exchange, "symbol": symbol} for symbol in settings.symbols]
    if not is_last:
        bars = [{**key, "window_start": at, "is_complete": key["symbol"] not in broken} for key in keys]
        _append(settings, FUTURES.bars, bars)
        _append(settings, FUTURES.klines, [{**key, "open_time": at} for key in keys])
    bad = [{"trade_id": day * 100 + number, "rule": "price_not_positive"} for number in range(QUARANTINED)]
    of_stream = {"event_time": at, "ingest_ts": at, "stream": STREAM}
    _append(settings, FUTURES.quarantine, [{**keys[0], **of_stream, **row} for row in bad])
    _append(settings, FUTURES.rejected, [{"ingest_ts": at, "reason": "not_json"}] * 2)
    if (at + timedelta(days=1)).day == 1 or is_last:
        _append(settings, OPS_RUN_METRICS, [{"run_id": str(hour), "finished_at": at} for hour in range(24 * at.day)])


def _append(settings: Settings, spec: TableSpec, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa

    table = table_of(settings, spec)
    empty = dict.fromkeys(spec.column_names)
    found = pa.Table.from_pylist([{**empty, **row} for row in rows], spec.arrow_schema())
    lakes.append(table, lakes.data_files(table, found))


def table_of(settings: Settings, spec: TableSpec) -> Table:
    from cryptolake_assets.lake.catalog import load_table

    return load_table(settings, spec)


def maintain(settings: Settings) -> None:
    """Merge the manifests and expire the snapshots of every table."""
    from cryptolake_assets.lake.maintenance.expiry import due_snapshots, expire, history_of
    from cryptolake_assets.lake.maintenance.manifests import merge_manifests
    from cryptolake_assets.model.tables import TABLES

    now_ms = int(time.time() * 1000) + DAY_MS
    for spec in TABLES:
        table = table_of(settings, spec)
        merge_manifests(table)
        expire(table, lambda table: due_snapshots(history_of(table), now_ms, SNAPSHOTS))


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
