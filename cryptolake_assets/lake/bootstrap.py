"""Makes namespaces and tables; safe to run again and while the platform works."""

from __future__ import annotations

import structlog

from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.lake.tables import TABLES, TableSpec, namespaces, table_properties
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


def bootstrap(settings: Settings) -> list[str]:
    """Makes what is missing and adds columns that are new in `tables.py`; returns what was made, by full name."""
    from pyiceberg.exceptions import NamespaceAlreadyExistsError

    catalog = get_catalog(settings)
    made: list[str] = []
    existing = {".".join(name) for name in catalog.list_namespaces()}
    for namespace in namespaces():
        if namespace in existing:
            continue
        try:
            catalog.create_namespace(namespace)
            made.append(namespace)
        except NamespaceAlreadyExistsError:
            continue
    made.extend(spec.full_name for spec in TABLES if _ensure_table(settings, spec))
    log.info("bootstrap_finished", made=made)
    return made


def _ensure_table(settings: Settings, spec: TableSpec) -> bool:
    from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError

    catalog = get_catalog(settings)
    try:
        table = catalog.load_table(spec.identifier)
    except NoSuchTableError:
        try:
            catalog.create_table(
                spec.identifier,
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
