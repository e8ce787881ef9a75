"""Encode rows as JSON, NDJSON, CSV, Parquet or Arrow. Decimals are exact text, times RFC 3339 in UTC. Pure."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from cryptolake_assets.api.params import Format
from cryptolake_assets.api.problems import Problem
from cryptolake_assets.lake.duck import open_duckdb

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv; charset=utf-8",
    Format.PARQUET: "application/vnd.apache.parquet",
    Format.ARROW: "application/vnd.apache.arrow.stream",
}
# Formats by media type of an `Accept` header, the preferred format first.
ACCEPTED = {
    "*/*": tuple(Format),
    "application/*": tuple(name for name in Format if name is not Format.CSV),
    "text/*": (Format.CSV,),
    "application/ndjson": (Format.NDJSON,),
    **{media_type.partition(";")[0]: (name,) for name, media_type in MEDIA_TYPES.items()},
}

# Columns with whole minutes: written without a fraction of a second.
WHOLE_SECONDS = ("window_start", "open_time", "latest_minute", "first_minute", "last_minute")


# Written as text, like `snapshot_id`: JSON parsers would round these 64-bit ids.
SNAPSHOT_IDS = ("snapshot", "source_snapshot")


def choose(requested: Format | None, accept: str | None, offered: Collection[Format] = tuple(Format)) -> Format:
    """Return `requested` (`format=`), else the preferred offered media type of `accept`, else JSON.

    Raises a problem (406) if no accepted format is offered.
    """
    if requested is not None:
        return requested
    if not accept:
        return Format.JSON
    ranked = []
    for position, item in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            ranked.append((-float(quality), position, name))
        except ValueError:
            continue
    rejected = {ACCEPTED[name] for negative, _, name in ranked if negative == 0 and name in ACCEPTED}
    for negative, _, name in sorted(ranked):
        for fmt in ACCEPTED.get(name, ()):
            if negative < 0 and (fmt,) not in rejected and fmt in offered:
                return fmt
    names = ", ".join(MEDIA_TYPES[fmt].partition(";")[0] for fmt in offered)
    raise Problem(
        406, "not-acceptable", "Not acceptable", f"None of the accepted formats is available. Available: {names}."
    )


def as_text(rows: pa.Table) -> pa.Table:
    """Return the rows with decimals, times and dates as text."""
    with open_duckdb() as duck:
        duck.register("exact", rows)
        columns = ", ".join(f'{_text(field)} AS "{field.name}"' for field in rows.schema)
        return duck.sql(f"SELECT {columns} FROM exact").to_arrow_table() if rows.num_columns else rows


def _text(field: pa.Field) -> str:
    import pyarrow.types as kinds

    if kinds.is_decimal(field.type) or kinds.is_date(field.type) or field.name in SNAPSHOT_IDS:
        return f'CAST("{field.name}" AS VARCHAR)'
    if kinds.is_timestamp(field.type):
        fraction = "" if field.name in WHOLE_SECONDS else ".%f"
        return f"strftime(make_timestamp(epoch_us(\"{field.name}\")), '%Y-%m-%dT%H:%M:%S{fraction}Z')"
    return f'"{field.name}"'


def records(rows: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as JSON objects."""
    found: list[dict[str, Any]] = as_text(rows).to_pylist()
    return found


def record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of Python values as a JSON object: the same as `records`, without DuckDB."""
    return {name: _value_text(name, value) for name, value in row.items()}


def _value_text(name: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ" if name in WHOLE_SECONDS else "%Y-%m-%dT%H:%M:%S.%fZ")
    return value


def encode(
    rows: pa.Table, fmt: Format, name: str, envelope: Mapping[str, Any], trailer: Mapping[str, Any] | None = None
) -> bytes:
    """Return the response body. JSON has `envelope`, the rows as `name`, and `trailer`; other formats only the rows."""
    if fmt is Format.JSON:
        return orjson.dumps({**envelope, name: records(rows), **(trailer or {})})
    if fmt is Format.NDJSON:
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in records(rows))
    return {Format.CSV: _csv, Format.PARQUET: _parquet, Format.ARROW: _arrow}[fmt](rows)


def _csv(rows: pa.Table) -> bytes:
    from pyarrow import csv

    sink = io.BytesIO()
    csv.write_csv(as_text(rows), sink, csv.WriteOptions(quoting_style="needed"))
    return sink.getvalue()


def _parquet(rows: pa.Table) -> bytes:
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _arrow(rows: pa.Table) -> bytes:
    from pyarrow import ipc

    sink = io.BytesIO()
    with ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue()
