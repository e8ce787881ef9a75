"""Silver of the extra streams: one-minute rows from each stream's Bronze, in hourly partitions. A thin adapter of
`transform.stream_minutes`: a factory for the entries of the registry.

An hour is recomputed in full, at most every five minutes while it is open.
"""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg

from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.binance.stream_types import MINUTE_STREAMS
from cryptolake_assets.captures.tracked_symbols import streams_in_use
from cryptolake_assets.defs import asset_keys, audited
from cryptolake_assets.defs.audited import Audited, AuditedTable
from cryptolake_assets.defs.bronze import FRESH_EXTRA
from cryptolake_assets.defs.described import code_version, table_asset, table_metadata
from cryptolake_assets.defs.follower import Followed, follower
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.stream_minute_checks import blocking, warning

INTERVAL_S = 300.0  # minimum time between two refreshes of an hour (scaled by the replay speed)
HOURS_A_RUN = 24


def _lineage(stream: MinuteStream) -> dg.TableColumnLineage:
    """Return the column lineage: a column of the event comes from itself, any other from all columns of the event."""
    bronze = asset_keys.of_table(stream.bronze)
    columns = [column.name for column in stream.contract if column.name not in ("exchange", "ingest_ts")]
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(bronze, source) for source in ([name] if name in columns else columns)]
            for name in stream.silver.column_names
            if name != "updated_at"
        }
    )


def _silver(graph: Graph, stream: MinuteStream) -> dg.AssetsDefinition:
    audited_table = AuditedTable(stream.silver, blocking(stream), warning(stream))

    def minutes(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[audited.Event]:
        hours = sorted(map(hour_of, context.partition_keys))
        yield from audited.events(context, audited_table, (_audited(context, lake, stream, hour) for hour in hours))

    return table_asset(
        stream.silver,
        graph.partitions.hourly,
        family=stream.family,
        cadence="minute",
        kinds={"duckdb", "iceberg"},
        deps=[asset_keys.of_table(stream.bronze)],
        code_version=code_version(stream.silver, stream.minutes, *stream.checks.values()),
        metadata={"dagster/column_lineage": _lineage(stream)},
        freshness_policy=FRESH_EXTRA,
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=audited_table.check_specs(graph.partitions.hourly),
        description=(
            f"{stream.silver.doc} By write-audit-publish: an hour is recomputed from Bronze, checked and published by "
            "one commit."
        ),
    )(minutes)


def _audited(context: dg.AssetExecutionContext, lake: LakeResource, stream: MinuteStream, hour: datetime) -> Audited:
    from cryptolake_assets.transform.stream_minutes import run_stream_minutes

    candidate, publication = run_stream_minutes(
        lake.settings.of_family(stream.family), stream, hour, context.run.run_id
    )
    metadata, version = {}, None
    if publication is not None:
        version = publication.version("window_start", hour, hour + HOUR)
        metadata = {
            "dagster/row_count": candidate.rows.num_rows,
            **table_metadata(stream.silver),
            "snapshot_id": str(publication.snapshot_id),
            "bronze_snapshot_id": str(candidate.bronze_snapshot),
            "events": candidate.events,
            "duplicates": candidate.duplicates,
            "rows_changed": publication.rows_changed,
        }
    return Audited(hour_key(hour), candidate.outcomes, candidate.observations, metadata, version)


def followed(stream: MinuteStream) -> Followed:
    """Return the follower's limits for the Silver table of a stream."""
    return Followed(
        stream=stream,
        silver=asset_keys.of_table(stream.silver),
        interval_s=lambda settings: INTERVAL_S / settings.clock_factor,
        tick_s=lambda _: 10,
        max_runs_in_flight=2,  # leaves capacity for the trades
        max_events_a_tick=20,
        hours_a_run=HOURS_A_RUN,
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of the extra streams of the families in use, and the sensors of the streams in use.

    There are no sensors if the capture cannot be read; the replay exchange reports that.
    """
    of_families = [stream for stream in MINUTE_STREAMS if stream.family in graph.settings.families]
    try:
        in_use = streams_in_use(graph.settings)
    except CaptureError:
        in_use = ()
    return dg.Definitions(
        assets=[_silver(graph, stream) for stream in of_families],
        sensors=[follower(graph, followed(stream)) for stream in of_families if stream in in_use],
    )
