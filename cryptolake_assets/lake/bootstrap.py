"""Create namespaces and tables and migrate existing ones; idempotent, and safe while the platform runs.

A lake holds the tables of all markets. A Spot lake of an earlier release gets its tables renamed first.
"""

from __future__ import annotations

import structlog

from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.lake.migrations import migrate, require_known_schema
from cryptolake_assets.lake.spot_home import location_of_new, rename_tables
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES, namespaces, table_properties
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


def bootstrap(settings: Settings) -> list[str]:
    """Create missing tables and apply pending migrations; return the actions, one line each.

    Raises `LakeSchemaError` if a later release migrated the lake, and the errors of the migrations, which stay pending.
    """
    from pyiceberg.exceptions import NamespaceAlreadyExistsError

    catalog = get_catalog(settings)
    actions: list[str] = []
    existing = {".".join(name) for name in catalog.list_namespaces()}
    for namespace in namespaces():
        if namespace in existing:
            continue
        try:
            location = settings.namespace_location_of(namespace)
            catalog.create_namespace(namespace, {"location": location} if location else {})
            actions.append(f"created {namespace}")
        except NamespaceAlreadyExistsError:
            continue
    # The trades table holds the schema number: check it first, to leave a lake of a later release unchanged.
    if catalog.table_exists(FUTURES.trades.identifier):
        require_known_schema(settings)
    actions += rename_tables(settings)
    actions += [f"created {spec.full_name}" for spec in TABLES if ensure_table(settings, spec)]
    actions += [f"applied {migration}" for migration in migrate(settings)]
    log.info("bootstrap_finished", actions=actions)
    return actions


def ensure_table(settings: Settings, spec: TableSpec) -> bool:
    """Create the table unless it exists; return whether it was created."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    catalog = get_catalog(settings)
    if catalog.table_exists(spec.identifier):
        return False
    # Not every catalog derives a table's location from its namespace.
    try:
        catalog.create_table(
            spec.identifier,
            location=location_of_new(settings, spec),
            schema=spec.iceberg_schema(),
            partition_spec=spec.partition_spec(),
            properties=table_properties(spec),
        )
    except TableAlreadyExistsError:
        return False
    return True
