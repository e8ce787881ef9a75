"""Dagster's pools: a pool admits one run at a time, so each table has one writer at a time.

The run queue creates a pool's limit when it first sees the pool, but only after that pass has started all waiting runs:
two runs of an unused pool would start together. Therefore the pools are created before a code server, without which no
run starts, serves for the first time.
"""

from __future__ import annotations

import dagster as dg

from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.tables import POOLED_TABLES

# By family: runs that load the archive into its table of trades.
ARCHIVE_POOLS = {family: f"bronze_{family}_trades_archive" for family in Family}

MARTS_POOL = MARTS_NAMESPACE  # dbt's runs: one merges at a time

MAINTENANCE_POOL = "maintenance"  # table maintenance: concurrent runs would invalidate each other's plans


def pools() -> tuple[str, ...]:
    """Return every pool of the graph."""
    return (*(table.writer_pool for table in POOLED_TABLES), *ARCHIVE_POOLS.values(), MARTS_POOL, MAINTENANCE_POOL)


def ensure_pools(instance: dg.DagsterInstance) -> None:
    """Create missing pools of the graph with the default limit of `dagster.yaml`; existing limits stay."""
    from sqlalchemy.exc import SQLAlchemyError

    storage = instance.event_log_storage
    known = storage.get_concurrency_keys()
    for pool in pools():
        if pool in known:
            continue
        try:
            storage.initialize_concurrency_limit_to_default(pool)
        except SQLAlchemyError:
            # Another machine's code server created the pool first: in PostgreSQL Dagster's insert then fails.
            if pool not in storage.get_concurrency_keys():
                raise
