"""Silver by write-audit-publish: a pipeline from Bronze trades to published bars.

    load_inputs → quarantine → plan_hour → aggregate → build_candidate → check → publish → record

`load_inputs` reads the inputs once per run, `load_day` the stored data once per UTC day. Only `quarantine`, `publish`
and `record` commit. If an hour's candidate is rejected, its published bars stay and other hours are not blocked.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

from cryptolake_assets.ingest.klines import read_klines
from cryptolake_assets.lake import commit
from cryptolake_assets.lake.bronze_files import BronzeFile, current_sequence, files_between
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, read_window
from cryptolake_assets.lake.filters import above, all_of, any_of, below, equal, silver_day
from cryptolake_assets.lake.published_hours import PublishedHour, property_with, published_hours
from cryptolake_assets.model.family_tables import FamilyTables
from cryptolake_assets.model.windows import DAY, HOUR, MINUTE, day_of, hour_of
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS
from cryptolake_assets.quality.minute_bars import MinuteAggregates
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import run_metrics as metrics
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.load_inputs import load_inputs_around
from cryptolake_assets.transform.quarantine import advance_quarantine, quarantined_between
from cryptolake_assets.transform.rejected_count import count_rejected
from cryptolake_assets.transform.silver_candidate import (
    EVERYTHING,
    HourPlan,
    RunScope,
    SilverCandidate,
    SilverDay,
    bronze_rows,
    build_candidate,
    check,
    is_outdated,
    plan_hour,
)

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

MAX_SPANS = 100  # newest spans of missing trades whose complete bars a search reads


@dataclass(frozen=True)
class SilverInputs:
    """Inputs known when the run began, the Bronze snapshot that they describe, and its files of the run's hours.

    `published` are the last publications of the hours, from before all other inputs.
    """

    published: Mapping[datetime, PublishedHour]
    known: RunInputs
    bronze: Table
    bronze_snapshot: int | None
    bronze_sequence: int
    files: Mapping[datetime, Sequence[BronzeFile]]  # by hour; hours without trades are missing


@dataclass(frozen=True)
class DayOutcome:
    """Result of a run for its hours of a UTC day; `publication` is None if no hour passed."""

    inputs: SilverInputs
    engine: str
    quarantined: int  # trades that the run quarantined
    candidates: Sequence[SilverCandidate]
    publication: Publication | None


def run_silver(
    settings: Settings,
    engine: AggregationEngine,
    hours: Sequence[datetime],
    run_id: str,
    *,
    from_sequence: int | None = None,
    scope: RunScope = EVERYTHING,
) -> Iterator[DayOutcome]:
    """Refresh consecutive hours of the settings' family; yield each UTC day after the commit of its passed hours.

    Recomputes the minutes in scope that Bronze files of `from_sequence` and later touch; all minutes if it is None.
    """
    inputs = load_inputs(settings, hours)
    quarantined = advance_quarantine(settings, inputs.bronze, inputs.known.rules, run_id)
    for start, of_day in groupby(hours, day_of):
        day = load_day(settings, start)
        plans = [
            plan_hour(
                settings.tables.bars,
                inputs.known,
                inputs.files.get(hour, ()),
                day.bars_of(hour),
                hour,
                from_sequence,
                scope,
            )
            for hour in of_day
        ]
        candidates = list(_candidates(settings, engine, inputs, day, plans))
        publication = publish(settings, inputs, candidates, run_id)
        record(settings, engine.name, inputs, candidates, publication, run_id)
        yield DayOutcome(inputs, engine.name, quarantined, candidates, publication)


def load_inputs(settings: Settings, hours: Sequence[datetime]) -> SilverInputs:
    """Return the inputs of the run of these hours."""
    published = published_hours(load_table(settings, settings.tables.bars))
    known, bronze = load_inputs_around(
        settings, hours[0], hours[-1] + HOUR, lambda: load_table(settings, settings.tables.trades)
    )
    snapshot = bronze.metadata.current_snapshot_id
    files: defaultdict[datetime, list[BronzeFile]] = defaultdict(list)
    if snapshot is not None:
        for file in files_between(bronze, snapshot, hours[0], hours[-1] + HOUR):
            files[file.hour].append(file)
    return SilverInputs(published, known, bronze, snapshot, current_sequence(bronze), dict(files))


def load_day(settings: Settings, start: datetime) -> SilverDay:
    """Return the stored data of the UTC day."""
    return SilverDay(
        start=start,
        bars=read_window(load_table(settings, settings.tables.bars), silver_day(start)),
        klines=read_klines(settings, start, start + DAY),
        rejected=count_rejected(settings, start, start + DAY),
    )


def _candidates(
    settings: Settings, engine: AggregationEngine, inputs: SilverInputs, day: SilverDay, plans: Sequence[HourPlan]
) -> Iterator[SilverCandidate]:
    """Build and check the hours' candidates as their aggregates arrive."""
    started = time.monotonic()
    for plan, aggregates in aggregate(engine, settings.tables, inputs, plans):
        candidate = build_candidate(settings.tables.bars, inputs.known, day, plan, aggregates)
        expected = None if aggregates is None else bronze_rows(inputs.files.get(plan.hour, ()), plan.minutes)
        candidate = check(settings, inputs.known, day, candidate, expected)
        candidate = _with_samples(settings, candidate)
        yield replace(candidate, duration_ms=round((time.monotonic() - started) * 1000))
        started = time.monotonic()


def aggregate(
    engine: AggregationEngine, tables: FamilyTables, inputs: SilverInputs, plans: Sequence[HourPlan]
) -> Iterator[tuple[HourPlan, MinuteAggregates | None]]:
    """Aggregate the planned minutes, hour by hour; None if no minute is touched. Full hours share one query."""
    snapshot, rules = inputs.bronze_snapshot, inputs.known.rules
    if snapshot is None:
        yield from ((plan, None) for plan in plans)
    elif all(plan.minutes is None for plan in plans):
        found = engine.minute_aggregates(tables, snapshot, [plan.hour for plan in plans], None, rules)
        yield from ((plan, aggregates) for plan, (_, aggregates) in zip(plans, found, strict=True))
    else:
        for plan in plans:
            if plan.is_empty:
                yield plan, None
            else:
                ((_, aggregates),) = engine.minute_aggregates(tables, snapshot, [plan.hour], plan.minutes, rules)
                yield plan, aggregates


def _with_samples(settings: Settings, candidate: SilverCandidate) -> SilverCandidate:
    """Add a sample of the dropped trades to a failed `drop_ratio`."""
    return replace(
        candidate,
        outcomes=[
            replace(
                outcome,
                failing_rows=quarantined_between(settings, candidate.hour, candidate.hour + HOUR, SAMPLE_ROWS),
            )
            if outcome.name == "drop_ratio" and not outcome.passed
            else outcome
            for outcome in candidate.outcomes
        ],
    )


def publish(
    settings: Settings, inputs: SilverInputs, candidates: Sequence[SilverCandidate], run_id: str
) -> Publication | None:
    """Publish the passed candidates of a day in one commit; return None if none passed.

    Raises `PublishedMeanwhileError` if another run has published one of the hours since the inputs were read.
    """
    import pyarrow as pa

    passed = [candidate for candidate in candidates if candidate.passed]
    if not passed:
        return None
    return commit.publish(
        load_table(settings, settings.tables.bars),
        settings.tables.bars,
        silver_day(passed[0].hour),
        pa.concat_tables(candidate.bars for candidate in passed),
        pa.concat_tables(candidate.replaced_keys for candidate in passed).combine_chunks(),
        {"cryptolake.bronze-sequence": str(inputs.bronze_sequence), "cryptolake.run-id": run_id},
        lambda table: property_with(
            table,
            [candidate.hour for candidate in passed],
            PublishedHour(run_id, inputs.known.bronze_offsets),
            inputs.published,
        ),
    )


def record(
    settings: Settings,
    engine_name: str,
    inputs: SilverInputs,
    candidates: Sequence[SilverCandidate],
    publication: Publication | None,
    run_id: str,
) -> None:
    """Append a row of metrics per hour; `rows_written` is 0 for an hour with a rejected candidate."""
    changed = changed_by_hour(publication) if publication else Counter[datetime]()
    metrics.record(
        settings,
        [
            metrics.RunMetrics(
                run_id=run_id,
                asset="/".join(settings.tables.bars.identifier),
                partition=partition_of(candidate.hour),
                engine=engine_name,
                rows_in=candidate.counts.rows_in,
                rows_valid=candidate.counts.rows_valid,
                rows_dropped=candidate.counts.rows_dropped,
                rows_duplicate=candidate.counts.rows_duplicate,
                rows_other_type=candidate.counts.rows_other_type,
                rows_rejected=candidate.rows_rejected,
                dropped_by_rule=candidate.counts.dropped_by_rule,
                rows_written=changed[candidate.hour],
                duration_ms=candidate.duration_ms,
                source_snapshot=inputs.bronze_snapshot or 0,
                snapshot=publication.snapshot_id if publication and candidate.passed else None,
                passed=candidate.passed,
            )
            for candidate in candidates
        ],
    )


def partition_of(hour: datetime) -> str:
    """Return the hour's partition key, as in `ops.run_metrics` and Dagster."""
    return hour.strftime("%Y-%m-%d-%H:%M")


def changed_by_hour(publication: Publication) -> Counter[datetime]:
    """Count the new or changed bars by hour."""
    return Counter(hour_of(start) for start in publication.changed_keys["window_start"].to_pylist())


def outdated_hours(settings: Settings, known: RunInputs, start_ms: int = 0, end_ms: int | None = None) -> set[datetime]:
    """Return the hours of Silver with a bar that is to become complete, or incomplete, by what is known now.

    Reads only minutes that overlap [start_ms, end_ms), so that new coverage does not require reading all history; of
    the complete bars, only those near missing trades.
    """
    table = load_table(settings, settings.tables.bars)
    conditions = [all_of(equal("is_complete", False), *_minutes_between(start_ms, end_ms))]
    spans = known.completeness.missing(start_ms, end_ms)[-MAX_SPANS:]
    conditions += [all_of(equal("is_complete", True), *_minutes_between(*span)) for span in spans]
    fields = ("exchange", "symbol", "stream", "window_start", "is_complete", "evidence", "trades_dropped")
    rows = table.scan(row_filter=any_of(*conditions), selected_fields=fields).to_arrow().to_pylist()
    return {hour_of(row["window_start"]) for row in rows if is_outdated(row, known.completeness)}


def _minutes_between(start_ms: int, end_ms: int | None) -> list[BooleanExpression]:
    """Return the conditions of the minutes that overlap [start_ms, end_ms)."""
    found = [above("window_start", _moment(start_ms) - MINUTE)] if start_ms else []
    return found if end_ms is None else [*found, below("window_start", _moment(end_ms))]


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
