"""Silver: exact one-minute bars, checked before they are published. A thin adapter of `transform.refresh_silver`."""

from collections.abc import Iterator

import dagster as dg

from cryptolake_assets.defs import bronze, checks
from cryptolake_assets.defs.partitions import hour_of, hourly
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.lake.tables import SILVER_OHLCV
from cryptolake_assets.transform.checks import SILVER_CHECKS

KEY = dg.AssetKey(["silver", "futures_ohlcv_1m"])


class SilverConfig(dg.Config):
    """What a Silver run recomputes."""

    from_sequence: int | None = None
    """Bronze sequence number from which files count as new; without it the whole hour is recomputed."""


@dg.asset(
    key=KEY,
    deps=[bronze.KEY],
    partitions_def=hourly(),
    group_name="silver",
    kinds={"spark", "iceberg"},
    pool=SILVER_OHLCV.writer_pool,
    output_required=False,
    check_specs=checks.blocking_specs(KEY, SILVER_CHECKS, hourly()),
    description=(
        "Exact one-minute bars per symbol. Recomputed from Bronze for the touched minutes, checked in memory and "
        "published by one commit; when a check fails nothing is published and the previous bars stay."
    ),
)
def futures_ohlcv_1m(
    context: dg.AssetExecutionContext, config: SilverConfig, lake: LakeResource, engine: EngineResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from cryptolake_assets.transform import refresh_silver

    settings = lake.settings
    hour = hour_of(context.partition_key)
    candidate = refresh_silver.prepare(settings, engine.engine(), hour, config.from_sequence, context.run.run_id)
    check_results = list(checks.results(KEY, SILVER_CHECKS, candidate.outcomes))
    if not candidate.passed:
        refresh_silver.record_run(settings, candidate, None, context.run.run_id)
        yield from check_results
        failed = ", ".join(outcome.name for outcome in candidate.outcomes if not outcome.passed)
        raise dg.Failure(
            f"silver: {context.partition_key} is held back, its bars stay as they were. Failed checks: {failed}. "
            "Look at the checks' samples, mend the data or the rule, and materialize the hour again.",
            allow_retries=False,
        )
    publication = refresh_silver.commit(settings, candidate, context.run.run_id)
    counts = candidate.counts
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": candidate.bars.num_rows,
            "dagster/table_name": SILVER_OHLCV.full_name,
            "snapshot_id": str(publication.snapshot_id),
            "bronze_snapshot_id": str(candidate.bronze_snapshot),
            "bronze_sequence": candidate.bronze_sequence,
            "bars_changed": publication.rows_changed,
            "bars_incomplete": candidate.incomplete_minutes,
            "rows_in": counts.rows_in,
            "rows_valid": counts.rows_valid,
            "rows_dropped": counts.rows_dropped,
            "rows_dropped_by_rule": counts.dropped_by_rule,
            "rows_duplicate": counts.rows_duplicate,
            "rows_other_type": counts.rows_other_type,
            "rows_quarantined": candidate.quarantined,
            "engine": candidate.engine,
        },
        check_results=check_results,
    )
