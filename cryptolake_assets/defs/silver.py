"""Silver: exact one-minute bars, checked before they are published. A thin adapter of `transform.refresh_silver`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from cryptolake_assets.defs import bronze, checks
from cryptolake_assets.defs.partitions import hour_of, hourly
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.lake.tables import SILVER_OHLCV
from cryptolake_assets.transform.checks import SILVER_CHECKS, SILVER_OBSERVATIONS

if TYPE_CHECKING:
    from cryptolake_assets.transform.silver_candidate import SilverCandidate

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
    kinds={"duckdb", "spark", "iceberg"},
    pool=SILVER_OHLCV.writer_pool,
    output_required=False,
    check_specs=[
        *checks.specs(KEY, SILVER_CHECKS, hourly()),
        *checks.specs(KEY, SILVER_OBSERVATIONS, hourly(), blocking=False),
    ],
    description=(
        "Exact one-minute bars per symbol. Recomputed from Bronze for the touched minutes, checked in memory and "
        "published by one commit; when a check fails nothing is published and the previous bars stay."
    ),
)
def futures_ohlcv_1m(
    context: dg.AssetExecutionContext, config: SilverConfig, lake: LakeResource, engine: EngineResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from cryptolake_assets.transform import refresh_silver
    from cryptolake_assets.transform.silver_candidate import SilverRun, prepare

    run = SilverRun(lake.settings, engine.engine(), context.run.run_id)
    candidate = prepare(run, hour_of(context.partition_key), config.from_sequence)
    publication = refresh_silver.publish_passed(run, [candidate])
    check_results = [
        *checks.results(KEY, SILVER_CHECKS, candidate.outcomes),
        *checks.results(KEY, SILVER_OBSERVATIONS, candidate.observations, dg.AssetCheckSeverity.WARN),
    ]
    if publication is None:
        yield from check_results
        failed = ", ".join(outcome.name for outcome in candidate.outcomes if not outcome.passed)
        raise dg.Failure(
            f"silver: {context.partition_key} is held back, its bars stay as they were. Failed checks: {failed}. "
            "Look at the checks' samples, mend the data or the rule, and materialize the hour again.",
            metadata=_metadata(candidate),
            allow_retries=False,
        )
    yield dg.MaterializeResult(
        metadata={
            "dagster/table_name": SILVER_OHLCV.full_name,
            "snapshot_id": str(publication.snapshot_id),
            "bronze_snapshot_id": str(run.bronze_snapshot),
            "bronze_sequence": run.bronze_sequence,
            "rows_quarantined": run.quarantined,
            "bars_changed": publication.rows_changed,
            "engine": run.engine.name,
            **_metadata(candidate),
        },
        check_results=check_results,
    )


def _metadata(candidate: "SilverCandidate") -> dict[str, dg.MetadataValue | int | dict[str, int]]:
    """What became of the rows read."""
    counts = candidate.counts
    return {
        "dagster/row_count": candidate.bars.num_rows,
        "bars_incomplete": candidate.incomplete_minutes,
        "rows_in": counts.rows_in,
        "rows_valid": counts.rows_valid,
        "rows_dropped": counts.rows_dropped,
        "rows_dropped_by_rule": counts.dropped_by_rule,
        "rows_duplicate": counts.rows_duplicate,
        "rows_other_type": counts.rows_other_type,
        "rows_rejected": candidate.rows_rejected,
        "duration_ms": candidate.duration_ms,
    }
