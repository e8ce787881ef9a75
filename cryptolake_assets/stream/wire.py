"""How the events of a contract stand on a Kafka topic, and the Spark SQL that makes rows of them.

An event is a JSON object: times as µs since 1970, decimals as the exchange's own digits. A record that is none is told
by one predicate, so that every record ends in one table or the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cryptolake_assets.lake.columns import TIME, Column
from cryptolake_assets.lake.table_spec import SPARK_TYPES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

KAFKA_COLUMNS = (
    "partition AS kafka_partition",
    "offset AS kafka_offset",
    "timestamp AS kafka_timestamp",
)
_DECIMAL = re.compile(r"decimal\((\d+), (\d+)\)")


@dataclass(frozen=True)
class Wire:
    """The columns of a contract; those in `optional` may be null or missing."""

    contract: Sequence[Column]
    optional: Collection[str] = ()

    @cached_property
    def schema(self) -> str:
        """Spark's schema of the JSON."""
        return ", ".join(f"{column.name} {_wire_type(column)}" for column in self.contract)

    @cached_property
    def values(self) -> list[str]:
        """SQL of each column of the lake, from the column `event`."""
        return [_value(column) for column in self.contract]

    @cached_property
    def is_sound(self) -> str:
        """SQL: whether a record is an event of the contract; never NULL."""
        parts = [f"event.{column.name} IS NOT NULL" for column in self.contract if column.name not in self.optional]
        for column in self.contract:
            if pattern := _pattern(column):
                fits = f"event.{column.name} RLIKE '{pattern}'"
                parts.append(f"(event.{column.name} IS NULL OR {fits})" if column.name in self.optional else fits)
        return f"coalesce({' AND '.join(parts)}, false)"


def with_event(records: DataFrame, wire: Wire) -> DataFrame:
    """Kafka's records with the JSON of their value as `event`."""
    return records.selectExpr("*", f"from_json(CAST(value AS STRING), '{wire.schema}') AS event")


def sound_rows(records: DataFrame, wire: Wire) -> DataFrame:
    """The contract's events with their Kafka coordinates; other records are left out."""
    return with_event(records, wire).where(wire.is_sound).selectExpr(*wire.values, *KAFKA_COLUMNS)


def _spark_type(column: Column) -> str:
    return SPARK_TYPES.get(column.type, column.type.replace(" ", ""))


def _wire_type(column: Column) -> str:
    if column.type.startswith("decimal"):
        return "string"
    return "bigint" if column.type == TIME else _spark_type(column)


def _value(column: Column) -> str:
    """SQL that turns a wire value into the lake's type."""
    if column.type.startswith("decimal"):
        return f"try_cast(event.{column.name} AS {_spark_type(column)}) AS {column.name}"
    if column.type == TIME:
        return f"timestamp_micros(event.{column.name}) AS {column.name}"
    return f"event.{column.name} AS {column.name}"


def _pattern(column: Column) -> str | None:
    """What fits the column's decimal type without rounding; doubled backslashes because it stands in a SQL literal."""
    match = _DECIMAL.fullmatch(column.type)
    if match is None:
        return None
    precision, scale = map(int, match.groups())
    return rf"^-?[0-9]{{1,{precision - scale}}}(\\.[0-9]{{1,{scale}}})?$"
