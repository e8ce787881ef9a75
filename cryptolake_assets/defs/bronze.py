"""Bronze: the tables that the Bronze stream writes, as one asset per registered stream.

Materializing an hour writes no events; it waits until Kafka's are in Bronze and reports the hour's rows and files.
"""

from datetime import timedelta

import dagster as dg

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import STREAM_TYPES, TRADES
from cryptolake_assets.defs.described import table_asset, table_metadata
from cryptolake_assets.defs.follower import sensor_name
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_of
from cryptolake_assets.defs.resources import LakeResource, StreamResource

# While the stream is alive, the trades are reported every five minutes, with or without new ones.
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(minutes=10), fail_window=timedelta(minutes=20))
# An asset that was never materialized, because its stream is not in use, is not late.
FRESH_EXTRA = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=2), fail_window=timedelta(hours=6))


def _asset(graph: Graph, of: StreamType) -> dg.AssetsDefinition:
    def hour_of_stream(
        context: dg.AssetExecutionContext, lake: LakeResource, stream: StreamResource
    ) -> dg.MaterializeResult:
        from cryptolake_assets.lake.bronze_files import added_files
        from cryptolake_assets.lake.catalog import load_table

        how = stream.catch_up(of)
        table = load_table(lake.settings, of.bronze)
        hour = hour_of(context.partition_key)
        files = [file for file in added_files(table, 0) if file.hour == hour]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": sum(file.rows for file in files),
                **table_metadata(of.bronze),
                "snapshot_id": str(table.metadata.current_snapshot_id),
                "files": len(files),
                "caught_up_by": how,
                "lag": stream.lag(of) or 0,
            }
        )

    return table_asset(
        of.bronze,
        graph.partitions.hourly,
        cadence="stream",
        kinds={"kafka", "spark", "iceberg"},
        freshness_policy=FRESH if of is TRADES else FRESH_EXTRA,
        description=(
            f"{of.bronze.doc} The sensor `{sensor_name(of)}` records what the Bronze stream added. By hand: waits for "
            "the stream, or takes what Kafka holds when it is down, then counts."
        ),
    )(hour_of_stream)


def definitions(graph: Graph) -> dg.Definitions:
    """Return the Bronze assets of all streams."""
    return dg.Definitions(assets=[_asset(graph, of) for of in STREAM_TYPES])
