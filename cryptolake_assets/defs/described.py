"""What the graph says of a table besides its rows: who owns it, its columns, and what they are made of."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from cryptolake_assets.model.measures import Measure, lineage
from cryptolake_assets.model.table_spec import TableSpec

OWNERS = ["team:market-data"]


def table_metadata(table: TableSpec) -> dict[str, Any]:
    """Name and columns, as Dagster's catalog shows them."""
    return {
        "dagster/table_name": table.full_name,
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    column.name,
                    column.type,
                    description=column.doc,
                    constraints=dg.TableColumnConstraints(nullable=column.name not in table.key),
                )
                for column in table.columns
            ],
            constraints=dg.TableConstraints([f"unique ({', '.join(table.key)})"]) if table.key else None,
        ),
    }


def column_lineage(measures: Sequence[Measure], source: TableSpec, source_key: dg.AssetKey) -> dict[str, Any]:
    """Which columns of the source each column is made of."""
    made_of = lineage(measures, source.column_names)
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                name: [dg.TableColumnDep(asset_key=source_key, column_name=column) for column in columns]
                for name, columns in made_of.items()
            }
        )
    }
