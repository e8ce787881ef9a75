"""Common properties of table assets: key, owner, layer, writer pool, columns and column lineage."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.resources import RETRIES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.measures import Measure, lineage
from cryptolake_assets.model.table_spec import TableSpec

OWNERS = ["team:market-data"]

TITLES = {Family.FUTURES: "USD-M and COIN-M futures", Family.SPOT: "Spot"}  # of the families, in descriptions


def table_asset(
    table: TableSpec,
    partitions: dg.PartitionsDefinition,
    *,
    cadence: str,
    kinds: Collection[str],
    family: Family | None = None,
    metadata: Mapping[str, Any] | None = None,
    **asset_arguments: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator `dg.asset` for a table, of a market family if it has one; `asset_arguments` are passed to
    `dg.asset`."""
    asset: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key=asset_keys.of_table(table),
        partitions_def=partitions,
        group_name=table.namespace,
        kinds=set(kinds),
        owners=OWNERS,
        tags={"layer": table.namespace, "cadence": cadence, **family_tag(family)},
        metadata={**table_metadata(table), **(metadata or {})},
        pool=table.writer_pool if table.pooled else None,
        output_required=False,
        retry_policy=RETRIES,
        **asset_arguments,
    )
    return asset


def family_tag(family: Family | None) -> dict[str, str]:
    """Return the tag of a market family: `futures` or `spot`."""
    return {} if family is None else {"market_family": family.value}


def code_version(table: TableSpec, *texts: str) -> str:
    """Return a hash of the table's columns, their types, and the texts that define its rows and checks."""
    columns = [f"{column.name} {column.type}" for column in table.columns]
    return hashlib.sha256("\n".join([*columns, *texts]).encode()).hexdigest()[:12]


def table_metadata(table: TableSpec) -> dict[str, Any]:
    """Return table name and columns as metadata for Dagster's catalog."""
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
    """Return the source columns of each column as metadata."""
    source_columns = lineage(measures, source.column_names)
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                name: [dg.TableColumnDep(asset_key=source_key, column_name=column) for column in columns]
                for name, columns in source_columns.items()
            }
        )
    }
