"""Gold: daily stats from Silver. A thin adapter of `transform.gold_run`."""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from cryptolake_assets.defs import asset_keys, audited, previews
from cryptolake_assets.defs.audited import Audited, AuditedTable
from cryptolake_assets.defs.automation import follows_upstream, freshness_of_followers
from cryptolake_assets.defs.described import column_lineage, table_asset, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.measures import DAILY_MEASURES, definition_hash
from cryptolake_assets.quality.bar_checks import GOLD_CHECKS

TABLE = {
    **table_metadata(FUTURES.daily),
    **column_lineage(DAILY_MEASURES, FUTURES.bars, asset_keys.SILVER),
}

AUDITED = AuditedTable(FUTURES.daily, GOLD_CHECKS)

PREVIEWED = ("symbol", "open", "high", "low", "close", "total_volume", "vwap", "realised_volatility", "is_complete")


def futures_daily_stats(
    context: dg.AssetExecutionContext, lake: LakeResource, engine: EngineResource
) -> Iterator[audited.Event]:
    from cryptolake_assets.transform.gold_run import run_gold

    day = date.fromisoformat(context.partition_key)
    engine_in_use = engine.engine()
    candidate, publication = run_gold(lake.settings, engine_in_use, day, context.run.run_id)
    metadata, version = {}, None
    if publication is not None:
        version = publication.version("trade_date", day, day + timedelta(days=1))
        metadata = {
            "dagster/row_count": candidate.rows.num_rows,
            **TABLE,
            "snapshot_id": str(publication.snapshot_id),
            "silver_snapshot_id": str(candidate.silver_snapshot),
            "rows_changed": publication.rows_changed,
            "bars_read": candidate.bars_read,
            "duration_ms": candidate.duration_ms,
            "engine": engine_in_use.name,
            "preview": previews.preview(candidate.rows, PREVIEWED),
        }
    of_day = Audited(context.partition_key, candidate.outcomes, metadata=metadata, version=version)
    yield from audited.events(context, AUDITED, [of_day])


def definitions(graph: Graph) -> dg.Definitions:
    """Return Gold's asset."""
    asset = table_asset(
        FUTURES.daily,
        graph.partitions.daily,
        cadence="day",
        kinds={"duckdb", "spark", "iceberg"},
        deps=[asset_keys.SILVER],
        code_version=definition_hash(DAILY_MEASURES),
        metadata=TABLE,
        automation_condition=follows_upstream(graph.settings.gold_interval_min, "follows_silver", graph.partitions),
        freshness_policy=freshness_of_followers(graph.settings),
        check_specs=AUDITED.check_specs(graph.partitions.daily),
        description=(
            "Daily statistics per symbol from one-minute bars, by write-audit-publish: one commit once all checks pass."
        ),
    )(futures_daily_stats)
    return dg.Definitions(assets=[asset])
