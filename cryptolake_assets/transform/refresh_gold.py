"""One Gold refresh: a UTC day's stats from Silver, checked, published by one commit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as day_time
from typing import TYPE_CHECKING

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, publish, read_window
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.windows import DAY, between, gold_month
from cryptolake_assets.model.bar_tables import GOLD_DAILY, SILVER_OHLCV
from cryptolake_assets.quality.bar_checks import ROW_CHECKS
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import run_metrics as metrics
from cryptolake_assets.transform.daily_stats import daily_stats_from_aggregates
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.quarantine import dropped_trades
from cryptolake_assets.transform.run_context import observe

if TYPE_CHECKING:
    import pyarrow as pa

ASSET = "gold/futures_daily_stats"


@dataclass(frozen=True)
class GoldCandidate:
    """A day's rows that are ready to be published."""

    day: date
    rows: pa.Table
    replaced_keys: pa.Table
    bars_read: int
    outcomes: list[CheckOutcome]
    engine: str
    silver_snapshot: int
    duration_ms: int

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)


def prepare(settings: Settings, engine: AggregationEngine, day: date) -> GoldCandidate:
    """Computes the day from the present Silver snapshot. Nothing is published."""
    started = time.monotonic()
    inputs = observe(settings)
    snapshot = load_table(settings, SILVER_OHLCV).current_snapshot()
    start = datetime.combine(day, day_time(), UTC)
    start_ms = epoch_ms(start)
    end_ms = start_ms + round(DAY.total_seconds() * 1000)

    present = read_window(load_table(settings, GOLD_DAILY), between("trade_date", day, day + DAY))

    def is_covered(symbol: str) -> bool:
        return inputs.completeness.is_complete_on_any_stream(symbol, start_ms, end_ms)

    rows = GOLD_DAILY.arrow_schema().empty_table()
    if snapshot is not None:
        aggregates = engine.daily_aggregates(snapshot.snapshot_id, day)
        dropped = dropped_trades(settings, start, inputs.rules, snapshot.snapshot_id)
        rows = daily_stats_from_aggregates(aggregates, day, dropped, is_covered, present)
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, GOLD_DAILY, rows, ROW_CHECKS["gold"])
    return GoldCandidate(
        day=day,
        rows=rows,
        replaced_keys=keys_of(GOLD_DAILY, present, rows),
        bars_read=sum(rows["minutes_with_trades"].to_pylist()),
        outcomes=outcomes,
        engine=engine.name,
        silver_snapshot=snapshot.snapshot_id if snapshot else 0,
        duration_ms=round((time.monotonic() - started) * 1000),
    )


def commit(settings: Settings, candidate: GoldCandidate, run_id: str) -> Publication:
    """Publishes a candidate that passed its checks, in one commit, and records the run."""
    publication = publish(
        load_table(settings, GOLD_DAILY),
        GOLD_DAILY,
        gold_month(candidate.day),
        candidate.rows,
        candidate.replaced_keys,
        {"cryptolake.silver-snapshot": str(candidate.silver_snapshot), "cryptolake.run-id": run_id},
    )
    record_run(settings, candidate, publication, run_id)
    return publication


def record_run(settings: Settings, candidate: GoldCandidate, publication: Publication | None, run_id: str) -> None:
    """Writes the run's metrics; `publication` is None where a check failed."""
    row = metrics.RunMetrics(
        run_id=run_id,
        asset=ASSET,
        partition=candidate.day.isoformat(),
        engine=candidate.engine,
        rows_in=candidate.bars_read,
        rows_valid=candidate.bars_read,
        rows_written=publication.rows_changed if publication else 0,
        duration_ms=candidate.duration_ms,
        source_snapshot=candidate.silver_snapshot,
        snapshot=publication.snapshot_id if publication else None,
        passed=candidate.passed,
    )
    metrics.record(settings, [row])


def last_days(settings: Settings, day: date, number: int) -> pa.Table:
    """The published rows of the days up to `day`, `number` of them."""
    return read_window(load_table(settings, GOLD_DAILY), between("trade_date", day - (number - 1) * DAY, day + DAY))
