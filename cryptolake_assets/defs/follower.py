"""The sensor that follows the Bronze stream: records what the stream added, asks for Silver runs of exactly the
touched hours. The bookkeeping is `lake.bronze_follower`; here it meets Dagster's runs and events.

A look is bounded: in what it asks for, in the events it reports, and in what it reads of history. Its cursor is
Dagster's, with a copy beside the tables that takes over when Dagster's is lost. A look that finds nothing new asks for
neither resources nor Dagster's instance, and while nothing is owed a tick goes on looking for a while: what Dagster
does for a tick, and opening those, costs ten times a look.

The partitions of a replay end with its capture, and the definitions are loaded once. An hour that is no partition of
the loaded ones yet stays pending until it is.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from cryptolake_assets.defs import asset_keys, silver
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
from cryptolake_assets.lake.bronze_follower import (
    WHOLE_HOUR,
    FollowerState,
    RunState,
    SilverRequest,
    rows_by_hour,
    split_hours,
)
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.trade_tables import BRONZE_GAPS, BRONZE_TRADES
from cryptolake_assets.model.windows import HOUR, day_of
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from cryptolake_assets.lake.bronze_files import BronzeFile
    from cryptolake_assets.quality.completeness import CompletenessIndex
    from cryptolake_assets.quality.run_inputs import RunInputs

REQUEST_TAG = "cryptolake/request"
MAX_RUNS_IN_FLIGHT = 24
MAX_EVENTS_A_TICK = 100
"""Some 60 events a second go into SQLite, and a tick may take a minute."""
WATCH_S = 10.0
"""How long a tick looks on while nothing comes. The daemon's end waits for a tick's."""
FULL_LOOK_S = 3_600.0
"""How often all of Silver is looked through for bars that have become complete, and not only what was just covered."""
IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
SILVER_OP = asset_keys.SILVER.to_python_identifier()


def watch(context: dg.SensorEvaluationContext, graph: Graph) -> dg.SensorResult | dg.SkipReason:
    """Look until there is something to ask for or to report, `WATCH_S` at most."""
    stream, interval_s = StreamResource(settings=graph.settings), graph.settings.follower_interval_s
    until = time.monotonic() + WATCH_S
    while True:
        result = tick(context, graph, stream)
        state = FollowerState.from_cursor(context.cursor)
        owed = state is None or not state.at_rest
        if isinstance(result, dg.SensorResult):
            # Looks before this one may have moved the cursor, and Dagster takes it from the context or the result.
            context.update_cursor(result.cursor)
            return dg.SensorResult(run_requests=result.run_requests, asset_events=result.asset_events)
        if owed or time.monotonic() + interval_s > until:
            return result
        time.sleep(interval_s)


def tick(
    context: dg.SensorEvaluationContext, graph: Graph, stream: StreamResource, now: float | None = None
) -> dg.SensorResult | dg.SkipReason:
    """One look; see the module's text. `now` (epoch seconds) is the clock's time if not given."""
    from cryptolake_assets.lake.bronze_files import current_sequence
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.lake.files import write_text

    settings, is_loaded = graph.settings, graph.partitions.is_loaded
    table = load_table(settings, BRONZE_TRADES)
    state = _restore(context, table, settings)
    outside = _take_in_files(state, table, settings)
    _take_in_coverage(state, settings, current_sequence(table))

    now = time.time() if now is None else now
    runs = FollowedRuns(context, asset_keys.SILVER)
    interval_s = settings.silver_interval_in_use_s
    state.settle(runs.state_of_request, now)
    requests = state.due_requests(
        lambda hour: not is_loaded(hour) or hour in runs.busy_hours,
        now,
        MAX_RUNS_IN_FLIGHT,
        interval_s,
        silver.HOURS_A_RUN,
    )
    events = _reports(state.reports(now, MAX_EVENTS_A_TICK, interval_s), state.sequence, table, stream)
    if outside:
        context.log.warning(
            f"{sum(outside.values())} trades are dated outside the partitions and wait in quarantine: "
            + ", ".join(f"{hour:%Y-%m-%d %H:00} ({rows})" for hour, rows in sorted(outside.items())[:10])
        )
    cursor = state.to_cursor()
    if cursor != context.cursor:
        write_text(settings, settings.follower_location, cursor)
    if not requests and not events:
        context.update_cursor(cursor)
        return dg.SkipReason(_summary(state, outside, graph.partitions, now))
    return dg.SensorResult(
        run_requests=[_run_request(request) for request in requests], asset_events=events, cursor=cursor
    )


def _restore(context: dg.SensorEvaluationContext, table: "Table", settings: Settings) -> FollowerState:
    """The state of the last tick: from Dagster, or from the copy beside the tables."""
    from cryptolake_assets.lake.files import read_text

    return FollowerState.restored(
        context.cursor, lambda: read_text(settings, settings.follower_location), str(table.metadata.table_uuid)
    )


def _take_in_files(state: FollowerState, table: "Table", settings: Settings) -> dict[datetime, int]:
    """Touches the hours of the files that came; returns the rows by hour that lie outside the partitions."""
    from cryptolake_assets.lake.bronze_files import added_files, current_sequence, oldest_sequence_by_hour
    from cryptolake_assets.transform.load_inputs import NEVER, load_run_inputs

    files = [*_files_before_the_old_start(state, table, settings), *added_files(table, state.sequence)]
    state.sequence = max(state.sequence, current_sequence(table))
    if not files:
        return {}
    known = load_run_inputs(settings, NEVER, NEVER)
    rows = rows_by_hour((file.hour, file.rows) for file in files)
    hours = split_hours(oldest_sequence_by_hour(files), rows, known.rules.earliest, known.rules.latest)
    for hour, sequence in hours.inside.items():
        state.touch(hour, sequence)
    if hours.outside and not hours.inside:
        # A run of the open hour takes the strays into quarantine though no hour of the graph was touched.
        open_hour = (known.rules.latest - timedelta(minutes=1)).replace(minute=0, second=0, microsecond=0)
        state.touch(max(open_hour, known.rules.earliest), state.sequence + 1)
    state.arrived({hour: rows[hour] for hour in hours.inside})
    return hours.outside


def _files_before_the_old_start(state: FollowerState, table: "Table", settings: Settings) -> list["BronzeFile"]:
    """Return the files seen earlier of hours that have come to lie in the partitions since: their start was moved."""
    from cryptolake_assets.captures.tracked_symbols import default_start_date
    from cryptolake_assets.lake.bronze_files import added_files

    start = datetime.combine(default_start_date(settings), datetime.min.time(), UTC)
    before, state.start = state.start, start.isoformat()
    if not before or start >= datetime.fromisoformat(before):
        return []
    return [
        file
        for file in added_files(table, 0)
        if start <= file.hour < datetime.fromisoformat(before) and file.sequence <= state.sequence
    ]


def _reports(
    rows: Mapping[datetime, int], sequence: int, table: "Table", stream: StreamResource
) -> list[dg.AssetMaterialization]:
    """Bronze's materializations of the hours."""
    if not rows:
        return []
    lag = stream.lag()
    return [
        dg.AssetMaterialization(
            asset_key=asset_keys.BRONZE,
            partition=hour_key(hour),
            metadata={
                "rows_added": added,
                "dagster/table_name": BRONZE_TRADES.full_name,
                "snapshot_id": str(table.metadata.current_snapshot_id),
                "sequence": sequence,
                **({} if lag is None else {"lag": lag}),
            },
        )
        for hour, added in rows.items()
    ]


@dataclass(frozen=True)
class _CoverageSeen:
    """What coverage proved when it was looked at last, and when all of Silver was held against it."""

    looked_at: str
    completeness: "CompletenessIndex"
    full_look_s: float


_coverage_seen: dict[Path, _CoverageSeen] = {}
"""By home. Only saves reading, and only where it is what the cursor says was looked at: a process that has another one
or none looks through all of Silver once."""


def _take_in_coverage(state: FollowerState, settings: Settings, head: int) -> None:
    """Touches the hours that hold bars which coverage has made complete since it was looked at last."""
    from cryptolake_assets.bronze.offsets import committed_offsets
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.quality.minute_bars import epoch_ms
    from cryptolake_assets.transform.load_inputs import load_run_inputs
    from cryptolake_assets.transform.silver_run import hours_to_complete

    snapshot_id = load_table(settings, OPS_COVERAGE).metadata.current_snapshot_id
    offsets = ",".join(f"{number}:{offset}" for number, offset in sorted(committed_offsets(settings).items()))
    gaps_id = load_table(settings, BRONZE_GAPS).metadata.current_snapshot_id
    looked_at = f"{snapshot_id}/{gaps_id}/{offsets}"
    owed = {hour for hour in map(datetime.fromisoformat, state.look_again) if hour.isoformat() not in state.pending}
    if looked_at == state.coverage and not owed:
        return
    known = load_run_inputs(settings)
    hours = _completed(settings, known, state.coverage, looked_at)
    for hour in owed:
        hours |= hours_to_complete(settings, known, epoch_ms(hour), epoch_ms(hour + HOUR))
    hours = {hour for hour in hours if known.rules.earliest <= hour <= known.rules.latest}
    # The run of a pending hour may have begun before this coverage was written: such an hour is looked at after it.
    waiting = {hour.isoformat() for hour in hours}.union(state.look_again) & state.pending.keys()
    for hour in hours:
        if hour.isoformat() not in waiting:
            state.touch(hour, head + 1)
    state.look_again = sorted(waiting)
    state.coverage = looked_at
    _take_in_archive(state, settings, known)


def _take_in_archive(state: FollowerState, settings: Settings, known: "RunInputs") -> None:
    """Touches every hour of the days that were loaded from the archive since it was looked at last: a re-issued file
    may lack trades that an earlier one had, which no new file tells of."""
    from cryptolake_assets.lake.coverage import archive_rows_since

    since = datetime.fromisoformat(state.archive) if state.archive else None
    loaded = archive_rows_since(settings, since)
    for day in sorted({day_of(datetime.fromtimestamp(row.connected_from_ms / 1000, UTC)) for row, _ in loaded}):
        for hour in (day + number * HOUR for number in range(24)):
            if known.rules.earliest <= hour <= known.rules.latest:
                state.touch(hour, WHOLE_HOUR)
    if loaded:
        state.archive = max(at for _, at in loaded).isoformat()


def _completed(settings: Settings, known: "RunInputs", before: str, looked_at: str) -> set[datetime]:
    """Hours with bars that may be marked complete: of what was covered since `before`, and now and then of all."""
    from cryptolake_assets.transform.silver_run import hours_to_complete

    seen = _coverage_seen.get(settings.home)
    if seen is None or seen.looked_at != before or time.monotonic() - seen.full_look_s > FULL_LOOK_S:
        _coverage_seen[settings.home] = _CoverageSeen(looked_at, known.completeness, time.monotonic())
        return hours_to_complete(settings, known)
    _coverage_seen[settings.home] = replace(seen, looked_at=looked_at, completeness=known.completeness)
    gained = known.completeness.gained(seen.completeness)
    return hours_to_complete(settings, known, *gained) if gained else set()


class FollowedRuns:
    """What Dagster knows about the runs of a table that follows Bronze."""

    def __init__(self, context: dg.SensorEvaluationContext, asset: dg.AssetKey) -> None:
        self._instance, self._asset = context.instance, asset

    def state_of_request(self, request: str) -> RunState:
        """Return the state of the newest run with that request; one that cannot be found has failed."""
        runs = self._instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: request}), limit=1)
        if not runs:
            return RunState.FAILED
        status = runs[0].status
        if status is dg.DagsterRunStatus.SUCCESS:
            return RunState.SUCCEEDED
        return RunState.IN_FLIGHT if status in IN_FLIGHT else RunState.FAILED

    @cached_property
    def busy_hours(self) -> frozenset[datetime]:
        """The hours of runs that are queued or running, also of those by hand or of a backfill."""
        runs = self._instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT))
        return frozenset(hour for run in runs if self._asset in (run.asset_selection or ()) for hour in hours_of(run))


def hours_of(run: dg.DagsterRun) -> list[datetime]:
    """Return the hours of a run's partition, or of its range."""
    bounds = [run.tags.get(RANGE_START_TAG, ""), run.tags.get(RANGE_END_TAG, "")]
    if not all(bounds):
        bounds = [run.tags.get(PARTITION_TAG, "")] * 2
    if not all(bounds):
        return []
    first, last = map(hour_of, bounds)
    return [first + number * HOUR for number in range((last - first) // HOUR + 1)]


def _run_request(request: SilverRequest) -> dg.RunRequest:
    keys = [hour_key(hour) for hour in request.hours]
    of_many = {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]} if len(keys) > 1 else {}
    return dg.RunRequest(
        run_key=request.key,
        partition_key=None if of_many else keys[0],
        asset_selection=[asset_keys.SILVER],
        asset_check_keys=silver.CHECK_KEYS,
        run_config=dg.RunConfig(ops={SILVER_OP: silver.SilverConfig(from_sequence=request.from_sequence or None)}),
        tags={
            REQUEST_TAG: request.request,
            **of_many,
            **({} if request.from_sequence else {"dagster/priority": "-1"}),
        },
    )


def _summary(state: FollowerState, outside: Mapping[datetime, int], partitions: GraphPartitions, now: float) -> str:
    """The tick's message when nothing is asked for."""
    parts = [f"Bronze is at sequence {state.sequence}"]
    running = sum(1 for entry in state.pending.values() if entry.requested is not None)
    held = sum(1 for entry in state.pending.values() if entry.requested is None and entry.retry_at > now)
    parts.append(f"{len(state.pending)} hours pending, {running} with a run, {held} waiting for a retry")
    if waiting := state.waiting(partitions.is_loaded):
        parts.append(
            f"{len(waiting)} from {hour_key(waiting[0])} on are no partitions of the loaded definitions: "
            "`cryptolake up` loads them"
        )
    if outside:
        parts.append(f"{sum(outside.values())} trades outside the partitions")
    return "; ".join(parts)


def definitions(graph: Graph) -> dg.Definitions:
    """Return the sensor."""

    @dg.sensor(
        name="bronze_follower",
        target=dg.AssetSelection.assets(asset_keys.SILVER),
        minimum_interval_seconds=graph.settings.follower_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Follows the Bronze stream: a Bronze materialization for each touched hour, a Silver run for pending "
            "hours of a day."
        ),
    )
    def bronze_follower(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return watch(context, graph)

    return dg.Definitions(sensors=[bronze_follower])
