"""Manual run of one partition of an asset in this process, without a running platform."""

from __future__ import annotations

import warnings
from importlib import import_module

import dagster as dg

from cryptolake_assets.defs.instance.orphaned_runs import local_run_lock
from cryptolake_assets.defs.instance.run_alerts import failure_cause
from cryptolake_assets.errors import CryptolakeError, PartError
from cryptolake_assets.platform import graphql
from cryptolake_assets.platform.code_servers import location_named, locations
from cryptolake_assets.platform.parts import dagster_files
from cryptolake_assets.platform.targets import Partitions, Target, run_name, unknown_asset
from cryptolake_assets.settings import Settings


def materialize_here(settings: Settings, asset: str, partition: str | None) -> str:
    """Run one partition of an asset; return a message. Raises the same errors as `materialize_on_platform`."""
    definitions = _definitions(settings, graphql.location_of(asset.split("/")))
    target = _targets(definitions).get(asset)
    if target is None:
        raise unknown_asset(asset, _all_names(settings))
    target.check(partition)
    for path, text in dagster_files(settings).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (
        local_run_lock(settings),
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
                f"dagster: the run of {run_name(asset, partition)} failed: {f'{step}: ' if step else ''}{cause}"
            )
    return f"materialized {run_name(asset, partition)}"


def _definitions(settings: Settings, location_name: str) -> dg.Definitions:
    """Return the definitions of a code location for these settings."""
    warnings.simplefilter("ignore", dg.BetaWarning)  # users of the command cannot act on it
    definitions: dg.Definitions = import_module(location_named(location_name).module).build_definitions(settings)
    return definitions


def _targets(definitions: dg.Definitions) -> dict[str, Target]:
    """Return the assets of a code location by name."""

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


def _all_names(settings: Settings) -> list[str]:
    """Return the names of the assets of every code location that loads."""
    names: list[str] = []
    for location in locations():
        try:
            names += _targets(_definitions(settings, location.name))
        except CryptolakeError:  # an error of another location does not matter for the requested name
            continue
    return names
