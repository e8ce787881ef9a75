"""One Silver refresh: the touched minutes of an hour, recomputed from Bronze, checked, published by one commit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.lake.bronze_files import AddedFile, added_files, head_sequence, local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, publish, read_window
from cryptolake_assets.lake.duck import open_duckdb, scalar
from cryptolake_assets.lake.tables import BRONZE_TRADES, SILVER_OHLCV
from cryptolake_assets.lake.windows import HOUR, between, silver_day
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import metrics
from cryptolake_assets.transform.checks import CheckOutcome, check_candidate, check_counts
from cryptolake_assets.transform.context import World, observe
from cryptolake_assets.transform.engines import Engine
from cryptolake_assets.transform.ohlcv import (
    MINUTE_MS,
    IsComplete,
    RowCounts,
    bars_from_aggregates,
    count_rows,
    epoch_ms,
)
from cryptolake_assets.transform.quarantine import advance_quarantine

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)

ASSET = "silver/futures_ohlcv_1m"
VALUES_OUTSIDE_EQUALITY = ("is_complete", "updated_at")


@dataclass(frozen=True)
class SilverCandidate:
    """Bars that are ready to be published, and what is known of them."""

    hour: datetime
    bars: pa.Table
    replaced_keys: pa.Table
    counts: RowCounts
    outcomes: list[CheckOutcome]
    engine: str
    bronze_snapshot: int
    bronze_sequence: int
    quarantined: int
    started: float

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def incomplete_minutes(self) -> int:
        return int(self.bars.num_rows - sum(self.bars["is_complete"].to_pylist()))


def prepare(
    settings: Settings, engine: Engine, hour: datetime, from_sequence: int | None, run_id: str
) -> SilverCandidate:
    """Recomputes the minutes that Bronze files of `from_sequence` and later touch; the whole hour without it.

    Bars that were incomplete and may be complete by now are recomputed too. Nothing is published.
    """
    started = time.monotonic()
    world = observe(settings)
    bronze = load_table(settings, BRONZE_TRADES)
    snapshot = bronze.current_snapshot()
    present = read_window(load_table(settings, SILVER_OHLCV), between("window_start", hour, hour + HOUR))
    minutes = None if from_sequence is None else _touched(bronze, hour, from_sequence, present, world)
    quarantined = advance_quarantine(settings, bronze, world.rules, run_id)

    schema = SILVER_OHLCV.arrow_schema()
    bars, counts, outcomes = schema.empty_table(), RowCounts(), []
    if snapshot is not None and (minutes is None or minutes.num_rows):
        aggregates = engine.minute_aggregates(snapshot.snapshot_id, hour, minutes, world.rules)
        counts = count_rows(aggregates)
        bars = _keep_proven(bars_from_aggregates(aggregates, _complete_minute(world)), present)
        expected = _bronze_rows(bronze, hour, minutes)
        outcomes = check_counts(counts, expected, settings.drop_ratio_limit)
    return SilverCandidate(
        hour=hour,
        bars=bars,
        replaced_keys=keys_of(SILVER_OHLCV, present, bars) if minutes is None else minutes,
        counts=counts,
        outcomes=[*check_candidate(SILVER_OHLCV, bars), *outcomes],
        engine=engine.name,
        bronze_snapshot=snapshot.snapshot_id if snapshot else 0,
        bronze_sequence=head_sequence(bronze),
        quarantined=quarantined,
        started=started,
    )


def commit(settings: Settings, candidate: SilverCandidate, run_id: str) -> Publication:
    """Publishes a candidate that passed its checks, in one commit, and records the run."""
    publication = publish(
        load_table(settings, SILVER_OHLCV),
        SILVER_OHLCV,
        silver_day(candidate.hour),
        candidate.bars,
        candidate.replaced_keys,
        {"cryptolake.bronze-sequence": str(candidate.bronze_sequence), "cryptolake.run-id": run_id},
    )
    record_run(settings, candidate, publication, run_id)
    return publication


def record_run(settings: Settings, candidate: SilverCandidate, publication: Publication | None, run_id: str) -> None:
    """Writes the run's metrics; `publication` is None where a check failed."""
    counts = candidate.counts
    metrics.record(
        settings,
        metrics.RunMetrics(
            run_id=run_id,
            asset=ASSET,
            partition=candidate.hour.strftime("%Y-%m-%d-%H:%M"),
            engine=candidate.engine,
            rows_in=counts.rows_in,
            rows_valid=counts.rows_valid,
            rows_dropped=counts.rows_dropped,
            rows_duplicate=counts.rows_duplicate,
            rows_other_type=counts.rows_other_type,
            dropped_by_rule=counts.dropped_by_rule,
            rows_written=publication.rows_changed if publication else 0,
            duration_ms=round((time.monotonic() - candidate.started) * 1000),
            source_snapshot=candidate.bronze_snapshot,
            snapshot=publication.snapshot_id if publication else None,
        ),
    )


def minutes_now_complete(settings: Settings) -> set[datetime]:
    """Hours of Silver that hold an incomplete bar whose minute is complete by what coverage says now."""
    world = observe(settings)
    incomplete = load_table(settings, SILVER_OHLCV).scan(
        row_filter="is_complete = false", selected_fields=("symbol", "window_start")
    )
    return {
        row["window_start"].replace(minute=0)
        for row in incomplete.to_arrow().to_pylist()
        if _may_be_complete(row, world)
    }


def _touched(bronze: Table, hour: datetime, from_sequence: int, present: pa.Table, world: World) -> pa.Table:
    """Distinct (symbol, window_start): of the hour's files from `from_sequence` on, and of bars to be completed."""
    import pyarrow as pa

    files = [file for file in added_files(bronze, from_sequence - 1) if file.hour == hour]
    waiting = [row for row in present.to_pylist() if not row["is_complete"] and _may_be_complete(row, world)]
    schema = pa.schema([SILVER_OHLCV.arrow_schema().field(name) for name in SILVER_OHLCV.key])
    with open_duckdb() as duck:
        waiting_keys = {name: [row[name] for row in waiting] for name in SILVER_OHLCV.key}
        duck.register("waiting", pa.table(waiting_keys, schema=schema))
        union = "SELECT symbol, window_start FROM waiting"
        if files:
            union += f" UNION SELECT symbol, date_trunc('minute', event_time) FROM ({_scan(files)})"
        keys = duck.sql(f"SELECT DISTINCT * FROM ({union}) ORDER BY ALL").to_arrow_table()
    return keys.cast(schema)


def _scan(files: list[AddedFile]) -> str:
    """DuckDB's FROM of these Parquet files."""
    names = ", ".join("'" + local_path(file.path).replace("'", "''") + "'" for file in files)
    return f"SELECT symbol, event_time FROM read_parquet([{names}])"


def _bronze_rows(bronze: Table, hour: datetime, minutes: pa.Table | None) -> int:
    """Bronze's own count of the window, independent of the engine."""
    files = [file for file in added_files(bronze, 0) if file.hour == hour]
    if minutes is None:
        return sum(file.rows for file in files)
    with open_duckdb() as duck:
        duck.register("minutes", minutes)
        return scalar(
            duck,
            f"""SELECT count(*) FROM ({_scan(files)}) AS trades
            SEMI JOIN minutes ON trades.symbol = minutes.symbol
              AND date_trunc('minute', trades.event_time) = minutes.window_start""",
        )


def _complete_minute(world: World) -> IsComplete:
    def is_complete(symbol: str, stream: str, start_ms: int) -> bool:
        return world.completeness.is_complete(symbol, stream, start_ms, start_ms + MINUTE_MS)

    return is_complete


def _may_be_complete(row: dict[str, object], world: World) -> bool:
    start_ms = epoch_ms(row["window_start"])  # type: ignore[arg-type]
    return world.completeness.is_complete_on_any_stream(str(row["symbol"]), start_ms, start_ms + MINUTE_MS)


def _keep_proven(bars: pa.Table, present: pa.Table) -> pa.Table:
    """A bar that was complete and has not changed stays complete, also while Bronze catches up with new coverage."""
    import pyarrow as pa

    names = [name for name in SILVER_OHLCV.column_names if name not in VALUES_OUTSIDE_EQUALITY]
    proven = {tuple(row[name] for name in names) for row in present.to_pylist() if row["is_complete"]}
    if not proven:
        return bars
    flags = [row["is_complete"] or tuple(row[name] for name in names) in proven for row in bars.to_pylist()]
    position = bars.schema.get_field_index("is_complete")
    return bars.set_column(position, bars.schema.field(position), pa.array(flags, pa.bool_()))
