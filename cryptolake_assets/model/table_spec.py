"""What a table is: name, columns, key and partitioning, and the schemas that are made of them.

The catalog's name is part of a table's full name and of the catalog's own records, so Spark and PyIceberg share
`CATALOG`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptolake_assets.model.columns import TIME, Column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema

CATALOG = "cryptolake"

_SPARK_TYPES = {"long": "bigint", TIME: "timestamp"}
"""Spark's names where they are not Iceberg's."""

APPENDED_BY_SPARK = {"write.distribution-mode": "none", "write.spark.fanout.enabled": "true"}
"""Properties of the tables that Structured Streaming appends to: rows stay in the tasks that read them."""

DUCKDB_TYPES = {"long": "BIGINT", "int": "INTEGER", "string": "VARCHAR", "binary": "BLOB", TIME: "TIMESTAMPTZ"}
"""DuckDB's names where they are not Iceberg's."""


def spark_type(iceberg_type: str) -> str:
    """Spark's name of a type."""
    return _SPARK_TYPES.get(iceberg_type, iceberg_type.replace(" ", ""))


@dataclass(frozen=True)
class TableSpec:
    """One table. `key` is unique in the tables that are not append-only; `partition` is (column, transform).

    A table is `rewritten` if its writer itself keeps the files few: nobody else compacts it or rewrites its manifests.
    It is `pooled` if runs of the graph write it, one run at a time.
    """

    namespace: str
    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    partition: tuple[str, str] | None = None
    rewritten: bool = False
    pooled: bool = False
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def identifier(self) -> tuple[str, str]:
        """As PyIceberg names it, within the catalog."""
        return (self.namespace, self.name)

    @property
    def full_name(self) -> str:
        """As SQL names it: `cryptolake.silver.futures_ohlcv_1m`."""
        return f"{CATALOG}.{self.namespace}.{self.name}"

    @property
    def writer_pool(self) -> str:
        """The Dagster pool of the runs that write it, if it is `pooled`."""
        return f"{self.namespace}_{self.name}"

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def iceberg_schema(self) -> Schema:
        """Field ids from 1 in column order; nothing is `required`, because Spark's streaming rows are nullable."""
        from pyiceberg.schema import Schema
        from pyiceberg.types import NestedField

        return Schema(
            *(
                NestedField(field_id=number, name=column.name, type=column.type, required=False, doc=column.doc)
                for number, column in enumerate(self.columns, start=1)
            )
        )

    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema that PyIceberg accepts for writes to this table."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        return schema_to_pyarrow(self.iceberg_schema(), include_field_ids=False)

    def duckdb_type(self, column: str) -> str:
        """DuckDB's type name of a column."""
        kind = self._type(column)
        return DUCKDB_TYPES.get(kind, kind.replace(" ", ""))

    def _type(self, column: str) -> str:
        return next(item.type for item in self.columns if item.name == column)

    def partition_spec(self) -> PartitionSpec:
        from pyiceberg.partitioning import PartitionField, PartitionSpec
        from pyiceberg.transforms import parse_transform

        if self.partition is None:
            return PartitionSpec()
        column, transform = self.partition
        source_id = self.column_names.index(column) + 1
        return PartitionSpec(
            PartitionField(
                source_id=source_id, field_id=1000, transform=parse_transform(transform), name=f"{column}_{transform}"
            )
        )


def stream_table(name: str, doc: str, contract: tuple[Column, ...], kafka_note: str = "") -> TableSpec:
    """Return the Bronze table of a stream's events: the contract and where Kafka holds the event; append-only.

    `kafka_note` is added to what the columns of Kafka mean.
    """
    return TableSpec(
        namespace="bronze",
        name=name,
        doc=doc,
        columns=(*contract, *kafka_columns(kafka_note)),
        partition=("event_time", "hour"),
        properties=APPENDED_BY_SPARK,
    )


def kafka_columns(note: str = "") -> tuple[Column, ...]:
    """Return the columns that say where Kafka holds an event; `note` is added to what they mean."""
    return (
        Column("kafka_partition", "int", f"Kafka partition{note}"),
        Column("kafka_offset", "long", f"Kafka offset{note}"),
        Column("kafka_timestamp", TIME, f"Kafka record time{note}"),
    )
