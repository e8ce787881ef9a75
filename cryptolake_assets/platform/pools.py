"""Dagster's pools, made before the daemon runs.

The run queue makes a pool's limit when it first meets the pool, and only after it has let through every run that waits
for it in that pass: two runs of a pool that nobody has used yet would start together.
"""

from __future__ import annotations

from cryptolake_assets.lake.maintenance import works as maintenance
from cryptolake_assets.model.tables import pools
from cryptolake_assets.settings import Settings


def ensure_pools(settings: Settings) -> None:
    """Gives every pool of the graph the default limit of `dagster.yaml`, if it has none yet."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for pool in (*pools(), maintenance.POOL):
            instance.event_log_storage.initialize_concurrency_limit_to_default(pool)
