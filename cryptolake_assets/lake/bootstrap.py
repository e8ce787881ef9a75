"""Makes namespaces and tables, and brings those of earlier releases to the present schema; safe to run again and while
the platform works. A lake belongs to a family of markets.

Bars, klines and coverage are found by symbol. `BTCUSDT` is one thing in USD-M futures and another one in Spot, so these
two have lakes of their own; USD-M and COIN-M share no symbol and may share a lake.
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

FAMILY_PROPERTY = "cryptolake.family"
"""Of the table of trades: whose symbols the lake's are."""


def bootstrap(settings: Settings) -> list[str]:
    """Make what is missing and apply pending migrations; return what was done, a line each.

    Raises `LakeMarketError` for a lake of other markets and `LakeSchemaError` for one of a later release.
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
    # The first table holds the number of the schema: a lake of a later release is left as it is.
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
    # Lakes that are older than the property are of futures.
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
    """Make the table unless it is there; return whether it was made."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    catalog = get_catalog(settings)
    if catalog.table_exists(spec.identifier):
        return False
    # Not every catalog puts a table where its namespace is.
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
