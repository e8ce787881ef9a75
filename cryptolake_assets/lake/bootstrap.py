"""Create namespaces and tables and migrate existing ones; idempotent, and safe while the platform runs.

A lake belongs to one family of markets, because bars, klines and coverage are keyed by symbol: `BTCUSDT` differs
between USD-M futures and Spot. USD-M and COIN-M share no symbol and may share a lake.
"""

from __future__ import annotations

import structlog

from cryptolake_assets.errors import LakeMarketError
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.lake.migrations import migrate, require_known_schema
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES, namespaces, table_properties
from cryptolake_assets.model.trade_tables import BRONZE_TRADES
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

FAMILY_PROPERTY = "cryptolake.family"  # property of the trades table: the market family of the lake's symbols


def bootstrap(settings: Settings) -> list[str]:
    """Create missing tables and apply pending migrations; return the actions, one line each.

    Raises `LakeMarketError` if the lake is of other markets, `LakeSchemaError` if a later release migrated it.
    """
    from pyiceberg.exceptions import NamespaceAlreadyExistsError

    catalog = get_catalog(settings)
    done: list[str] = []
    existing = {".".join(name) for name in catalog.list_namespaces()}
    for namespace in namespaces():
        if namespace in existing:
            continue
        try:
            location = settings.namespace_location_of(namespace)
            catalog.create_namespace(namespace, {"location": location} if location else {})
            done.append(f"made {namespace}")
        except NamespaceAlreadyExistsError:
            continue
    # The trades table holds the schema number: check it before changing a lake of a later release.
    done += [f"made {BRONZE_TRADES.full_name}"] if ensure_table(settings, BRONZE_TRADES) else []
    require_known_schema(settings)
    done += [f"made {spec.full_name}" for spec in TABLES if ensure_table(settings, spec)]
    _ensure_family(settings)
    done += [f"applied {migration}" for migration in migrate(settings)]
    log.info("bootstrap_finished", done=done)
    return done


def _ensure_family(settings: Settings) -> None:
    table = get_catalog(settings).load_table(BRONZE_TRADES.identifier)
    family = settings.venue.family
    # Lakes older than the property hold futures.
    known = table.properties.get(FAMILY_PROPERTY)
    if known is None and table.metadata.current_snapshot_id is not None:
        known = Family.FUTURES.value
    if known not in (None, family):
        raise LakeMarketError(
            f"lake: {settings.warehouse_location} holds trades of {known}, and CRYPTOLAKE_MARKET is {settings.market}. "
            "Their symbols may be the same words for other things. Give this market a CRYPTOLAKE_HOME (and a "
            "CRYPTOLAKE_WAREHOUSE, where it is set) of its own."
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
