"""The streams beside the trades as assets: Bronze that the stream writes, and hours of Silver made of it.

A thin adapter of `transform.stream_minutes`; both assets of a stream are made from its entry in the registry. The
sensor follows Bronze as `defs.follower` does, with the same bookkeeping (`lake.bronze_follower`); an hour is recomputed
as a whole, at most once in five minutes while it is open.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import STREAM_TYPES
from cryptolake_assets.captures.tracked_symbols import streams_in_use
from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.described import OWNERS, table_metadata
from cryptolake_assets.defs.follower import REQUEST_TAG, FollowedRuns
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import RETRIES, LakeResource
from cryptolake_assets.lake.bronze_follower import FollowerState, rows_by_hour
from cryptolake_assets.quality.stream_minute_checks import blocking, warning

MAX_RUNS_IN_FLIGHT = 2
"""Of a stream: it is not worth holding up the trades."""
INTERVAL_S = 300.0
"""Between two refreshes of an hour; in a faster replay as many of the exchange's seconds."""
LOOK_S = 10
MAX_EVENTS = 20
"""Of a stream in one look."""
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=2), fail_window=timedelta(hours=6))
"""An asset that was never materialized, because its stream is not in use, is not late."""


def _code_version(stream_type: StreamType) -> str:
    """Moves when a column, its type, the SQL or a blocking check does."""
    said = [
        *(f"{column.name} {column.type}" for column in stream_type.silver.columns),
        stream_type.minutes,
        *stream_type.checks.values(),
    ]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


def _lineage(stream_type: StreamType) -> dg.TableColumnLineage:
    """Every column of Silver is made of the whole event; its SQL says how."""
    columns = [column.name for column in stream_type.contract if column.name not in ("exchange", "ingest_ts")]
    return dg.TableColumnLineage(
        {
            name: [
                dg.TableColumnDep(asset_key=asset_keys.of_table(stream_type.bronze), column_name=source)
                for source in ([name] if name in columns else columns)
            ]
            for name in stream_type.silver.column_names
            if name != "updated_at"
        }
    )


def _bronze(graph: Graph, stream_type: StreamType) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=asset_keys.of_table(stream_type.bronze),
        partitions_def=graph.partitions.hourly,
        group_name="bronze",
        kinds={"kafka", "spark", "iceberg"},
        owners=OWNERS,
        tags={"layer": "bronze", "cadence": "stream"},
        metadata=table_metadata(stream_type.bronze),
        description=f"{stream_type.bronze.doc} Written by the Bronze stream where `CRYPTOLAKE_EXTRA_STREAMS` has it.",
    )


def _silver(graph: Graph, stream_type: StreamType) -> dg.AssetsDefinition:
    key = asset_keys.of_table(stream_type.silver)

    @dg.asset(
        key=key,
        deps=[asset_keys.of_table(stream_type.bronze)],
        partitions_def=graph.partitions.hourly,
        group_name="silver",
        kinds={"duckdb", "iceberg"},
        owners=OWNERS,
        tags={"layer": "silver", "cadence": "minute"},
        code_version=_code_version(stream_type),
        metadata={**table_metadata(stream_type.silver), "dagster/column_lineage": _lineage(stream_type)},
        pool=stream_type.silver.writer_pool,
        output_required=False,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        check_specs=[
            *checks.specs(key, blocking(stream_type), graph.partitions.hourly),
            *checks.specs(key, warning(stream_type), graph.partitions.hourly, blocking=False),
        ],
        description=(
            f"{stream_type.silver.doc} An hour is recomputed from Bronze, checked in memory, published by one commit."
        ),
    )
    def minutes(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from cryptolake_assets.transform.stream_minutes import run_stream_minutes

        candidate, publication = run_stream_minutes(
            lake.settings, stream_type, hour_of(context.partition_key), context.run.run_id
        )
        results = [
            *checks.results(key, blocking(stream_type), candidate.outcomes),
            *checks.results(key, warning(stream_type), candidate.observations, dg.AssetCheckSeverity.WARN),
        ]
        if publication is None:
            yield from results
            raise checks.candidate_rejected(stream_type.silver, [context.partition_key], candidate.outcomes)
        said: dict[str, Any] = {
            "dagster/row_count": candidate.rows.num_rows,
            **table_metadata(stream_type.silver),
            "snapshot_id": str(publication.snapshot_id),
            "bronze_snapshot_id": str(candidate.bronze_snapshot),
            "events": candidate.events,
            "repeats": candidate.duplicates,
            "rows_changed": publication.rows_changed,
        }
        yield dg.MaterializeResult(metadata=said, check_results=results)

    return minutes


def tick(
    context: dg.SensorEvaluationContext, graph: Graph, types: tuple[StreamType, ...], now: float | None = None
) -> dg.SensorResult | dg.SkipReason:
    """One look at each stream; `now` (epoch seconds) is the clock's time if not given."""
    now = time.time() if now is None else now
    cursors: dict[str, str] = json.loads(context.cursor or "{}")
    requests: list[dg.RunRequest] = []
    events: list[dg.AssetMaterialization] = []
    for stream_type in types:
        state = _look(context, graph, stream_type, cursors.get(stream_type.name), now, requests, events)
        cursors[stream_type.name] = state.to_cursor()
    cursor = json.dumps(cursors, separators=(",", ":"))
    if not requests and not events:
        context.update_cursor(cursor)
        return dg.SkipReason("nothing new in Bronze of " + ", ".join(stream_type.name for stream_type in types))
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=cursor)


def _has_begun(hour: datetime, graph: Graph) -> bool:
    """Whether an hour that is no partition of the loaded definitions is one all the same: it is kept until they are
    loaded anew."""
    from cryptolake_assets.binance.exchange_clock import exchange_clock_ms

    clock_ms = exchange_clock_ms(graph.settings)
    now = datetime.now(UTC) if clock_ms is None else datetime.fromtimestamp(clock_ms / 1000, UTC)
    return graph.partitions.hourly.start <= hour <= now


def _look(
    context: dg.SensorEvaluationContext,
    graph: Graph,
    stream_type: StreamType,
    cursor: str | None,
    now: float,
    requests: list[dg.RunRequest],
    events: list[dg.AssetMaterialization],
) -> FollowerState:
    """Takes in what Bronze gained and adds what is to be asked for and told of."""
    from cryptolake_assets.lake.bronze_files import added_files, current_sequence, oldest_sequence_by_hour
    from cryptolake_assets.lake.catalog import load_table

    is_loaded = graph.partitions.is_loaded
    table = load_table(graph.settings, stream_type.bronze)
    state = FollowerState.restored(cursor, lambda: None, str(table.metadata.table_uuid))
    files = added_files(table, state.sequence)
    state.sequence = max(state.sequence, current_sequence(table))
    rows = rows_by_hour((file.hour, file.rows) for file in files)
    for hour, sequence in oldest_sequence_by_hour(files).items():
        if not is_loaded(hour) and not _has_begun(hour, graph):
            context.log.warning(
                f"{stream_type.name}: {rows[hour]} events of {hour_key(hour)} are outside the partitions"
            )
            continue
        state.touch(hour, sequence)
        state.arrived({hour: rows[hour]})
    interval_s = INTERVAL_S / graph.settings.clock_factor
    for hour, added in state.reports(now, MAX_EVENTS, interval_s).items():
        metadata: dict[str, Any] = {"rows_added": added, "dagster/table_name": stream_type.bronze.full_name}
        events.append(
            dg.AssetMaterialization(
                asset_keys.of_table(stream_type.bronze), partition=hour_key(hour), metadata=metadata
            )
        )

    silver_key = asset_keys.of_table(stream_type.silver)
    runs = FollowedRuns(context, silver_key)
    state.settle(runs.state_of_request, now)
    due = state.due_requests(
        lambda hour: not is_loaded(hour) or hour in runs.busy_hours, now, MAX_RUNS_IN_FLIGHT, interval_s
    )
    requests += [
        dg.RunRequest(
            run_key=f"{stream_type.name}/{request.key}",
            partition_key=hour_key(request.hours[0]),
            asset_selection=[silver_key],
            tags={REQUEST_TAG: request.request, "dagster/priority": "-1"},
        )
        for request in due
    ]
    return state


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of every stream, and the sensor that follows them."""

    @dg.sensor(
        name="market_follower",
        target=dg.AssetSelection.assets(*(asset_keys.of_table(stream_type.silver) for stream_type in STREAM_TYPES)),
        minimum_interval_seconds=LOOK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Follows Bronze of the streams beside the trades: one run a touched hour of Silver.",
    )
    def market_follower(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        types = streams_in_use(graph.settings)
        if not types:
            return dg.SkipReason("no stream beside the trades is in use (CRYPTOLAKE_EXTRA_STREAMS)")
        return tick(context, graph, types)

    bronze = [_bronze(graph, stream_type) for stream_type in STREAM_TYPES]
    silver = [_silver(graph, stream_type) for stream_type in STREAM_TYPES]
    return dg.Definitions(assets=[*bronze, *silver], sensors=[market_follower])
