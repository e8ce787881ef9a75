"""Write docs/dictionary.md and a data contract per table (docs/contracts) from the table specs, and docs/checks.md from
the asset graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cryptolake_assets.lake.migrations import MIGRATIONS
from cryptolake_assets.model import mart_tables
from cryptolake_assets.model.columns import LEVELS, Column
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.tables import TABLES, namespaces
from cryptolake_assets.settings import PROJECT_ROOT

DICTIONARY = PROJECT_ROOT / "docs" / "dictionary.md"
CONTRACTS = PROJECT_ROOT / "docs" / "contracts"
CHECKS = PROJECT_ROOT / "docs" / "checks.md"

HEAD = """\
# Data dictionary

Every table of the lake with its columns: type, unit, meaning. Generated from `cryptolake_assets/model/` by
`make dictionary`. [docs/contracts](contracts) has the same as a data contract per table (Open Data Contract Standard).

Types are Iceberg's. All decimals are exact. Volumes and quantities are in base currency; where `exchange` is
`binance_futures_coin` they are contracts. A key is unique; a table without a key is append-only and may hold
duplicates.
"""
CHECKS_HEAD = """\
# Checks

What each asset check requires, and whether it blocks: a candidate that fails a blocking check is not published, and
downstream assets wait. Generated from the asset graph by `make dictionary`. Each test of a dbt model is a blocking
check of its mart (`dbt_project/models`). Results: [quality](quality.md).

| check | blocks | requirement | assets |
|---|---|---|---|
"""
LOGICAL_TYPES = {
    "string": "string",
    LEVELS: "array",
    "binary": "string",
    "boolean": "boolean",
    "int": "integer",
    "long": "integer",
    "double": "number",
    "date": "date",
    "timestamptz": "timestamp",
}


def tables() -> tuple[TableSpec, ...]:
    """Return the specs of all tables, dbt's marts last."""
    marts = [value for value in vars(mart_tables).values() if isinstance(value, TableSpec)]
    return (*TABLES, *mart_tables.BARS_OF_TIMEFRAMES, *marts)


def dictionary() -> str:
    """Return docs/dictionary.md."""
    found = tables()
    parts = [HEAD]
    for namespace in namespaces():
        parts.append(f"\n## {namespace.capitalize()}\n")
        for spec in (spec for spec in found if spec.namespace == namespace):
            parts += _section(spec)
    return "".join(parts)


def _section(spec: TableSpec) -> Iterator[str]:
    name = ".".join(spec.identifier)
    yield f"\n### {name}\n\n{spec.doc}\n\n"
    yield f"Key: {', '.join(f'`{column}`' for column in spec.key) or 'none'}. Partitioned by: {_partitioning(spec)}. "
    yield f"Written by: {', '.join(f'`{owner}`' for owner in spec.owners)}.\n\n"
    yield "| column | type | unit | meaning |\n|---|---|---|---|\n"
    for column in spec.columns:
        yield f"| `{column.name}` | {column.type} | {column.unit} | {column.doc.replace('|', chr(92) + '|')} |\n"


def _partitioning(spec: TableSpec) -> str:
    return "nothing" if spec.partition is None else f"{spec.partition[1]} of `{spec.partition[0]}`"


def contract(spec: TableSpec) -> str:
    """Return the data contract of a table, in YAML by the Open Data Contract Standard 3.0."""
    name = ".".join(spec.identifier)
    document = {
        "apiVersion": "v3.0.2",
        "kind": "DataContract",
        "id": f"cryptolake.{name}",
        "name": name,
        "version": f"{len(MIGRATIONS)}.0.0",  # the schema version of the lake
        "status": "active",
        "description": {"purpose": spec.doc},
        "schema": [
            {
                "name": spec.name,
                "physicalName": spec.full_name,
                "physicalType": "iceberg table",
                "logicalType": "object",
                "description": spec.doc,
                "properties": [_property(spec, column) for column in spec.columns],
                "customProperties": [{"property": "writtenBy", "value": list(spec.owners)}],
            }
        ],
    }
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text


def _property(spec: TableSpec, column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": column.name,
        "logicalType": LOGICAL_TYPES.get(column.type, "number"),
        "physicalType": column.type,
        "description": column.doc,
        "required": column.name in spec.key,
    }
    if column.name in spec.key:
        found |= {"primaryKey": True, "primaryKeyPosition": spec.key.index(column.name) + 1}
    if spec.partition is not None and column.name == spec.partition[0]:
        found |= {"partitioned": True, "partitionKeyPosition": 1}
        found["customProperties"] = [{"property": "partitionTransform", "value": spec.partition[1]}]
    if column.unit:
        found.setdefault("customProperties", []).append({"property": "unit", "value": column.unit})
    return found


def checks() -> str:
    """Return docs/checks.md."""
    from cryptolake_assets.definitions import build_definitions

    graph = build_definitions().resolve_asset_graph()
    assets: dict[tuple[str, str, bool], list[str]] = {}
    for key in graph.asset_check_keys:
        spec = graph.get_check_spec(key)
        assets.setdefault((key.name, spec.description or "", spec.blocking), []).append(key.asset_key.to_user_string())
    parts = [CHECKS_HEAD]
    for (name, requirement, blocks), names in sorted(assets.items(), key=lambda item: (not item[0][2], item[0])):
        listed = ", ".join(f"`{asset}`" for asset in sorted(names))
        parts.append(f"| `{name}` | {'yes' if blocks else 'no'} | {requirement} | {listed} |\n")
    return "".join(parts)


def documents() -> dict[Path, str]:
    """Return every generated document by its path."""
    contracts = {CONTRACTS / f"{'.'.join(spec.identifier)}.yaml": contract(spec) for spec in tables()}
    return {DICTIONARY: dictionary(), CHECKS: checks(), **contracts}


def main() -> None:
    """Write all documents; delete contracts of removed tables."""
    CONTRACTS.mkdir(exist_ok=True)
    found = documents()
    for path in CONTRACTS.glob("*.yaml"):
        if path not in found:
            path.unlink()
    for path, text in found.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
