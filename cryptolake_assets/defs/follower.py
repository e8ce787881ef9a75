"""The sensor of a Silver table that follows a stream's Bronze table: it reports added rows and requests runs of
exactly the touched hours.

`transform.follow_bronze` finds the touched hours, `lake.bronze_follower` keeps the state; this module connects them to
Dagster's runs and events. Each tick is bounded in requested runs, reported events and history read. The run of the
newest trades is executed in the tick, because the process of another one takes seconds to start; backlogs, full hours
and hours whose last run failed are requested (docs/decisions/0049). The cursor is
Dagster's; a copy next to the tables replaces it if it is lost. A tick without new data opens neither resources
nor Dagster's instance.

The partitions of a replay end with its capture, and the definitions are loaded once: an hour outside the loaded
partitions stays pending until they include it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import dagster as dg

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import (
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    GraphPartitions,
    hour_key,
    hour_of,
)
from cryptolake_assets.defs.resources import StreamResource
from cryptolake_assets.lake.bronze_follower import FULL_HOUR, FollowerState, RunState, SilverRequest
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table

REQUEST_TAG = "cryptolake/request"
IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


# Trades of a run that a tick executes: a few seconds of work, far below the time after which Dagster gives up a tick.
MAX_ROWS_IN_A_TICK: Final = 2_000_000

# One run at a time in this process: Dagster captures the process's output, and two captures block each other.
_RUNNING: Final = threading.Lock()
LOCK_WAIT_S: Final = 20.0  # for the tick of another family


def _no_config(_request: SilverRequest) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A Silver table that follows its stream's Bronze table, with the limits of its sensor."""

    stream: StreamType
    silver: dg.AssetKey
    checks: Sequence[dg.AssetCheckKey] | None = None  # checks of a requested run; None: all checks of the asset
    interval_s: Callable[[Settings], float]  # minimum seconds between two requests of an hour
    tick_s: Callable[[Settings], int]
    max_runs_in_flight: int
    max_events_a_tick: int
    hours_a_run: int
    config: Callable[[SilverRequest], dict[str, Any]] = _no_config  # run config of the table's op for a request
    has_priority: bool = False
    in_tick: Mapping[str, str] | None = None  # run config of small runs, which ticks execute themselves; None: none


def tick(
    context: dg.SensorEvaluationContext, graph: Graph, followed: Followed, now: float | None = None
) -> dg.SensorResult | dg.SkipReason:
    """Return the runs to request and the events to report; `now` (epoch seconds) defaults to the clock's time."""
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.lake.files import read_text, write_text
    from cryptolake_assets.transform.follow_bronze import StoredLake, mark_touched_hours, proven_until_ms

    settings, is_loaded = graph.settings.of_family(followed.stream.family), graph.partitions.is_loaded
    table = load_table(settings, followed.stream.bronze)
    copy = followed.stream.follower_location(settings)
    state = FollowerState.restored(context.cursor, lambda: read_text(settings, copy), str(table.metadata.table_uuid))
    lake = StoredLake(settings, table)
    outside = mark_touched_hours(lake, state, followed.stream.capabilities)

    now = time.time() if now is None else now
    runs = FollowedRuns(context, followed.silver)
    interval_s = followed.interval_s(settings)
    state.settle(runs.state_of_request, now)
    requests = state.due_requests(
        lambda hour: not is_loaded(hour) or hour in runs.busy_hours,
        now,
        followed.max_runs_in_flight,
        interval_s,
        followed.hours_a_run,
        proven_until_ms(lake),
    )
    requests, outcomes = _run_here(context, followed, state, requests)
    state.settle(lambda name: outcomes.get(name, RunState.IN_FLIGHT), now)
    rows = state.reports(now, followed.max_events_a_tick, interval_s)
    events = _reports(followed, rows, state.sequence, table, StreamResource(settings=settings))
    if outside:
        context.log.warning(
            f"{followed.stream.name}: {sum(outside.values())} events have an event time outside the partitions: "
            + ", ".join(f"{hour:%Y-%m-%d %H:00} ({rows})" for hour, rows in sorted(outside.items())[:10])
        )
    cursor = state.to_cursor()
    if cursor != context.cursor:
        write_text(settings, copy, cursor)
    if not requests and not events:
        context.update_cursor(cursor)
        return dg.SkipReason(_summary(state, outside, graph.partitions, now))
    return dg.SensorResult(
        run_requests=[_run_request(followed, request) for request in requests], asset_events=events, cursor=cursor
    )


def _run_here(
    context: dg.SensorEvaluationContext, followed: Followed, state: FollowerState, requests: Sequence[SilverRequest]
) -> tuple[list[SilverRequest], dict[str, RunState]]:
    """Run the small requests in this process; return the other requests, and the states of those that ran."""
    others, outcomes = [], {}
    newest = max(state.pending, default="")
    for request in requests:
        is_small = followed.in_tick is not None and _is_small(request, newest)
        is_here = is_small and _RUNNING.acquire(timeout=LOCK_WAIT_S)
        if not is_here:
            others.append(request)
            continue
        try:
            has_succeeded = _run(context, followed, _run_request(followed, request, followed.in_tick))
        finally:
            _RUNNING.release()
        outcomes[request.request] = RunState.SUCCEEDED if has_succeeded else RunState.FAILED
    return others, outcomes


def _run(context: dg.SensorEvaluationContext, followed: Followed, request: dg.RunRequest) -> bool:
    """Run a request in this process; return whether it succeeded. Dagster records the run and its error as usual."""
    repository = cast(dg.RepositoryDefinition, context.repository_def)  # Dagster always gives it to a sensor
    job = repository.get_implicit_global_asset_job_def().get_subset(
        asset_selection={followed.silver}, asset_check_selection=set(followed.checks or ())
    )
    return job.execute_in_process(
        instance=context.instance,
        partition_key=request.partition_key,
        run_config=request.run_config,
        tags=dict(request.tags),
        raise_on_error=False,
    ).success


def _is_small(request: SilverRequest, newest: str) -> bool:
    """Return whether a tick executes the request itself: of the newest pending hour, or of the one before."""
    return (
        len(request.hours) == 1
        and request.from_sequence != FULL_HOUR
        and request.attempts == 0
        and request.rows <= MAX_ROWS_IN_A_TICK
        and request.hours[0] >= datetime.fromisoformat(newest) - HOUR
    )


def _reports(
    followed: Followed, rows: Mapping[datetime, int], sequence: int, table: "Table", resource: StreamResource
) -> list[dg.AssetMaterialization]:
    """Return the materializations of Bronze; `rows` maps hours to added rows."""
    if not rows:
        return []
    lag = resource.lag(followed.stream)
    return [
        dg.AssetMaterialization(
            asset_key=asset_keys.of_table(followed.stream.bronze),
            partition=hour_key(hour),
            metadata={
                "rows_added": added,
                "dagster/table_name": followed.stream.bronze.full_name,
                "snapshot_id": str(table.metadata.current_snapshot_id),
                "sequence": sequence,
                **({} if lag is None else {"lag": lag}),
            },
        )
        for hour, added in rows.items()
    ]


class FollowedRuns:
    """Dagster's runs of a Silver table."""

    def __init__(self, context: dg.SensorEvaluationContext, asset: dg.AssetKey) -> None:
        self._instance, self._asset = context.instance, asset

    def state_of_request(self, request: str) -> RunState:
        """Return the state of the newest run of a request; `FAILED` if there is no run."""
        runs = self._instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: request}), limit=1)
        if not runs:
            return RunState.FAILED
        status = runs[0].status
        if status is dg.DagsterRunStatus.SUCCESS:
            return RunState.SUCCEEDED
        return RunState.IN_FLIGHT if status in IN_FLIGHT else RunState.FAILED

    @cached_property
    def busy_hours(self) -> frozenset[datetime]:
        """The hours of queued and running runs, including manual ones and backfills."""
        runs = self._instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT))
        return frozenset(hour for run in runs if self._asset in (run.asset_selection or ()) for hour in hours_of(run))


def hours_of(run: dg.DagsterRun) -> list[datetime]:
    """Return the hours of a run's partition or partition range."""
    bounds = [run.tags.get(RANGE_START_TAG, ""), run.tags.get(RANGE_END_TAG, "")]
    if not all(bounds):
        bounds = [run.tags.get(PARTITION_TAG, "")] * 2
    if not all(bounds):
        return []
    first, last = map(hour_of, bounds)
    return [first + number * HOUR for number in range((last - first) // HOUR + 1)]


def _run_request(
    followed: Followed, request: SilverRequest, more_config: Mapping[str, str] | None = None
) -> dg.RunRequest:
    keys = [hour_key(hour) for hour in request.hours]
    range_tags = {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]} if len(keys) > 1 else {}
    config = {**followed.config(request), **(more_config or {})}
    has_priority = followed.has_priority and request.from_sequence
    return dg.RunRequest(
        run_key=request.key,
        partition_key=None if range_tags else keys[0],
        asset_selection=[followed.silver],
        asset_check_keys=followed.checks,
        run_config={"ops": {followed.silver.to_python_identifier(): {"config": config}}} if config else None,
        tags={
            REQUEST_TAG: request.request,
            **range_tags,
            **({} if has_priority else {"dagster/priority": "-1"}),
        },
    )


def _summary(state: FollowerState, outside: Mapping[datetime, int], partitions: GraphPartitions, now: float) -> str:
    """Return the message of a tick that requests nothing."""
    parts = [f"Bronze is at sequence {state.sequence}"]
    running = sum(1 for entry in state.pending.values() if entry.requested is not None)
    delayed = sum(1 for entry in state.pending.values() if entry.requested is None and entry.retry_at > now)
    parts.append(f"{len(state.pending)} hours pending, {running} with a run, {delayed} waiting for a retry")
    if waiting := state.waiting(partitions.is_loaded):
        parts.append(
            f"{len(waiting)} hours from {hour_key(waiting[0])} on are not in the loaded partitions; "
            "`cryptolake up` reloads them"
        )
    if outside:
        parts.append(f"{sum(outside.values())} events with an event time outside the partitions")
    return "; ".join(parts)


def sensor_name(stream: StreamType) -> str:
    """Return the name of the sensor that follows a stream's Bronze table."""
    return "bronze_follower" if stream is TRADES else f"{stream.name}_follower"


def follower(graph: Graph, followed: Followed) -> dg.SensorDefinition:
    """Return the sensor of a followed table."""

    @dg.sensor(
        name=sensor_name(followed.stream),
        target=dg.AssetSelection.assets(followed.silver),
        minimum_interval_seconds=followed.tick_s(graph.settings),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Follows {followed.stream.bronze.full_name}: reports a Bronze materialization per touched hour and "
            "requests Silver runs of the pending hours."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return tick(context, graph, followed)

    return sensor
