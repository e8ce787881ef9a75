"""The registry of lake tables that this project's code creates and writes. Pure.

Each group of tables is defined in its own module, such as `trade_tables`; `table_spec` derives the Iceberg, Arrow and
Spark schemas. dbt's marts are in `mart_tables`.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptolake_assets.model.derivatives_tables import (
    BRONZE_FUNDING_RAW,
    BRONZE_LIQUIDATIONS,
    BRONZE_MARK_PRICES,
    BRONZE_OPEN_INTEREST_RAW,
    SILVER_FUNDING,
    SILVER_LIQUIDATIONS,
    SILVER_MARK_PRICE,
    SILVER_OPEN_INTEREST,
)
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.ops_tables import OPS_COVERAGE, OPS_RUN_METRICS
from cryptolake_assets.model.source_tables import (
    BRONZE_COINGECKO_RAW,
    BRONZE_FEAR_GREED_RAW,
    SILVER_COINGECKO_GLOBAL,
    SILVER_COINGECKO_MARKETS,
    SILVER_FEAR_GREED,
)
from cryptolake_assets.model.table_spec import TableSpec

# Iceberg properties of every table.
COMMON_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.retry.num-retries": "20",
    "commit.retry.min-wait-ms": "50",
}

TABLES = (
    *(table for tables in FAMILY_TABLES.values() for table in tables),
    BRONZE_FEAR_GREED_RAW,
    BRONZE_COINGECKO_RAW,
    SILVER_FEAR_GREED,
    SILVER_COINGECKO_MARKETS,
    SILVER_COINGECKO_GLOBAL,
    BRONZE_FUNDING_RAW,
    SILVER_FUNDING,
    BRONZE_OPEN_INTEREST_RAW,
    SILVER_OPEN_INTEREST,
    BRONZE_MARK_PRICES,
    SILVER_MARK_PRICE,
    BRONZE_LIQUIDATIONS,
    SILVER_LIQUIDATIONS,
    OPS_COVERAGE,
    OPS_RUN_METRICS,
)

POOLED_TABLES = tuple(table for table in TABLES if table.pooled)  # written by Dagster runs, one run at a time each


def namespaces() -> Iterator[str]:
    """Yield each namespace once, in table order; dbt's comes last."""
    yield from dict.fromkeys([*(table.namespace for table in TABLES), MARTS_NAMESPACE])


def table_properties(spec: TableSpec) -> dict[str, str]:
    """Return the Iceberg properties of a table: the common ones and its own."""
    return {**COMMON_PROPERTIES, "comment": spec.doc, **spec.properties}
