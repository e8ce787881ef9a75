"""Gold: daily stats from Silver. A thin adapter of `transform.gold_run`."""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from cryptolake_assets.defs import audited, previews
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.audited import Audited, AuditedTable
from cryptolake_assets.defs.automation import follows_upstream, freshness_of_followers
from cryptolake_assets.defs.described import TITLES, column_lineage, table_asset, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.measures import DAILY_MEASURES, definition_hash
from cryptolake_assets.quality.bar_checks import GOLD_CHECKS

PREVIEWED = (
    *("exchange", "symbol", "open", "high", "low", "close"),
    *("total_volume", "vwap", "realised_volatility", "is_complete"),
)


def _asset(graph: Graph, family: Family) -> dg.AssetsDefinition:
    tables, keys = FAMILY_TABLES[family], FAMILY_KEYS[family]
    audited_table = AuditedTable(tables.daily, GOLD_CHECKS)
    described = {**table_metadata(tables.daily), **column_lineage(DAILY_MEASURES, tables.bars, keys.bars)}

    def daily_stats(
        context: dg.AssetExecutionContext, lake: LakeResource, engine: EngineResource
    ) -> Iterator[audited.Event]:
        from cryptolake_assets.transform.gold_run import run_gold

        day = date.fromisoformat(context.partition_key)
        engine_in_use = engine.engine()
        candidate, publication = run_gold(lake.settings.of_family(family), engine_in_use, day, context.run.run_id)
        metadata, version = {}, None
        if publication is not None:
            version = publication.version("trade_date", day, day + timedelta(days=1))
            metadata = {
                "dagster/row_count": candidate.rows.num_rows,
                **described,
                "snapshot_id": str(publication.snapshot_id),
                "silver_snapshot_id": str(candidate.silver_snapshot),
                "rows_changed": publication.rows_changed,
                "bars_read": candidate.bars_read,
                "duration_ms": candidate.duration_ms,
                "engine": engine_in_use.name,
                "preview": previews.preview(candidate.rows, PREVIEWED),
            }
        of_day = Audited(context.partition_key, candidate.outcomes, metadata=metadata, version=version)
        yield from audited.events(context, audited_table, [of_day])

    return table_asset(
        tables.daily,
        graph.partitions.daily,
        family=family,
        cadence="day",
        kinds={"duckdb", "spark", "iceberg"},
        deps=[keys.bars],
        code_version=definition_hash(DAILY_MEASURES),
        metadata=described,
        automation_condition=follows_upstream(graph.settings.gold_interval_min, "follows_silver", graph.partitions),
        freshness_policy=freshness_of_followers(graph.settings),
        check_specs=audited_table.check_specs(graph.partitions.daily),
        description=(
            f"Daily statistics per symbol of {TITLES[family]}, from one-minute bars, by write-audit-publish: one "
            "commit once all checks pass."
        ),
    )(daily_stats)


def definitions(graph: Graph) -> dg.Definitions:
    """Return Gold's assets."""
    return dg.Definitions(assets=[_asset(graph, family) for family in graph.settings.families])
