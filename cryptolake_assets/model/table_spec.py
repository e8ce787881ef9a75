"""Table definition: name, columns, key and partitioning, and the schemas derived from them.

The catalog name is part of a table's full name and of the catalog's own records, so Spark and PyIceberg share
`CATALOG`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from cryptolake_assets.model.columns import LEVELS, PRICE, QUANTITY, TIME, Column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.types import IcebergType

CATALOG = "cryptolake"

_PRICE_AND_QTY = (PRICE.replace(" ", ""), QUANTITY.replace(" ", ""))

# Spark type names that differ from Iceberg's.
_SPARK_TYPES = {
    "long": "bigint",
    TIME: "timestamp",
    LEVELS: "array<struct<price:{},qty:{}>>".format(*_PRICE_AND_QTY),
}

# Properties of tables that Structured Streaming appends to: no shuffle, each task writes the rows that it reads.
APPENDED_BY_SPARK = {"write.distribution-mode": "none", "write.spark.fanout.enabled": "true"}

# DuckDB type names that differ from Iceberg's.
DUCKDB_TYPES = {
    "long": "BIGINT",
    "int": "INTEGER",
    "string": "VARCHAR",
    "binary": "BLOB",
    TIME: "TIMESTAMPTZ",
    LEVELS: "STRUCT(price {}, qty {})[]".format(*_PRICE_AND_QTY),
}


def spark_type(iceberg_type: str) -> str:
    """Return Spark's name of an Iceberg type."""
    return _SPARK_TYPES.get(iceberg_type, iceberg_type.replace(" ", ""))


def _levels_type(field_ids: Iterator[int]) -> IcebergType:
    """Return Iceberg's type of `LEVELS` with the next field ids."""
    from pyiceberg.types import ListType, NestedField, StructType

    element_id = next(field_ids)
    return ListType(
        element_id=element_id,
        element_type=StructType(
            NestedField(field_id=next(field_ids), name="price", type=PRICE, required=False),
            NestedField(field_id=next(field_ids), name="qty", type=QUANTITY, required=False),
        ),
        element_required=False,
    )


BRONZE_STREAM = "Bronze stream"  # its name in `TableSpec.writers`


@dataclass(frozen=True)
class TableSpec:
    """One table. `key` is unique unless the table is append-only; `partition` is (column, transform).

    `rewritten`: its writer keeps the number of files low, so maintenance neither compacts it nor rewrites its
    manifests. `pooled`: Dagster runs write it, one run at a time. `writers`: the writing assets or parts of the
    platform, unless the writer is the asset with the table's name.
    """

    namespace: str
    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    partition: tuple[str, str] | None = None
    rewritten: bool = False
    pooled: bool = False
    writers: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def identifier(self) -> tuple[str, str]:
        """PyIceberg's identifier within the catalog."""
        return (self.namespace, self.name)

    @property
    def full_name(self) -> str:
        """The name in SQL: `cryptolake.silver.futures_ohlcv_1m`."""
        return f"{CATALOG}.{self.namespace}.{self.name}"

    @property
    def writer_pool(self) -> str:
        """The Dagster pool of the runs that write it, if it is `pooled`."""
        return f"{self.namespace}_{self.name}"

    @property
    def owners(self) -> tuple[str, ...]:
        """Return the assets, or parts of the platform, that write it."""
        return self.writers or ("/".join(self.identifier),)

    @property
    def time_column(self) -> str:
        """The column of the key that places a row in time."""
        return next(name for name in self.key if self._type(name) in (TIME, "date"))

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def iceberg_schema(self) -> Schema:
        """Return the schema: field ids from 1 in column order, all optional because Spark streams nullable rows.

        The ids of nested fields follow those of the columns.
        """
        from pyiceberg.schema import Schema
        from pyiceberg.types import NestedField

        nested_ids = count(len(self.columns) + 1)
        return Schema(
            *(
                NestedField(
                    field_id=number,
                    name=column.name,
                    type=_levels_type(nested_ids) if column.type == LEVELS else column.type,
                    required=False,
                    doc=column.doc,
                )
                for number, column in enumerate(self.columns, start=1)
            )
        )

    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema that PyIceberg accepts for writes to this table."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        return schema_to_pyarrow(self.iceberg_schema(), include_field_ids=False)

    def duckdb_type(self, column: str) -> str:
        """Return DuckDB's type name of a column."""
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


def stream_table(
    name: str,
    doc: str,
    contract: tuple[Column, ...],
    kafka_note: str = "",
    writers: tuple[str, ...] = (BRONZE_STREAM,),
    partition_time: str = "event_time",
) -> TableSpec:
    """Return the append-only Bronze table of a stream's events: the contract's columns and the Kafka position.

    It is partitioned by the hour of `partition_time`. `kafka_note` is appended to the docs of the Kafka columns.
    """
    return TableSpec(
        namespace="bronze",
        name=name,
        doc=doc,
        columns=(*contract, *kafka_columns(kafka_note)),
        partition=(partition_time, "hour"),
        writers=writers,
        properties=APPENDED_BY_SPARK,
    )


def kafka_columns(note: str = "") -> tuple[Column, ...]:
    """Return the columns of an event's Kafka position; `note` is appended to their docs."""
    return (
        Column("kafka_partition", "int", f"Kafka partition of the record{note}"),
        Column("kafka_offset", "long", f"Kafka offset of the record{note}"),
        Column("kafka_timestamp", TIME, f"Kafka timestamp of the record{note}"),
    )
