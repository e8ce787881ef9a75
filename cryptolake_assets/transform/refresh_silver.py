"""Silver refreshed: hours recomputed from Bronze, checked, and those that passed published, one commit a day.

`refresh` is one hour; `rebuild` is the same for all minutes of many hours. An hour that fails its gate is left as it
was and holds no other hour back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

import structlog

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, publish
from cryptolake_assets.lake.windows import HOUR, day_of, hour_of, silver_day
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import run_metrics as metrics
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.silver_candidate import (
    EVERYTHING,
    RunScope,
    SilverCandidate,
    SilverRun,
    prepare,
    prepare_hours,
)

log = structlog.get_logger(__name__)

ASSET = "silver/futures_ohlcv_1m"


def refresh(
    settings: Settings, engine: AggregationEngine, hour: datetime, from_sequence: int | None, run_id: str
) -> tuple[SilverCandidate, Publication | None]:
    """Recomputes what Bronze files of `from_sequence` and later touch of the hour (all of it without), and publishes
    it if it passed; the publication is None when it did not."""
    run = SilverRun(settings, engine, run_id)
    candidate = prepare(run, hour, from_sequence)
    return candidate, publish_passed(run, [candidate])


def rebuild(
    settings: Settings, engine: AggregationEngine, first: datetime, last: datetime, run_id: str
) -> list[SilverCandidate]:
    """Recomputes every minute of the hours in [first, last), and publishes the hours that passed."""
    run = SilverRun(settings, engine, run_id)
    hours = [first + number * HOUR for number in range((last - first) // HOUR)]
    return [candidate for candidates, _ in rebuild_days(run, hours) for candidate in candidates]


def rebuild_days(
    run: SilverRun, hours: Sequence[datetime], scope: RunScope = EVERYTHING
) -> Iterator[tuple[list[SilverCandidate], Publication | None]]:
    """Recomputes every minute of the consecutive hours, as far as it is in the scope; gives a UTC day's candidates once
    those that passed are published, with that publication."""
    for _, of_day in groupby(hours, day_of):
        if scope.is_all:
            candidates = list(prepare_hours(run, list(of_day)))
        else:
            candidates = [prepare(run, hour, None, scope) for hour in of_day]
        yield candidates, publish_passed(run, candidates)


def publish_passed(run: SilverRun, candidates: Sequence[SilverCandidate]) -> Publication | None:
    """Publishes those of a day's candidates that passed, in one commit, and records all; None when none passed."""
    import pyarrow as pa

    passed = [candidate for candidate in candidates if candidate.passed]
    publication = None
    if passed:
        publication = publish(
            load_table(run.settings, SILVER_OHLCV),
            SILVER_OHLCV,
            silver_day(passed[0].hour),
            pa.concat_tables(candidate.bars for candidate in passed),
            pa.concat_tables(candidate.replaced_keys for candidate in passed).combine_chunks(),
            {"cryptolake.bronze-sequence": str(run.bronze_sequence), "cryptolake.run-id": run.run_id},
        )
    changed = changed_by_hour(publication) if publication else Counter[datetime]()
    metrics.record(
        run.settings,
        [_metrics(run, candidate, publication, changed[candidate.hour]) for candidate in candidates],
    )
    return publication


def _metrics(
    run: SilverRun, candidate: SilverCandidate, publication: Publication | None, bars_changed: int
) -> metrics.RunMetrics:
    """The row of one hour; an hour that failed has written nothing."""
    counts = candidate.counts
    written = publication if candidate.passed else None
    return metrics.RunMetrics(
        run_id=run.run_id,
        asset=ASSET,
        partition=partition_of(candidate.hour),
        engine=run.engine.name,
        rows_in=counts.rows_in,
        rows_valid=counts.rows_valid,
        rows_dropped=counts.rows_dropped,
        rows_duplicate=counts.rows_duplicate,
        rows_other_type=counts.rows_other_type,
        rows_rejected=candidate.rows_rejected,
        dropped_by_rule=counts.dropped_by_rule,
        rows_written=bars_changed,
        duration_ms=candidate.duration_ms,
        source_snapshot=run.bronze_snapshot or 0,
        snapshot=written.snapshot_id if written else None,
        passed=candidate.passed,
    )


def partition_of(hour: datetime) -> str:
    """How the hour is called in `ops.run_metrics`: as its Dagster partition."""
    return hour.strftime("%Y-%m-%d-%H:%M")


def changed_by_hour(publication: Publication) -> Counter[datetime]:
    """Bars that are new or differ, by their hour."""
    return Counter(hour_of(start) for start in publication.changed_keys["window_start"].to_pylist())
