"""Gold by write-audit-publish: a pipeline from Silver bars to a UTC day's published stats.

load_inputs → aggregate → build_candidate → check → publish → record
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from datetime import time as day_time
from typing import TYPE_CHECKING

from cryptolake_assets.lake import commit
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, read_window
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import between, gold_month
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import DAY
from cryptolake_assets.quality.bar_checks import ROW_CHECKS
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.rules import Instrument
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import run_metrics as metrics
from cryptolake_assets.transform.daily_stats import daily_stats_from_aggregates
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.load_inputs import load_run_inputs
from cryptolake_assets.transform.quarantine import dropped_trades

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GoldInputs:
    """Inputs known when the run began, Silver's snapshot right after that, and the day's published rows.

    `dropped` maps (exchange, symbol) to the number of trades that rules excluded from their bars.
    """

    day: date
    known: RunInputs
    silver_snapshot: int | None
    present: pa.Table
    dropped: dict[Instrument, int]


@dataclass(frozen=True)
class GoldCandidate:
    """A day's rows before publication; `outcomes` is empty until the candidate is checked."""

    day: date
    rows: pa.Table
    replaced_keys: pa.Table
    bars_read: int
    silver_snapshot: int
    outcomes: Sequence[CheckOutcome] = ()
    duration_ms: int = 0

    @property
    def passed(self) -> bool:
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)


def run_gold(
    settings: Settings, engine: AggregationEngine, day: date, run_id: str
) -> tuple[GoldCandidate, Publication | None]:
    """Refresh the family's day from Silver's current snapshot; the publication is None if a check failed."""
    started = time.monotonic()
    inputs = load_inputs(settings, day)
    aggregates = None
    if inputs.silver_snapshot is not None:
        aggregates = engine.daily_aggregates(settings.tables, inputs.silver_snapshot, day)
    candidate = check(settings.tables.daily, build_candidate(settings.tables.daily, inputs, aggregates))
    candidate = replace(candidate, duration_ms=round((time.monotonic() - started) * 1000))
    publication = publish(settings, candidate, run_id) if candidate.passed else None
    record(settings, engine.name, candidate, publication, run_id)
    return candidate, publication


def load_inputs(settings: Settings, day: date) -> GoldInputs:
    """Return the inputs of the day's run."""
    start = datetime.combine(day, day_time(), UTC)
    known = load_run_inputs(settings, start, start + DAY)
    snapshot = load_table(settings, settings.tables.bars).metadata.current_snapshot_id
    return GoldInputs(
        day=day,
        known=known,
        silver_snapshot=snapshot,
        present=read_window(load_table(settings, settings.tables.daily), between("trade_date", day, day + DAY)),
        dropped={} if snapshot is None else dropped_trades(settings, start, known.rules, snapshot),
    )


def build_candidate(spec: TableSpec, inputs: GoldInputs, aggregates: pa.Table | None) -> GoldCandidate:
    """Build the day's rows of the table `spec` from an engine's aggregates, which are None while Silver is empty."""
    start_ms = epoch_ms(datetime.combine(inputs.day, day_time(), UTC))
    end_ms = start_ms + round(DAY.total_seconds() * 1000)

    def is_covered(symbol: Instrument) -> bool:
        return inputs.known.completeness.is_complete_on_any_stream(*symbol, start_ms, end_ms)

    rows = spec.arrow_schema().empty_table()
    if aggregates is not None:
        rows = daily_stats_from_aggregates(
            aggregates, inputs.day, inputs.dropped, is_covered, inputs.present, rows.schema
        )
    return GoldCandidate(
        day=inputs.day,
        rows=rows,
        replaced_keys=keys_of(spec, inputs.present, rows),
        bars_read=sum(rows["minutes_with_trades"].to_pylist()),
        silver_snapshot=inputs.silver_snapshot or 0,
    )


def check(spec: TableSpec, candidate: GoldCandidate) -> GoldCandidate:
    """Return the candidate with the outcomes of its checks."""
    with open_duckdb() as duck:
        return replace(candidate, outcomes=check_candidate(duck, spec, candidate.rows, ROW_CHECKS["gold"]))


def publish(settings: Settings, candidate: GoldCandidate, run_id: str) -> Publication:
    """Publish a candidate that passed, in one commit."""
    return commit.publish(
        load_table(settings, settings.tables.daily),
        settings.tables.daily,
        gold_month(candidate.day),
        candidate.rows,
        candidate.replaced_keys,
        {"cryptolake.silver-snapshot": str(candidate.silver_snapshot), "cryptolake.run-id": run_id},
    )


def record(
    settings: Settings, engine_name: str, candidate: GoldCandidate, publication: Publication | None, run_id: str
) -> None:
    """Append the run's metrics; `rows_written` is 0 if a check failed."""
    row = metrics.RunMetrics(
        run_id=run_id,
        asset="/".join(settings.tables.daily.identifier),
        partition=candidate.day.isoformat(),
        engine=engine_name,
        rows_in=candidate.bars_read,
        rows_valid=candidate.bars_read,
        rows_written=publication.rows_changed if publication else 0,
        duration_ms=candidate.duration_ms,
        source_snapshot=candidate.silver_snapshot,
        snapshot=publication.snapshot_id if publication else None,
        passed=candidate.passed,
    )
    metrics.record(settings, [row])
