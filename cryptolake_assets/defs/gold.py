"""Gold: daily stats from Silver. A thin adapter of `transform.gold_run`."""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from cryptolake_assets.defs import asset_keys, checks, previews
from cryptolake_assets.defs.automation import follows_upstream, freshness_of_followers
from cryptolake_assets.defs.described import column_lineage, table_asset, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.model.bar_tables import GOLD_DAILY, SILVER_OHLCV
from cryptolake_assets.model.measures import DAILY_MEASURES, definition_hash
from cryptolake_assets.quality.bar_checks import GOLD_CHECKS

TABLE = {**table_metadata(GOLD_DAILY), **column_lineage(DAILY_MEASURES, SILVER_OHLCV, asset_keys.SILVER)}
"""Name, columns and their lineage."""

PREVIEWED = ("symbol", "open", "high", "low", "close", "total_volume", "vwap", "realised_volatility", "is_complete")


def futures_daily_stats(
    context: dg.AssetExecutionContext, lake: LakeResource, engine: EngineResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from cryptolake_assets.transform.gold_run import run_gold

    day = date.fromisoformat(context.partition_key)
    engine_in_use = engine.engine()
    candidate, publication = run_gold(lake.settings, engine_in_use, day, context.run.run_id)
    check_results = list(checks.results(asset_keys.GOLD, GOLD_CHECKS, candidate.outcomes))
    if publication is None:
        yield from check_results
        raise checks.candidate_rejected(GOLD_DAILY, [context.partition_key], candidate.outcomes)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": candidate.rows.num_rows,
            **TABLE,
            "snapshot_id": str(publication.snapshot_id),
            "silver_snapshot_id": str(candidate.silver_snapshot),
            "rows_changed": publication.rows_changed,
            "bars_read": candidate.bars_read,
            "duration_ms": candidate.duration_ms,
            "engine": engine_in_use.name,
            "preview": previews.preview(candidate.rows, PREVIEWED),
        },
        data_version=dg.DataVersion(publication.version("trade_date", day, day + timedelta(days=1))),
        check_results=check_results,
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return Gold's asset."""
    asset = table_asset(
        GOLD_DAILY,
        graph.partitions.daily,
        cadence="day",
        kinds={"duckdb", "spark", "iceberg"},
        deps=[asset_keys.SILVER],
        code_version=definition_hash(DAILY_MEASURES),
        metadata=TABLE,
        automation_condition=follows_upstream(graph.settings.gold_interval_min, "follows_silver", graph.partitions),
        freshness_policy=freshness_of_followers(graph.settings),
        check_specs=checks.specs(asset_keys.GOLD, GOLD_CHECKS, graph.partitions.daily),
        description=(
            "Daily statistics per symbol, from the one-minute bars; published by one commit once the checks pass."
        ),
    )(futures_daily_stats)
    return dg.Definitions(assets=[asset])
