"""The exchange's official one-minute klines as assets, and the comparison of Silver with them. A thin adapter of
`ingest.klines`.

An hour is fetched after Silver has published it, so that the check reads the published bars. Silver's run compares them
too, with the klines available at that time.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from cryptolake_assets.defs import checks
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.automation import follows_upstream, freshness_of_followers
from cryptolake_assets.defs.described import TITLES, table_asset
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.bar_checks import OFFICIAL_KLINES

if TYPE_CHECKING:
    from cryptolake_assets.ingest.klines import FetchedHour
    from cryptolake_assets.quality.official_bars import Agreement

# Minimum minutes between two requests of the open hour: a run costs CPU that the refreshes of Silver need.
INTERVAL_MIN = 15

HOURS_A_RUN = 24


def _asset(graph: Graph, family: Family) -> dg.AssetsDefinition:
    tables, keys = FAMILY_TABLES[family], FAMILY_KEYS[family]

    def klines_1m(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        from cryptolake_assets.ingest.klines import fetch_hour, judge_hour
        from cryptolake_assets.transform.load_inputs import load_run_inputs

        settings = lake.settings.of_family(family)
        hours = sorted(map(hour_of, context.partition_keys))
        completeness = load_run_inputs(settings, hours[0], hours[-1] + HOUR).completeness
        done = [
            (
                fetch_hour(settings, hour, context.run.run_id),
                judge_hour(settings, hour, completeness, context.run.run_id),
            )
            for hour in hours
        ]
        # Yield events only after all hours are done: a run must not report a check twice, and a failed step is retried.
        for fetched, agreement in done:
            key = hour_key(fetched.hour)
            yield from checks.evaluations(
                keys.bars, [OFFICIAL_KLINES], [agreement.outcome], key, dg.AssetCheckSeverity.WARN
            )
            yield dg.AssetMaterialization(keys.klines, partition=key, metadata=_metadata(fetched, agreement))

    return table_asset(
        tables.klines,
        graph.partitions.hourly,
        family=family,
        cadence="minutes",
        kinds={"rest", "iceberg"},
        deps=[keys.bars],
        automation_condition=follows_upstream(INTERVAL_MIN, "follows_silver", graph.partitions),
        freshness_policy=freshness_of_followers(graph.settings),
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        description=(
            f"Official one-minute klines of {TITLES[family]} for each hour that Silver publishes, closed minutes only; "
            "klines from the public archive are not requested again. The run compares Silver's bars with them: check "
            f"`official_klines`, table silver.{tables.kline_differences.name}."
        ),
    )(klines_1m)


def _metadata(fetched: "FetchedHour", agreement: "Agreement") -> dict[str, dg.MetadataValue]:
    return {
        "dagster/row_count": dg.MetadataValue.int(fetched.klines + fetched.of_archive),
        **({"not_listed": dg.MetadataValue.text(", ".join(fetched.not_listed))} if fetched.not_listed else {}),
        **(
            {"rejected_rows": dg.MetadataValue.text("\n".join(fetched.rejected_rows[:20]))}
            if fetched.rejected_rows
            else {}
        ),
        "klines_from_archive": dg.MetadataValue.int(fetched.of_archive),
        "snapshot_id": dg.MetadataValue.text(str(fetched.publication.snapshot_id)),
        "klines_changed": dg.MetadataValue.int(fetched.publication.rows_changed),
        "differences": dg.MetadataValue.int(len(agreement.differences)),
        "agreement": dg.MetadataValue.text(agreement.outcome.description),
    }


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of official klines."""
    return dg.Definitions(assets=[_asset(graph, family) for family in graph.settings.families])
