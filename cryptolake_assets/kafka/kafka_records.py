"""How the events of a contract stand on a Kafka topic, and the Spark SQL that makes rows of them.

An event is a JSON object: times as µs since 1970, decimals as the exchange's own digits. A record that is none is told
by one predicate, so that every record ends in one table or the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cryptolake_assets.model.columns import TIME, Column, decimal_digits, decimal_pattern
from cryptolake_assets.model.table_spec import spark_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

KAFKA_COLUMNS = (
    "partition AS kafka_partition",
    "offset AS kafka_offset",
    "timestamp AS kafka_timestamp",
)
VALUE = "CAST(value AS STRING)"
_TEXT_PATTERN = r'"[^"\\\x00-\x1f\x7f-\x9f\ufffd]*+"'
"""Without U+FFFD, as which Spark reads bytes that are not UTF-8."""
_INTEGER_PATTERN = "(?:0|[1-9][0-9]{0,17})"


@dataclass(frozen=True)
class KafkaRecordFormat:
    """The columns of a contract; those in `optional` may be null or missing.

    The SQL is about columns of the contract's names, as `with_event` makes them.
    """

    contract: Sequence[Column]
    optional: Collection[str] = ()

    @cached_property
    def schema(self) -> str:
        """Spark's schema of the JSON."""
        return ", ".join(f"{column.name} {_json_type(column)}" for column in self.contract)

    @cached_property
    def values(self) -> list[str]:
        """SQL of each column of the lake."""
        return [_value(column) for column in self.contract]

    @cached_property
    def is_sound(self) -> str:
        """SQL: whether a record is an event of the contract; never NULL."""
        parts = [f"{column.name} IS NOT NULL" for column in self.contract if column.name not in self.optional]
        for column in self.contract:
            if pattern := _decimal_pattern(column):
                fits = matches(column.name, pattern)
                parts.append(f"({column.name} IS NULL OR {fits})" if column.name in self.optional else fits)
        return f"coalesce({' AND '.join(parts)}, false)"

    @cached_property
    def written(self) -> str:
        """What a record looks like as the producer writes it, for contracts of texts, times, decimals and ids without
        optional columns: a pattern. A record that matches is an event of the contract, and need not be taken apart to
        know that; any other may still be one."""
        return r"\{" + ",".join(f'"{column.name}":{_written(column)}' for column in self.contract) + r"\}"


def matches(text: str, pattern: str) -> str:
    """SQL: whether the whole text matches; in a literal each backslash is doubled."""
    literal = rf"\A{pattern}\z".replace("\\", "\\\\")
    return f"{text} RLIKE '{literal}'"


def with_event(records: DataFrame, record_format: KafkaRecordFormat) -> DataFrame:
    """Kafka's records with the contract's columns in the record format, all NULL where a value holds no JSON object.

    By a generator: a filter on the fields of a struct is pushed below it, and the JSON is taken apart anew for each
    field that the filter names.
    """
    return records.selectExpr("*", f"inline_outer(array(from_json({VALUE}, '{record_format.schema}')))")


def sound_rows(records: DataFrame, record_format: KafkaRecordFormat) -> DataFrame:
    """The contract's events with their Kafka coordinates; other records are left out."""
    return (
        with_event(records, record_format)
        .where(record_format.is_sound)
        .selectExpr(*record_format.values, *KAFKA_COLUMNS)
    )


def _json_type(column: Column) -> str:
    if column.type.startswith("decimal"):
        return "string"
    return "bigint" if column.type == TIME else spark_type(column.type)


def _value(column: Column) -> str:
    """SQL that turns a value of the record format into the lake's type."""
    if column.type.startswith("decimal"):
        return f"try_cast({column.name} AS {spark_type(column.type)}) AS {column.name}"
    if column.type == TIME:
        return f"timestamp_micros({column.name}) AS {column.name}"
    return column.name


def _decimal_pattern(column: Column) -> str | None:
    """What fits the column's decimal type without rounding; None for another type."""
    return decimal_pattern(column.type) if decimal_digits(column.type) else None


def _written(column: Column) -> str:
    if pattern := _decimal_pattern(column):
        return f'"{pattern}"'
    return _TEXT_PATTERN if _json_type(column) == "string" else _INTEGER_PATTERN
