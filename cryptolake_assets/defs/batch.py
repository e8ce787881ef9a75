"""What the assets of every batch source share: when a source can be asked, and how a run says what came of it."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.described import table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import DAY_FORMAT, GraphPartitions
from cryptolake_assets.ingest.batch_source import BatchSource
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import hour_of
from cryptolake_assets.quality.batch_checks import BATCH_RULES, ROWS_LEFT_OUT, blocking
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.settings import Settings, Source

if TYPE_CHECKING:
    from cryptolake_assets.ingest.batch_extract import BatchCandidate, Extraction
    from cryptolake_assets.lake.commit import Publication


def can_be_asked(settings: Settings, url: str, recorded: str) -> bool:
    """Whether there is something to ask: live, at an address of the user's (`url`), or where the replayed
    capture has recorded answers, by their file's name."""
    return bool(url) or settings.source is Source.BINANCE or (settings.replay_dir / recorded).is_file()


def silver_metadata(spec: TableSpec, raw: TableSpec) -> dict[str, Any]:
    """Name, columns and their lineage: all of it is read from the answers' bodies, and the hour from when they came."""
    source = asset_keys.of_table(raw)
    made_of = {name: "asked_at" if name == "snapshot_hour" else "body" for name in spec.column_names}
    made_of.pop("updated_at")
    lineage = {name: [dg.TableColumnDep(asset_key=source, column_name=of)] for name, of in made_of.items()}
    return {**table_metadata(spec), "dagster/column_lineage": dg.TableColumnLineage(lineage)}


def code_version(spec: TableSpec) -> str:
    """Moves when a column, its type or a blocking check does."""
    said = [*(f"{column.name} {column.type}" for column in spec.columns), *BATCH_RULES[spec.name].values()]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


def check_specs(
    key: dg.AssetKey, spec: TableSpec, partitions: GraphPartitions, *warning: str
) -> list[dg.AssetCheckSpec]:
    """The blocking checks on a candidate of the table, and those that only warn."""
    return [
        *checks.specs(key, blocking(spec), partitions.daily),
        *checks.specs(key, warning, partitions.daily, blocking=False),
    ]


def clock_of(graph: Graph) -> datetime | dg.SkipReason:
    """The source's clock, or why a tick has nothing to ask."""
    from cryptolake_assets.errors import CryptolakeError
    from cryptolake_assets.ingest.batch_extract import source_clock

    try:
        clock = source_clock(graph.settings)
    except CryptolakeError as error:
        return dg.SkipReason(str(error))
    daily = graph.partitions.daily
    if not daily.has_partition_key(clock.strftime(DAY_FORMAT)):
        where = "before the first" if clock < daily.start else "after the last"
        return dg.SkipReason(f"{clock:%Y-%m-%d} is {where} partition")
    return clock


def last_run_at(context: dg.ScheduleEvaluationContext, job: str) -> datetime:
    """When a run of the job was made last, of whatever outcome; long ago where there is none. A schedule's run keys are
    compared within one tick only, so what earlier ticks asked for is found here."""
    records = context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    return records[0].create_timestamp.astimezone(UTC) if records else datetime(1970, 1, 1, tzinfo=UTC)


def once_an_hour(context: dg.ScheduleEvaluationContext, graph: Graph, job: str) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run of the job for the source's present day, unless this hour has had one."""
    clock = clock_of(graph)
    if isinstance(clock, dg.SkipReason):
        return clock
    last = last_run_at(context, job)
    if hour_of(last) < hour_of(context.scheduled_execution_time):
        return dg.RunRequest(partition_key=clock.strftime(DAY_FORMAT))
    return dg.SkipReason(f"this hour has had its run at {last:%H:%M}")


def extracted(context: dg.AssetExecutionContext, source: BatchSource, done: "Extraction") -> dg.MaterializeResult:
    """What came. A refused answer fails the run, once Bronze holds it with its reason: Silver stays as it is."""
    said: dict[str, Any] = {
        "dagster/row_count": done.answers,
        **table_metadata(source.raw),
        "snapshot_id": str(done.snapshot_id),
        "bytes": done.size_bytes,
        "rows_accepted": done.rows,
        "answers_refused": len(done.rejected),
        "rows_left_out": len(done.left_out),
    }
    if done.set_aside:
        said["set_aside"] = "; ".join(f"{url}: {reason}" for url, reason in done.set_aside)
    if done.rejected:
        reasons = "; ".join(f"{url}: {reason}" for url, reason in done.rejected)
        key = asset_keys.of_table(source.raw)
        context.log_event(dg.AssetObservation(key, partition=context.partition_key, description=reasons, metadata=said))
        raise dg.Failure(
            f"{source.name}: an answer was refused and is kept in {source.raw.full_name}; Silver stays as it was. "
            f"{reasons}. The schedule asks again within the hour.",
            allow_retries=False,
        )
    return dg.MaterializeResult(metadata=said)


def candidate_of(settings: Settings, source: BatchSource, spec: TableSpec, day: date) -> "BatchCandidate":
    from cryptolake_assets.ingest.batch_extract import prepare

    return prepare(settings, source, spec, day, BATCH_RULES[spec.name])


def results_of(key: dg.AssetKey, candidate: "BatchCandidate") -> list[dg.AssetCheckResult]:
    return list(checks.results(key, blocking(candidate.spec), candidate.outcomes))


def rejected(
    candidate: "BatchCandidate", results: Sequence[dg.AssetCheckResult], partition: str
) -> Iterator[dg.AssetCheckResult]:
    """End a run whose candidate failed a check."""
    yield from results
    raise checks.candidate_rejected(candidate.spec, [partition], candidate.outcomes)


def warnings_of(key: dg.AssetKey, outcomes: Sequence[CheckOutcome]) -> list[dg.AssetCheckResult]:
    names = [outcome.name for outcome in outcomes]
    return list(checks.results(key, names, outcomes, dg.AssetCheckSeverity.WARN))


def rows_left_out(candidate: "BatchCandidate") -> CheckOutcome:
    """Return which rows of the accepted answers are odd, each said once; the others are stored."""
    rows = list(dict.fromkeys(candidate.left_out))
    sample = [{"row": row} for row in rows[:SAMPLE_ROWS]]
    return CheckOutcome(ROWS_LEFT_OUT, not rows, f"{len(rows)} rows were left out", len(rows), sample)


def published(candidate: "BatchCandidate", publication: "Publication") -> dict[str, Any]:
    """A Silver materialization's metadata."""
    return {
        "dagster/row_count": candidate.rows.num_rows,
        **table_metadata(candidate.spec),
        "snapshot_id": str(publication.snapshot_id),
        "rows_changed": publication.rows_changed,
    }


def version(publication: "Publication", spec: TableSpec, day: date) -> str:
    """Return the data version of a day's rows, by the first column of the table's key."""
    import pyarrow as pa

    column = spec.key[0]
    if pa.types.is_date(publication.stamps.schema.field(column).type):
        return publication.version(column, day, day + timedelta(days=1))
    start = datetime.combine(day, time(), UTC)
    return publication.version(column, start, start + timedelta(days=1))
