"""The sensor that follows the Bronze stream: records what the stream added, asks for Silver runs of exactly the
touched hours. The bookkeeping is `lake.follow`; here it meets Dagster's runs and events."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from cryptolake_assets.defs import bronze, silver
from cryptolake_assets.defs.partitions import hour_key, hour_of, hourly
from cryptolake_assets.defs.resources import LakeResource, StreamResource
from cryptolake_assets.lake.follow import FollowerState, RunState, RunWish, rows_by_hour, split_hours
from cryptolake_assets.lake.tables import BRONZE_TRADES, OPS_COVERAGE
from cryptolake_assets.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyiceberg.table import Table

REQUEST_TAG = "cryptolake/request"
MOST_RUNS_A_TICK = 24
IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
SILVER_OP = silver.KEY.to_python_identifier()


@dg.sensor(
    name="bronze_follower",
    target=dg.AssetSelection.assets(silver.KEY),
    minimum_interval_seconds=get_settings().follower_interval_s,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Follows the Bronze stream: one Bronze materialization a touched hour, one Silver run a pending hour.",
)
def bronze_follower(
    context: dg.SensorEvaluationContext, lake: LakeResource, stream: StreamResource
) -> dg.SensorResult | dg.SkipReason:
    return tick(context, lake.settings, stream)


def tick(
    context: dg.SensorEvaluationContext, settings: Settings, stream: StreamResource
) -> dg.SensorResult | dg.SkipReason:
    """One evaluation; see the module's text."""
    from cryptolake_assets.lake.bronze_files import head_sequence
    from cryptolake_assets.lake.catalog import load_table

    state = FollowerState.from_cursor(context.cursor)
    table = load_table(settings, BRONZE_TRADES)
    events, outside = _take_in_files(state, table, settings, stream)
    _take_in_coverage(state, settings, head_sequence(table))

    now = time.time()
    runs = _SilverRuns(context.instance)
    state.settle(runs.state_of_request, now)
    wishes = state.wishes(runs.is_busy, now, MOST_RUNS_A_TICK)
    if outside:
        context.log.warning(
            f"{sum(outside.values())} trades are dated outside the partitions and wait in quarantine: "
            + ", ".join(f"{hour:%Y-%m-%d %H:00} ({rows})" for hour, rows in sorted(outside.items())[:10])
        )
    cursor = state.to_cursor()
    if not wishes and not events:
        context.update_cursor(cursor)
        return dg.SkipReason(_summary(state, outside, now))
    return dg.SensorResult(run_requests=[_request(wish) for wish in wishes], asset_events=events, cursor=cursor)


def _take_in_files(
    state: FollowerState, table: "Table", settings: Settings, stream: StreamResource
) -> tuple[list[dg.AssetMaterialization], dict[datetime, int]]:
    """Touches the hours of the files that came; returns their Bronze materializations, and what lies outside."""
    from cryptolake_assets.lake.bronze_files import added_files, head_sequence, oldest_sequence_by_hour
    from cryptolake_assets.transform.context import observe

    files = added_files(table, state.sequence)
    state.sequence = max(state.sequence, head_sequence(table))
    if not files:
        return [], {}
    world = observe(settings)
    rows = rows_by_hour((file.hour, file.rows) for file in files)
    last = hour_of(hourly().get_last_partition_key() or hour_key(world.rules.earliest))
    hours = split_hours(oldest_sequence_by_hour(files), rows, world.rules.earliest, min(last, world.rules.latest))
    for hour, sequence in hours.inside.items():
        state.touch(hour, sequence)
    if hours.outside and not hours.inside:
        # A run of the open hour takes the strays into quarantine though no hour of the graph was touched.
        open_hour = min(last, world.rules.latest - timedelta(minutes=1)).replace(minute=0, second=0, microsecond=0)
        state.touch(max(open_hour, world.rules.earliest), state.sequence + 1)
    lag = stream.lag()
    events = [
        dg.AssetMaterialization(
            asset_key=bronze.KEY,
            partition=hour_key(hour),
            metadata={
                "rows_added": rows[hour],
                "dagster/table_name": BRONZE_TRADES.full_name,
                "snapshot_id": str(table.metadata.current_snapshot_id),
                "sequence": state.sequence,
                **({} if lag is None else {"lag": lag}),
            },
        )
        for hour in sorted(hours.inside)
    ]
    return events, hours.outside


def _take_in_coverage(state: FollowerState, settings: Settings, head: int) -> None:
    """Touches the hours that hold bars which coverage has made complete since it was looked at last."""
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.stream.progress import committed_offsets
    from cryptolake_assets.transform.silver_candidate import minutes_now_complete

    snapshot_id = load_table(settings, OPS_COVERAGE).metadata.current_snapshot_id
    offsets = ",".join(f"{number}:{offset}" for number, offset in sorted(committed_offsets(settings).items()))
    seen = f"{snapshot_id}/{offsets}"
    if seen == state.coverage:
        return
    hours = minutes_now_complete(settings)
    waiting = {hour for hour in hours if hour.isoformat() in state.pending}
    for hour in hours - waiting:
        state.touch(hour, head + 1)
    # The run of a pending hour may have begun before this coverage was written: look again after it.
    state.coverage = "" if waiting else seen


class _SilverRuns:
    """What Dagster knows about Silver runs. Backfills run under another job's name, so runs are found by partition."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def _runs(
        self, hour: datetime, tags: Mapping[str, str], statuses: list[dg.DagsterRunStatus] | None
    ) -> list[dg.DagsterRun]:
        filters = dg.RunsFilter(tags={"dagster/partition": hour_key(hour), **tags}, statuses=statuses)
        return [run for run in self._instance.get_runs(filters) if silver.KEY in (run.asset_selection or ())]

    def state_of_request(self, hour: datetime, request: str) -> RunState:
        """The newest run with that request; one that cannot be found has failed."""
        runs = self._runs(hour, {REQUEST_TAG: request}, None)
        if not runs:
            return RunState.FAILED
        status = runs[0].status
        if status is dg.DagsterRunStatus.SUCCESS:
            return RunState.SUCCEEDED
        return RunState.IN_FLIGHT if status in IN_FLIGHT else RunState.FAILED

    def is_busy(self, hour: datetime) -> bool:
        """Whether any run of the hour is queued or running, also one by hand or of a backfill."""
        return bool(self._runs(hour, {}, IN_FLIGHT))


def _request(wish: RunWish) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=wish.key,
        partition_key=hour_key(wish.hour),
        asset_selection=[silver.KEY],
        run_config=dg.RunConfig(ops={SILVER_OP: silver.SilverConfig(from_sequence=wish.from_sequence)}),
        tags={REQUEST_TAG: wish.request},
    )


def _summary(state: FollowerState, outside: Mapping[datetime, int], now: float) -> str:
    """The tick's message when nothing is asked for."""
    parts = [f"Bronze is at sequence {state.sequence}"]
    running = sum(1 for entry in state.pending.values() if entry.requested is not None)
    held = sum(1 for entry in state.pending.values() if entry.requested is None and entry.retry_at > now)
    parts.append(f"{len(state.pending)} hours pending, {running} with a run, {held} waiting for a retry")
    if outside:
        parts.append(f"{sum(outside.values())} trades outside the partitions")
    return "; ".join(parts)
