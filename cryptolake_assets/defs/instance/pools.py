"""Dagster's pools: a table has one writer at a time, because each pool holds one run.

The run queue makes a pool's limit when it first meets the pool, and only after it has let through every run that waits
for it in that pass: two runs of a pool that nobody has used yet would start together. So the pools are made before a
code server, without which no run starts, serves for the first time.
"""

from __future__ import annotations

import dagster as dg

from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.tables import POOLED_TABLES

ARCHIVE_POOL = "bronze_futures_trades_archive"
"""The pool of the runs that load the archive into `BRONZE_TRADES`."""

MARTS_POOL = MARTS_NAMESPACE
"""The pool of dbt's runs: one of them merges at a time."""

MAINTENANCE_POOL = "maintenance"
"""The pool of the runs that maintain tables: they would undo each other's plans."""


def pools() -> tuple[str, ...]:
    """Return every pool of the graph."""
    return (*(table.writer_pool for table in POOLED_TABLES), ARCHIVE_POOL, MARTS_POOL, MAINTENANCE_POOL)


def ensure_pools(instance: dg.DagsterInstance) -> None:
    """Give every pool of the graph that is new the default limit of `dagster.yaml`; a limit that was set stays."""
    from sqlalchemy.exc import SQLAlchemyError

    storage = instance.event_log_storage
    known = storage.get_concurrency_keys()
    for pool in pools():
        if pool in known:
            continue
        try:
            storage.initialize_concurrency_limit_to_default(pool)
        except SQLAlchemyError:
            # Another machine's code server made it meanwhile: in PostgreSQL Dagster's insert then ends its transaction.
            if pool not in storage.get_concurrency_keys():
                raise
