"""Gold: daily stats from Silver. A thin adapter of `transform.refresh_gold`."""

from collections.abc import Iterator
from datetime import date

import dagster as dg

from cryptolake_assets.defs import checks, silver
from cryptolake_assets.defs.described import OWNERS, column_lineage, table_metadata
from cryptolake_assets.defs.partitions import daily
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.lake.tables import GOLD_DAILY, SILVER_OHLCV
from cryptolake_assets.measures import DAILY_MEASURES, definition_hash
from cryptolake_assets.transform.checks import GOLD_CHECKS

KEY = dg.AssetKey(["gold", "futures_daily_stats"])

TABLE = {**table_metadata(GOLD_DAILY), **column_lineage(DAILY_MEASURES, SILVER_OHLCV, silver.KEY)}
"""Name, columns and their lineage."""

SILVER_UPDATED = dg.AutomationCondition.any_deps_updated()

FOLLOWS_SILVER = (
    SILVER_UPDATED.since(dg.AutomationCondition.newly_requested() & ~SILVER_UPDATED)
    & ~dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    )
    & ~dg.AutomationCondition.in_progress()
).with_label("follows_silver")
"""A day runs once an hour of it was published, and waits while a blocking check of any of its hours has failed.

Not `since_last_handled()`: an hour that is published between two ticks, while a run of its day reads the bars before,
would be forgotten with that run. Only a request after the publication clears it.
"""


@dg.asset(
    key=KEY,
    deps=[silver.KEY],
    partitions_def=daily(),
    group_name="gold",
    kinds={"duckdb", "spark", "iceberg"},
    owners=OWNERS,
    tags={"layer": "gold", "cadence": "day"},
    code_version=definition_hash(DAILY_MEASURES),
    metadata=TABLE,
    pool=GOLD_DAILY.writer_pool,
    output_required=False,
    automation_condition=FOLLOWS_SILVER,
    check_specs=checks.specs(KEY, GOLD_CHECKS, daily()),
    description="Daily statistics per symbol, from the one-minute bars; published by one commit once the checks pass.",
)
def futures_daily_stats(
    context: dg.AssetExecutionContext, lake: LakeResource, engine: EngineResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from cryptolake_assets.transform import refresh_gold

    settings = lake.settings
    candidate = refresh_gold.prepare(settings, engine.engine(), date.fromisoformat(context.partition_key))
    check_results = list(checks.results(KEY, GOLD_CHECKS, candidate.outcomes))
    if not candidate.passed:
        refresh_gold.record_run(settings, candidate, None, context.run.run_id)
        yield from check_results
        failed = ", ".join(outcome.name for outcome in candidate.outcomes if not outcome.passed)
        raise dg.Failure(
            f"gold: {context.partition_key} is held back, its rows stay as they were. Failed checks: {failed}.",
            allow_retries=False,
        )
    publication = refresh_gold.commit(settings, candidate, context.run.run_id)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": candidate.rows.num_rows,
            **TABLE,
            "snapshot_id": str(publication.snapshot_id),
            "silver_snapshot_id": str(candidate.silver_snapshot),
            "rows_changed": publication.rows_changed,
            "bars_read": candidate.bars_read,
            "duration_ms": candidate.duration_ms,
            "engine": candidate.engine,
        },
        check_results=check_results,
    )
