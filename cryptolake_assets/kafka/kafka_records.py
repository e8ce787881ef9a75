"""The record format of events on a Kafka topic, and the Spark SQL that turns records into rows.

An event is a JSON object: times as µs since 1970, decimals with the exchange's own digits. One predicate separates
events from other records, so that every record lands in exactly one table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cryptolake_assets.model.columns import (
    LEVEL_PATTERNS,
    LEVELS,
    PRICE,
    QUANTITY,
    TIME,
    Column,
    decimal_digits,
    decimal_pattern,
)
from cryptolake_assets.model.table_spec import spark_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

KAFKA_COLUMNS = (
    "partition AS kafka_partition",
    "offset AS kafka_offset",
    "timestamp AS kafka_timestamp",
)
VALUE = "CAST(value AS STRING)"
_TEXT_PATTERN = r'"[^"\\\x00-\x1f\x7f-\x9f\ufffd]*+"'  # without U+FFFD: Spark reads invalid UTF-8 as it
_INTEGER_PATTERN = "(?:0|[1-9][0-9]{0,17})"


@dataclass(frozen=True)
class KafkaRecordFormat:
    """The record format of a contract; columns in `optional` may be null or missing.

    The SQL refers to columns with the contract's names, as `with_event` creates them.
    """

    contract: Sequence[Column]
    optional: Collection[str] = ()

    @cached_property
    def schema(self) -> str:
        """Spark's schema of the JSON."""
        return ", ".join(f"{column.name} {_json_type(column)}" for column in self.contract)

    @cached_property
    def values(self) -> list[str]:
        """SQL expressions of the lake's columns."""
        return [_value(column) for column in self.contract]

    @cached_property
    def is_sound(self) -> str:
        """SQL predicate: a record is an event of the contract; never NULL."""
        parts = [f"{column.name} IS NOT NULL" for column in self.contract if column.name not in self.optional]
        parts += [
            f"({column.name} IS NULL OR {is_valid})" if column.name in self.optional else is_valid
            for column in self.contract
            if (is_valid := _is_valid(column))
        ]
        return f"coalesce({' AND '.join(parts)}, false)"

    @cached_property
    def written(self) -> str:
        """Pattern of a record as the producer writes it: each match is an event and needs no parsing.

        Other records may still be events. For contracts of strings, times, decimals and ids without optional columns.
        """
        return r"\{" + ",".join(f'"{column.name}":{_written(column)}' for column in self.contract) + r"\}"


def matches(text: str, pattern: str) -> str:
    """Return SQL that matches the entire text; backslashes are doubled in the literal."""
    literal = rf"\A{pattern}\z".replace("\\", "\\\\")
    return f"{text} RLIKE '{literal}'"


def with_event(records: DataFrame, record_format: KafkaRecordFormat) -> DataFrame:
    """Return Kafka's records with the contract's columns in the record format.

    They are all NULL if a value is not a JSON object. Uses a generator: Spark would push a filter on struct fields
    below the projection, and parse the JSON again for each field in the filter.
    """
    return records.selectExpr("*", f"inline_outer(array(from_json({VALUE}, '{record_format.schema}')))")


def sound_rows(records: DataFrame, record_format: KafkaRecordFormat) -> DataFrame:
    """Return the contract's events with their Kafka coordinates; drop other records."""
    return (
        with_event(records, record_format)
        .where(record_format.is_sound)
        .selectExpr(*record_format.values, *KAFKA_COLUMNS)
    )


def _json_type(column: Column) -> str:
    if column.type == LEVELS:
        return "array<array<string>>"
    if column.type.startswith("decimal"):
        return "string"
    return "bigint" if column.type == TIME else spark_type(column.type)


def _value(column: Column) -> str:
    """Return SQL that converts a value of the record format to the lake's type."""
    if column.type == LEVELS:
        parts = [
            f"'{name}', try_cast(level[{index}] AS {spark_type(kind)})"
            for index, (name, kind) in enumerate((("price", PRICE), ("qty", QUANTITY)))
        ]
        return f"transform({column.name}, level -> named_struct({', '.join(parts)})) AS {column.name}"
    if column.type.startswith("decimal"):
        return f"try_cast({column.name} AS {spark_type(column.type)}) AS {column.name}"
    if column.type == TIME:
        return f"timestamp_micros({column.name}) AS {column.name}"
    return column.name


def _is_valid(column: Column) -> str:
    """Return SQL that is true for values which fit the type without rounding; empty if all values do."""
    if column.type == LEVELS:
        fits = [matches(f"level[{index}]", pattern) for index, pattern in enumerate(LEVEL_PATTERNS)]
        return f"forall({column.name}, level -> size(level) = 2 AND {' AND '.join(fits)})"
    pattern = _decimal_pattern(column)
    return matches(column.name, pattern) if pattern else ""


def _decimal_pattern(column: Column) -> str | None:
    """Return the pattern of values that fit the decimal type without rounding; None for other types."""
    return decimal_pattern(column.type) if decimal_digits(column.type) else None


def _written(column: Column) -> str:
    if pattern := _decimal_pattern(column):
        return f'"{pattern}"'
    return _TEXT_PATTERN if _json_type(column) == "string" else _INTEGER_PATTERN
