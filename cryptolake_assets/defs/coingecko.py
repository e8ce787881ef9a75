"""CoinGecko as assets: answers in Bronze, a snapshot an hour of coins and of the whole market in Silver.

A thin adapter of `ingest.batch_extract`.
"""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from cryptolake_assets.captures.recorded_names import COINGECKO_GLOBAL_FILE
from cryptolake_assets.defs import asset_keys, batch
from cryptolake_assets.defs.described import OWNERS, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.jobs import run_tags
from cryptolake_assets.defs.resources import RETRIES, LakeResource
from cryptolake_assets.ingest.coingecko import SOURCE, plan
from cryptolake_assets.model.source_tables import (
    BRONZE_COINGECKO_RAW,
    SILVER_COINGECKO_GLOBAL,
    SILVER_COINGECKO_MARKETS,
)
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality.batch_checks import ROWS_LEFT_OUT
from cryptolake_assets.settings import Settings

RAW_KEY = asset_keys.of_table(BRONZE_COINGECKO_RAW)
JOB_NAME = "coingecko"


def _is_asked(settings: Settings) -> bool:
    return batch.can_be_asked(settings, settings.coingecko_url, COINGECKO_GLOBAL_FILE)


FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=3), fail_window=timedelta(hours=12))
"""An asset that was never materialized, because nobody can be asked, is not late."""


def coingecko_raw(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    from cryptolake_assets.ingest import batch_extract as extract

    settings = lake.settings
    clock = extract.source_clock(settings)
    day = date.fromisoformat(context.partition_key)
    if day != clock.date():
        context.log.info(f"CoinGecko's clock says {clock:%Y-%m-%d}: nothing is asked for {day}")
        return dg.MaterializeResult(metadata={**table_metadata(BRONZE_COINGECKO_RAW), "rows_accepted": 0})
    done = extract.extract(settings, SOURCE, plan(settings.coingecko_pages), clock, day, context.run.run_id)
    return batch.extracted(context, SOURCE, done)


def _silver(graph: Graph, spec: TableSpec, description: str) -> dg.AssetsDefinition:
    key = asset_keys.of_table(spec)

    @dg.asset(
        key=key,
        deps=[RAW_KEY],
        partitions_def=graph.partitions.daily,
        group_name="silver",
        kinds={"duckdb", "iceberg"},
        owners=OWNERS,
        tags={"layer": "silver", "cadence": "hour"},
        code_version=batch.code_version(spec),
        metadata=batch.silver_metadata(spec, BRONZE_COINGECKO_RAW),
        pool=spec.writer_pool,
        output_required=False,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        check_specs=batch.check_specs(key, spec, graph.partitions, ROWS_LEFT_OUT),
        description=description,
    )
    def snapshots(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from cryptolake_assets.ingest.batch_extract import commit

        day = date.fromisoformat(context.partition_key)
        candidate = batch.candidate_of(lake.settings, SOURCE, spec, day)
        results = batch.results_of(key, candidate)
        if not candidate.passed:
            yield from batch.rejected(candidate, results, context.partition_key)
        publication = commit(lake.settings, candidate, context.run.run_id)
        yield dg.MaterializeResult(
            metadata=batch.published(candidate, publication),
            data_version=dg.DataVersion(batch.version(publication, spec, day)),
            check_results=[*results, *batch.warnings_of(key, [batch.rows_left_out(candidate)])],
        )

    return snapshots


def due(context: dg.ScheduleEvaluationContext, graph: Graph) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for a run of the source's present day, once an hour."""
    if not _is_asked(graph.settings):
        yield dg.SkipReason(f"the capture that is replayed has no {COINGECKO_GLOBAL_FILE}")
        return
    yield batch.once_an_hour(context, graph, JOB_NAME)


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of CoinGecko, their job and its schedule."""
    raw = dg.asset(
        key=RAW_KEY,
        partitions_def=graph.partitions.daily,
        group_name="bronze",
        kinds={"rest", "iceberg"},
        owners=OWNERS,
        tags={"layer": "bronze", "cadence": "hour"},
        metadata=table_metadata(BRONZE_COINGECKO_RAW),
        pool=BRONZE_COINGECKO_RAW.writer_pool,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        description=(
            "Answers of CoinGecko, byte for byte; refused ones with the reason. It tells the present only: a run of an "
            "earlier day asks nothing."
        ),
    )(coingecko_raw)
    coins = _silver(
        graph,
        SILVER_COINGECKO_MARKETS,
        "Coins by market cap, a snapshot an hour, from the accepted answers of the day.",
    )
    market = _silver(
        graph, SILVER_COINGECKO_GLOBAL, "All coins together, a snapshot an hour, from the accepted answers of the day."
    )
    assets = [raw, coins, market]
    job = dg.define_asset_job(
        JOB_NAME,
        selection=dg.AssetSelection.assets(*(asset.key for asset in assets)),
        tags=run_tags("bronze", timedelta(minutes=30)),
        description="CoinGecko's coins and whole market: answers into Bronze, the hour's snapshot into Silver.",
    )

    @dg.schedule(
        job=job,
        cron_schedule="*/10 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags={"cadence": "hour"},
        description="Once an hour. Asks nobody when a capture without recorded answers is replayed.",
    )
    def coingecko_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from due(context, graph)

    return dg.Definitions(assets=assets, jobs=[job], schedules=[coingecko_schedule])
