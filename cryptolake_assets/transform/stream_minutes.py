"""Silver of the streams beside the trades: an hour's minutes from all events that Bronze holds of it, each event once.

What makes a minute and what it must hold is said by the stream's contract. An hour is recomputed as a whole: it is a
few thousand events a symbol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, publish, read_window
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.windows import HOUR, between, silver_day
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.quality.stream_minute_checks import events_accounted, minutes_without_row
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MinutesCandidate:
    """An hour's rows of Silver, and what the blocking checks and the observations say of them."""

    stream_type: StreamType
    hour: datetime
    rows: pa.Table
    events: int
    duplicates: int
    bronze_snapshot: int | None
    outcomes: list[CheckOutcome]
    observations: list[CheckOutcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)


def prepare(settings: Settings, stream_type: StreamType, hour: datetime) -> MinutesCandidate:
    """Recomputes the hour from Bronze at one snapshot."""
    bronze = load_table(settings, stream_type.bronze)
    snapshot = bronze.current_snapshot()
    events = _events(bronze, stream_type, hour)
    rows, distinct = minutes_of(stream_type, events)
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, stream_type.silver, rows, stream_type.checks)
    outcomes.append(events_accounted(stream_type, rows, distinct))
    return MinutesCandidate(
        stream_type,
        hour,
        rows,
        events=distinct,
        duplicates=events.num_rows - distinct,
        bronze_snapshot=snapshot.snapshot_id if snapshot else None,
        outcomes=outcomes,
        observations=[minutes_without_row(rows.to_pylist())] if stream_type.every_minute else [],
    )


def commit(settings: Settings, candidate: MinutesCandidate, run_id: str) -> Publication:
    """Puts the candidate in the place of the hour's rows by one commit; without a difference there is none."""
    stream_type, hour = candidate.stream_type, candidate.hour
    table = load_table(settings, stream_type.silver)
    present = read_window(table, between("window_start", hour, hour + HOUR))
    publication = publish(
        table,
        stream_type.silver,
        silver_day(hour),
        candidate.rows,
        keys_of(stream_type.silver, present, candidate.rows),
        {"cryptolake.run-id": run_id},
    )
    log.info(
        "market_minutes_published",
        stream=stream_type.name,
        hour=hour.isoformat(),
        events=candidate.events,
        repeats=candidate.duplicates,
        rows=candidate.rows.num_rows,
        rows_changed=publication.rows_changed,
    )
    return publication


def minutes_of(stream_type: StreamType, events: pa.Table) -> tuple[pa.Table, int]:
    """Silver's rows of these events of Bronze, and how many events they are without repeats."""
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


def _events(bronze: Table, stream_type: StreamType, hour: datetime) -> pa.Table:
    names = tuple(column.name for column in stream_type.contract)
    return bronze.scan(row_filter=between("event_time", hour, hour + HOUR), selected_fields=names).to_arrow()
