"""Read the tables that dbt creates from the catalog; `dbt_project/` defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.model.columns import Column
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from cryptolake_assets.settings import Settings


def marts_tables(settings: Settings) -> tuple[TableSpec, ...]:
    """Return the existing marts, sorted by name; empty before dbt's first run."""
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    catalog = get_catalog(settings)
    try:
        names = sorted(identifier[-1] for identifier in catalog.list_tables(MARTS_NAMESPACE))
    except NoSuchNamespaceError:
        return ()
    found = []
    for name in names:
        try:
            found.append(spec_of(catalog.load_table((MARTS_NAMESPACE, name))))
        except NoSuchTableError:  # dropped since it was listed
            continue
    return tuple(found)


def spec_of(table: Table) -> TableSpec:
    """Return the specification of a catalog table: name, meaning and columns, without write properties."""
    namespace, name = table.name()[-2:]
    return TableSpec(
        namespace=namespace,
        name=name,
        doc=table.properties.get("comment", ""),
        columns=tuple(Column(field.name, str(field.field_type), field.doc or "") for field in table.schema().fields),
        rewritten=True,
    )
