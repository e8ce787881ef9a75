"""Create namespaces and tables and migrate existing ones; idempotent, and safe while the platform runs.

A lake belongs to one family of markets, because bars, klines and coverage are keyed by symbol: `BTCUSDT` differs
between USD-M futures and Spot. USD-M and COIN-M share no symbol and may share a lake.
"""

from __future__ import annotations

import structlog

from cryptolake_assets.errors import LakeMarketError
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.lake.migrations import migrate, require_known_schema
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES, namespaces, table_properties
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

FAMILY_PROPERTY = "cryptolake.family"  # property of the trades table: the market family of the lake's symbols


def bootstrap(settings: Settings) -> list[str]:
    """Create missing tables and apply pending migrations; return the actions, one line each.

    Raises `LakeMarketError` if the lake holds another market family, `LakeSchemaError` if a later release migrated it.
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
    actions += [f"created {FUTURES.trades.full_name}"] if ensure_table(settings, FUTURES.trades) else []
    require_known_schema(settings)
    actions += [f"created {spec.full_name}" for spec in TABLES if ensure_table(settings, spec)]
    _ensure_family(settings)
    actions += [f"applied {migration}" for migration in migrate(settings)]
    log.info("bootstrap_finished", actions=actions)
    return actions


def _ensure_family(settings: Settings) -> None:
    table = get_catalog(settings).load_table(FUTURES.trades.identifier)
    family = settings.venue.family
    # Lakes older than the property hold futures.
    stored = table.properties.get(FAMILY_PROPERTY)
    if stored is None and table.metadata.current_snapshot_id is not None:
        stored = Family.FUTURES.value
    if stored not in (None, family):
        raise LakeMarketError(
            f"lake: {settings.warehouse_location} holds trades of {stored}, "
            f"but CRYPTOLAKE_MARKET is {settings.market}: "
            "the same symbol names different instruments in the two. Use a separate CRYPTOLAKE_HOME for this market "
            "(and a separate CRYPTOLAKE_WAREHOUSE, if it is set)."
        )
    if FAMILY_PROPERTY not in table.properties:
        with table.transaction() as transaction:
            transaction.set_properties({FAMILY_PROPERTY: family.value})


def ensure_table(settings: Settings, spec: TableSpec) -> bool:
    """Create the table unless it exists; return whether it was created."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    catalog = get_catalog(settings)
    if catalog.table_exists(spec.identifier):
        return False
    # Not every catalog derives a table's location from its namespace.
    namespace = settings.namespace_location_of(spec.namespace)
    try:
        catalog.create_table(
            spec.identifier,
            location=f"{namespace}/{spec.name}" if namespace else None,
            schema=spec.iceberg_schema(),
            partition_spec=spec.partition_spec(),
            properties=table_properties(spec),
        )
    except TableAlreadyExistsError:
        return False
    return True
