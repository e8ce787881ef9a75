"""Bronze: the table that the stream writes, as an asset. Materializing an hour writes no trades; it makes sure that
Kafka's are in and says what the hour holds."""

from datetime import timedelta

import dagster as dg

from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.described import OWNERS, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_of
from cryptolake_assets.defs.resources import RETRIES, LakeResource, StreamResource
from cryptolake_assets.model.trade_tables import BRONZE_TRADES

FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(minutes=10), fail_window=timedelta(minutes=20))
"""While the stream lives it is reported every five minutes, with or without new trades."""


def futures_trades(
    context: dg.AssetExecutionContext, lake: LakeResource, stream: StreamResource
) -> dg.MaterializeResult:
    from cryptolake_assets.lake.bronze_files import added_files
    from cryptolake_assets.lake.catalog import load_table

    how = stream.catch_up()
    table = load_table(lake.settings, BRONZE_TRADES)
    hour = hour_of(context.partition_key)
    files = [file for file in added_files(table, 0) if file.hour == hour]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(file.rows for file in files),
            **table_metadata(BRONZE_TRADES),
            "snapshot_id": str(table.metadata.current_snapshot_id),
            "files": len(files),
            "caught_up_by": how,
            "lag": stream.lag() or 0,
        }
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return Bronze's asset."""
    asset = dg.asset(
        key=asset_keys.BRONZE,
        partitions_def=graph.partitions.hourly,
        group_name="bronze",
        kinds={"kafka", "spark", "iceberg"},
        owners=OWNERS,
        tags={"layer": "bronze", "cadence": "stream"},
        metadata=table_metadata(BRONZE_TRADES),
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        description=(
            "Every trade as received, repeats included. Written by the Bronze stream; the sensor `bronze_follower` "
            "records what it added. By hand: waits for the stream, or takes what Kafka holds when it is down, then "
            "counts."
        ),
    )(futures_trades)
    return dg.Definitions(assets=[asset])
