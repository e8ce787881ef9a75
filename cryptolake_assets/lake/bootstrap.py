"""Makes namespaces and tables; safe to run again and while the platform works. A lake belongs to a family of markets.

Bars, klines and coverage are found by symbol. `BTCUSDT` is one thing in USD-M futures and another one in Spot, so these
two have lakes of their own; USD-M and COIN-M share no symbol and may share a lake.
"""

from __future__ import annotations

import structlog

from cryptolake_assets.errors import LakeMarketError
from cryptolake_assets.exchange.venues import Family
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.lake.tables import BRONZE_TRADES, TABLES, TableSpec, namespaces, table_properties
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

FAMILY_PROPERTY = "cryptolake.family"
"""Of the table of trades: whose symbols the lake's are."""


def bootstrap(settings: Settings) -> list[str]:
    """Makes what is missing and adds columns that are new in `tables.py`; returns what was made, by full name. Raises
    `LakeMarketError` for a lake of other markets."""
    from pyiceberg.exceptions import NamespaceAlreadyExistsError

    catalog = get_catalog(settings)
    made: list[str] = []
    existing = {".".join(name) for name in catalog.list_namespaces()}
    for namespace in namespaces():
        if namespace in existing:
            continue
        try:
            location = settings.namespace_location_of(namespace)
            catalog.create_namespace(namespace, {"location": location} if location else {})
            made.append(namespace)
        except NamespaceAlreadyExistsError:
            continue
    made.extend(spec.full_name for spec in TABLES if ensure_table(settings, spec))
    _ensure_family(settings)
    log.info("bootstrap_finished", made=made)
    return made


def _ensure_family(settings: Settings) -> None:
    table = get_catalog(settings).load_table(BRONZE_TRADES.identifier)
    family = settings.venue.family
    # Lakes that are older than the property are of futures.
    held = table.properties.get(FAMILY_PROPERTY)
    if held is None and table.metadata.current_snapshot_id is not None:
        held = Family.FUTURES.value
    if held not in (None, family):
        raise LakeMarketError(
            f"lake: {settings.warehouse_location} holds trades of {held}, and CRYPTOLAKE_MARKET is {settings.market}. "
            "Their symbols may be the same words for other things. Give this market a CRYPTOLAKE_HOME (and a "
            "CRYPTOLAKE_WAREHOUSE, where it is set) of its own."
        )
    if FAMILY_PROPERTY not in table.properties:
        with table.transaction() as transaction:
            transaction.set_properties({FAMILY_PROPERTY: family.value})


def ensure_table(settings: Settings, spec: TableSpec) -> bool:
    from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError

    catalog = get_catalog(settings)
    # Not every catalog puts a table where its namespace is.
    namespace = settings.namespace_location_of(spec.namespace)
    try:
        table = catalog.load_table(spec.identifier)
    except NoSuchTableError:
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
    missing = set(spec.column_names) - set(table.schema().column_names)
    if missing:
        with table.update_schema() as update:
            update.union_by_name(spec.iceberg_schema())
        log.info("columns_added", table=spec.full_name, columns=sorted(missing))
    return bool(missing)
