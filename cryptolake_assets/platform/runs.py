"""Runs one partition of one asset by hand: on the running platform, or without it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from filelock import FileLock

from cryptolake_assets.errors import CryptolakeError, PartError
from cryptolake_assets.platform import graphql, probes
from cryptolake_assets.platform.code_servers import locations, materialize_lock
from cryptolake_assets.platform.parts import dagster_files
from cryptolake_assets.platform.run_alerts import failure_cause
from cryptolake_assets.platform.targets import Partitions, Target, unknown_asset
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

POLL_S = 0.5
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def platform_answers(settings: Settings) -> bool:
    """Whether the Dagster webserver of these settings serves."""
    return probes.webserver_answers(settings.dagster_address)


def materialize_on_platform(
    settings: Settings, asset: str, partition: str | None, *, wait: bool, tell: Callable[[str], object]
) -> str:
    """Launch the run, which keeps its place among the others in the queue, and tell so; return a line about it.

    With `wait`, return when the run has ended. Raises `ArgumentError` before the launch if there is no such asset or
    partition, `PartError` with the cause if the run was no success.
    """
    key, name = asset.split("/"), _named(asset, partition)
    target = graphql.find_target(settings, key)
    if target is None:
        raise unknown_asset(asset, graphql.asset_names(settings))
    target.check(partition)
    run_id = graphql.launch_asset(settings, key, partition)
    url = graphql.RUN_URL.format(address=settings.dagster_pages, run_id=run_id)
    launched = f"launched {name}: {url}"
    if not wait:
        return launched
    tell(launched)
    while (state := graphql.run_status(settings, run_id)) not in _ENDED:
        time.sleep(POLL_S)
    if state == "FAILURE":
        raise PartError(f"dagster: the run of {name} failed: {graphql.failure_cause(settings, run_id)}\nSee {url}.")
    if state != "SUCCESS":
        raise PartError(f"dagster: the run of {name} ended as {state}. See {url}.")
    return f"materialized {name}: {url}"


def materialize_here(settings: Settings, asset: str, partition: str | None) -> str:
    """Run it in this process; return a line about it. Raises what `materialize_on_platform` raises."""
    import dagster as dg

    definitions = _definitions(graphql.location_of(asset.split("/")))
    target = _targets(definitions).get(asset)
    if target is None:
        raise unknown_asset(asset, _all_names())
    target.check(partition)
    for path, text in dagster_files(settings).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(materialize_lock(settings)),
        dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
    ):
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(asset.split("/"))],
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
        )
        if not result.success:
            step, cause = failure_cause(instance, result.dagster_run)
            raise PartError(
                f"dagster: the run of {_named(asset, partition)} failed: {f'{step}: ' if step else ''}{cause}"
            )
    return f"materialized {_named(asset, partition)}"


def _named(asset: str, partition: str | None) -> str:
    return f"{asset} [{partition}]" if partition else asset


def _definitions(location_name: str) -> dg.Definitions:
    """Return the graph of a code location, loaded as its code server loads it."""
    from dagster._utils.warnings import BetaWarning

    (module,) = (location.module for location in locations() if location.name == location_name)
    warnings.simplefilter("ignore", BetaWarning)  # a user of the command cannot act on it
    definitions: dg.Definitions = import_module(module).defs
    return definitions


def _targets(definitions: dg.Definitions) -> dict[str, Target]:
    """Return the assets of a code location by name."""
    import dagster as dg

    def partitions(definition: dg.PartitionsDefinition | None) -> Partitions | None:
        if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
            return None
        return Partitions(definition.get_partition_keys(), definition.fmt)

    graph = definitions.resolve_asset_graph()
    return {
        key.to_user_string(): Target(key.to_user_string(), node.is_materializable, partitions(node.partitions_def))
        for key in graph.get_all_asset_keys()
        for node in (graph.get(key),)
    }


def _all_names() -> list[str]:
    """Return the names of the assets of every code location that loads."""
    names: list[str] = []
    for location in locations():
        try:
            names += _targets(_definitions(location.name))
        except CryptolakeError:  # another location's fault says nothing of the name that was asked for
            continue
    return names
