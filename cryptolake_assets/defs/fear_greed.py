"""The Fear & Greed index as assets: answers in Bronze, days in Silver. A thin adapter of `ingest.batch_extract`.

The first run takes the whole history; later ones the days since the newest that is held.
"""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from cryptolake_assets.captures.recorded_names import FEAR_GREED_FILE
from cryptolake_assets.defs import asset_keys, batch
from cryptolake_assets.defs.automation import VERSION_TAG
from cryptolake_assets.defs.described import OWNERS, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.jobs import run_tags
from cryptolake_assets.defs.partitions import DAY_FORMAT
from cryptolake_assets.defs.resources import RETRIES, LakeResource
from cryptolake_assets.ingest.fear_greed import SOURCE, plan
from cryptolake_assets.model.source_tables import BRONZE_FEAR_GREED_RAW, SILVER_FEAR_GREED
from cryptolake_assets.model.windows import hour_of
from cryptolake_assets.quality.batch_checks import DAYS_MISSING, NEWEST_ROW, ROWS_LEFT_OUT
from cryptolake_assets.settings import Settings

RAW_KEY = asset_keys.of_table(BRONZE_FEAR_GREED_RAW)
KEY = asset_keys.of_table(SILVER_FEAR_GREED)
JOB_NAME = "fear_greed"
AGAIN_AFTER = timedelta(hours=24)
"""Also while the source's present day is held: a value may be corrected."""


def _is_asked(settings: Settings) -> bool:
    return batch.can_be_asked(settings, settings.fear_greed_url, FEAR_GREED_FILE)


FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))
"""An asset that was never materialized, because nobody can be asked, is not late."""


class FearGreedConfig(dg.Config):
    """`full_history` asks for every day again, not only for those since the newest that is held."""

    full_history: bool = False


def fear_greed_raw(
    context: dg.AssetExecutionContext, config: FearGreedConfig, lake: LakeResource
) -> dg.MaterializeResult:
    from cryptolake_assets.ingest import batch_extract as extract

    settings = lake.settings
    day = date.fromisoformat(context.partition_key)
    clock = extract.source_clock(settings)
    newest = None if config.full_history else extract.newest_day(settings, SILVER_FEAR_GREED)
    requests = plan(newest, day, clock.date())
    done = extract.extract(settings, SOURCE, requests, clock, day, context.run.run_id)
    return batch.extracted(context, SOURCE, done)


def fear_greed_daily(
    context: dg.AssetExecutionContext, lake: LakeResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from cryptolake_assets.ingest import batch_extract as extract
    from cryptolake_assets.quality import batch_checks

    settings = lake.settings
    day = date.fromisoformat(context.partition_key)
    candidate = batch.candidate_of(settings, SOURCE, SILVER_FEAR_GREED, day)
    results = batch.results_of(KEY, candidate)
    if not candidate.passed:
        yield from batch.rejected(candidate, results, context.partition_key)
    publication = extract.commit(settings, candidate, context.run.run_id)
    held = extract.stored_keys(settings, SILVER_FEAR_GREED)
    for changed in sorted(publication.changed_keys.column("index_date").to_pylist()):
        key = changed.strftime(DAY_FORMAT)
        # What is downstream of another day than the run's learns of it too.
        if key != context.partition_key and context.assets_def.partitions_def.has_partition_key(key):
            tags = {VERSION_TAG: batch.version(publication, SILVER_FEAR_GREED, changed)}
            made_by = {"made_by": context.partition_key}
            context.log_event(dg.AssetMaterialization(KEY, partition=key, metadata=made_by, tags=tags))
    outcomes = [
        batch_checks.days_missing(held),
        batch_checks.newest_row(held, extract.source_clock(settings).date()),
        batch.rows_left_out(candidate),
    ]
    yield dg.MaterializeResult(
        metadata={**batch.published(candidate, publication), "days_held": len(held)},
        data_version=dg.DataVersion(batch.version(publication, SILVER_FEAR_GREED, day)),
        check_results=[*results, *batch.warnings_of(KEY, outcomes)],
    )


def due(context: dg.ScheduleEvaluationContext, graph: Graph) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for a run of the source's present day, if it is time for one."""
    from cryptolake_assets.ingest.batch_extract import newest_day

    settings = graph.settings
    if not _is_asked(settings):
        yield dg.SkipReason(f"the capture that is replayed has no {FEAR_GREED_FILE}")
        return
    clock = batch.clock_of(graph)
    if isinstance(clock, dg.SkipReason):
        yield clock
        return
    now, day = context.scheduled_execution_time, clock.date()
    newest = newest_day(settings, SILVER_FEAR_GREED)
    held = newest is not None and newest >= day
    last = batch.last_run_at(context, JOB_NAME)
    if now - last >= AGAIN_AFTER or (not held and hour_of(last) < hour_of(now)):
        yield dg.RunRequest(partition_key=day.strftime(DAY_FORMAT))
    else:
        yield dg.SkipReason(f"{day} is {'held' if held else 'not held'}; last run at {last:%Y-%m-%d %H:%M}")


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of the index, their job and its schedule."""
    raw = dg.asset(
        key=RAW_KEY,
        partitions_def=graph.partitions.daily,
        group_name="bronze",
        kinds={"rest", "iceberg"},
        owners=OWNERS,
        tags={"layer": "bronze", "cadence": "day"},
        metadata=table_metadata(BRONZE_FEAR_GREED_RAW),
        pool=BRONZE_FEAR_GREED_RAW.writer_pool,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        description="Answers of the Fear & Greed index, byte for byte; refused ones with the reason.",
    )(fear_greed_raw)
    days = dg.asset(
        key=KEY,
        deps=[RAW_KEY],
        partitions_def=graph.partitions.daily,
        group_name="silver",
        kinds={"duckdb", "iceberg"},
        owners=OWNERS,
        tags={"layer": "silver", "cadence": "day"},
        code_version=batch.code_version(SILVER_FEAR_GREED),
        metadata=batch.silver_metadata(SILVER_FEAR_GREED, BRONZE_FEAR_GREED_RAW),
        pool=SILVER_FEAR_GREED.writer_pool,
        output_required=False,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        check_specs=batch.check_specs(
            KEY, SILVER_FEAR_GREED, graph.partitions, DAYS_MISSING, NEWEST_ROW, ROWS_LEFT_OUT
        ),
        description="The Fear & Greed index by UTC day, from the accepted answers; upserted by one commit.",
    )(fear_greed_daily)
    job = dg.define_asset_job(
        JOB_NAME,
        selection=dg.AssetSelection.assets(RAW_KEY, KEY),
        tags=run_tags("bronze", timedelta(minutes=30)),
        description="The Fear & Greed index: its answer into Bronze, its days into Silver.",
    )

    @dg.schedule(
        job=job,
        cron_schedule="*/2 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags={"cadence": "day"},
        description=(
            "At most once an hour while the source's present day is not held, and once in 24 hours. Asks nobody when a "
            "capture without a recorded index is replayed."
        ),
    )
    def fear_greed_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from due(context, graph)

    return dg.Definitions(assets=[raw, days], jobs=[job], schedules=[fear_greed_schedule])
