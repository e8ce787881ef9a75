"""Manual run of one partition of an asset on the running platform."""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptolake_assets.errors import PartError
from cryptolake_assets.platform import graphql, probes
from cryptolake_assets.platform.targets import run_name, unknown_asset
from cryptolake_assets.settings import Settings

POLL_S = 0.5
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def platform_is_running(settings: Settings) -> bool:
    """Return whether the Dagster webserver of these settings serves."""
    return probes.webserver_serves(settings.dagster_address)


def materialize_on_platform(
    settings: Settings, asset: str, partition: str | None, *, wait: bool, report: Callable[[str], object]
) -> str:
    """Launch the run through the run queue, and return a line about it.

    With `wait`, pass that line to `report` and return when the run has ended. Raises `ArgumentError` before the launch
    if the asset or the partition does not exist, `PartError` with the cause if the run does not succeed.
    """
    key, name = asset.split("/"), run_name(asset, partition)
    target = graphql.find_target(settings, key)
    if target is None:
        raise unknown_asset(asset, graphql.asset_names(settings))
    target.check(partition)
    run_id = graphql.launch_asset(settings, key, partition)
    url = graphql.RUN_URL.format(address=settings.dagster_pages, run_id=run_id)
    launched = f"launched {name}: {url}"
    if not wait:
        return launched
    report(launched)
    while (state := graphql.run_status(settings, run_id)) not in _ENDED:
        time.sleep(POLL_S)
    if state == "FAILURE":
        raise PartError(f"dagster: the run of {name} failed: {graphql.failure_cause(settings, run_id)}\nSee {url}.")
    if state != "SUCCESS":
        raise PartError(f"dagster: the run of {name} ended as {state}. See {url}.")
    return f"materialized {name}: {url}"
