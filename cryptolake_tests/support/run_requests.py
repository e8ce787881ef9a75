"""Run requests of the follower: their hours, and a run as the daemon launches it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dagster as dg

from cryptolake_assets.defs import asset_keys, silver
from cryptolake_assets.defs.follower import Followed
from cryptolake_assets.defs.partitions import RANGE_END_TAG, RANGE_START_TAG, hour_key, hour_of
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.windows import HOUR


def followed_by_runs(family: Family) -> Followed:
    """Return the follower of a family's bars that requests also the runs that a tick would execute itself."""
    return replace(silver.followed(family), in_tick=None)


def requested_hours(request: dg.RunRequest) -> list[str]:
    """Return the hours of the request, as partition keys."""
    if request.partition_key is not None:
        return [request.partition_key]
    first, last = (hour_of(request.tags[tag]) for tag in (RANGE_START_TAG, RANGE_END_TAG))
    return [hour_key(first + number * HOUR) for number in range((last - first) // HOUR + 1)]


def run_silver_request(
    job: dg.JobDefinition, instance: dg.DagsterInstance, request: dg.RunRequest, **more: Any
) -> dg.ExecuteInProcessResult:
    """Run a request of the follower."""
    return job.execute_in_process(
        instance=instance,
        asset_selection=[asset_keys.FUTURES.bars],
        partition_key=request.partition_key,
        run_config=request.run_config,
        tags=dict(request.tags),
        **more,
    )
