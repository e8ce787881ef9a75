"""Bronze: the tables that the Bronze stream writes, as one asset per registered stream.

Materializing an hour writes no events: it waits until Bronze has Kafka's records and reports the hour's rows and files.
"""

from datetime import timedelta

import dagster as dg

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import STREAM_TYPES, TRADES_OF_FAMILY
from cryptolake_assets.defs.described import table_asset, table_metadata
from cryptolake_assets.defs.follower import sensor_name
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_of
from cryptolake_assets.defs.resources import LakeResource, StreamResource

# While the stream runs, the sensor `stream_health` materializes the trades every 5 min, with or without new ones.
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(minutes=10), fail_window=timedelta(minutes=20))
# Does not fail for an asset that was never materialized because its stream is not in use.
FRESH_EXTRA = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=2), fail_window=timedelta(hours=6))


def _asset(graph: Graph, stream_type: StreamType) -> dg.AssetsDefinition:
    def hour_of_stream(
        context: dg.AssetExecutionContext, lake: LakeResource, stream: StreamResource
    ) -> dg.MaterializeResult:
        from cryptolake_assets.lake.bronze_files import added_files
        from cryptolake_assets.lake.catalog import load_table

        method = stream.catch_up(stream_type)
        table = load_table(lake.settings, stream_type.bronze)
        hour = hour_of(context.partition_key)
        files = [file for file in added_files(table, 0) if file.hour == hour]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": sum(file.rows for file in files),
                **table_metadata(stream_type.bronze),
                "snapshot_id": str(table.metadata.current_snapshot_id),
                "files": len(files),
                "caught_up_by": method,
                "lag": stream.lag(stream_type) or 0,
            }
        )

    return table_asset(
        stream_type.bronze,
        graph.partitions.hourly,
        cadence="stream",
        kinds={"kafka", "spark", "iceberg"},
        family=stream_type.family,
        freshness_policy=FRESH if stream_type in TRADES_OF_FAMILY.values() else FRESH_EXTRA,
        description=(
            f"{stream_type.bronze.doc} {_reported(stream_type)}A manual run waits for the Bronze stream, or ingests "
            "Kafka's records if the stream is down, and reports the hour's rows and files."
        ),
    )(hour_of_stream)


def _reported(stream_type: StreamType) -> str:
    if not stream_type.is_followed:
        return ""
    return f"The sensor `{sensor_name(stream_type)}` reports the rows that the Bronze stream adds. "


def definitions(graph: Graph) -> dg.Definitions:
    """Return the Bronze assets of all streams of the families in use."""
    of_families = [stream_type for stream_type in STREAM_TYPES if stream_type.family in graph.settings.families]
    return dg.Definitions(assets=[_asset(graph, stream_type) for stream_type in of_families])
