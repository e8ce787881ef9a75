"""Silver of the extra streams (all but trades) by write-audit-publish: an hour's minutes from Bronze events.

    load_inputs → build_candidate → check → publish

The stream's contract defines the minutes and their checks. An hour is recomputed in full: it has a few thousand
events per symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.lake import commit
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, read_window
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import between, silver_day
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.quality.stream_minute_checks import events_accounted, minutes_without_row
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MinutesInputs:
    """An hour's events at a snapshot of Bronze, duplicates included, and the hour's published rows."""

    events: pa.Table
    bronze_snapshot: int | None
    present: pa.Table


@dataclass(frozen=True)
class MinutesCandidate:
    """An hour's rows before publication; `outcomes` is empty until the candidate is checked."""

    rows: pa.Table
    replaced_keys: pa.Table
    events: int
    duplicates: int
    bronze_snapshot: int | None
    outcomes: Sequence[CheckOutcome] = ()
    observations: Sequence[CheckOutcome] = ()

    @property
    def passed(self) -> bool:
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)


def run_stream_minutes(
    settings: Settings, stream_type: MinuteStream, hour: datetime, run_id: str
) -> tuple[MinutesCandidate, Publication | None]:
    """Refresh the hour; the publication is None if a check failed."""
    candidate = check(stream_type, build_candidate(stream_type, load_inputs(settings, stream_type, hour)))
    return candidate, publish(settings, stream_type, hour, candidate, run_id) if candidate.passed else None


def load_inputs(settings: Settings, stream_type: MinuteStream, hour: datetime) -> MinutesInputs:
    """Return the inputs of the hour's run."""
    bronze, silver = load_table(settings, stream_type.bronze), load_table(settings, stream_type.silver)
    names = tuple(column.name for column in stream_type.contract)
    events = bronze.scan(row_filter=between("event_time", hour, hour + HOUR), selected_fields=names).to_arrow()
    present = read_window(silver, between("window_start", hour, hour + HOUR))
    return MinutesInputs(events, bronze.metadata.current_snapshot_id, present)


def build_candidate(stream_type: MinuteStream, inputs: MinutesInputs) -> MinutesCandidate:
    """Build the hour's rows from its deduplicated events."""
    rows, distinct = minutes_of(stream_type, inputs.events)
    return MinutesCandidate(
        rows=rows,
        replaced_keys=keys_of(stream_type.silver, inputs.present, rows),
        events=distinct,
        duplicates=inputs.events.num_rows - distinct,
        bronze_snapshot=inputs.bronze_snapshot,
    )


def check(stream_type: MinuteStream, candidate: MinutesCandidate) -> MinutesCandidate:
    """Return the candidate with the outcomes of its checks."""
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, stream_type.silver, candidate.rows, stream_type.checks)
    return replace(
        candidate,
        outcomes=[*outcomes, events_accounted(stream_type, candidate.rows, candidate.events)],
        observations=[minutes_without_row(candidate.rows.to_pylist())] if stream_type.every_minute else [],
    )


def publish(
    settings: Settings, stream_type: MinuteStream, hour: datetime, candidate: MinutesCandidate, run_id: str
) -> Publication:
    """Replace the hour's rows by those of a passed candidate, in one commit."""
    publication = commit.publish(
        load_table(settings, stream_type.silver),
        stream_type.silver,
        silver_day(hour),
        candidate.rows,
        candidate.replaced_keys,
        {"cryptolake.run-id": run_id},
    )
    log.info(
        "stream_minutes_published",
        stream=stream_type.name,
        hour=hour.isoformat(),
        events=candidate.events,
        duplicates=candidate.duplicates,
        rows=candidate.rows.num_rows,
        rows_changed=publication.rows_changed,
    )
    return publication


def minutes_of(stream_type: MinuteStream, events: pa.Table) -> tuple[pa.Table, int]:
    """Return Silver's rows of these Bronze events, and the number of distinct events."""
    key = ", ".join(stream_type.identity)
    names = [name for name in stream_type.silver.column_names if name != "updated_at"]
    columns = ", ".join(f"CAST({name} AS {stream_type.silver.duckdb_type(name)}) AS {name}" for name in names)
    with open_duckdb() as duck:
        duck.register("received", events)
        duck.execute(
            f"CREATE TEMP TABLE events AS SELECT DISTINCT ON ({key}) * FROM received ORDER BY {key}, ingest_ts"
        )
        (distinct,) = duck.sql("SELECT count(*) FROM events").fetchall()[0]
        rows = duck.sql(
            f"""SELECT {columns}, CAST(NULL AS TIMESTAMPTZ) AS updated_at FROM ({stream_type.minutes})
            ORDER BY {", ".join(stream_type.silver.key)}"""
        ).to_arrow_table()
        duck.execute("DROP TABLE events")
    return rows.cast(stream_type.silver.arrow_schema()), int(distinct)
