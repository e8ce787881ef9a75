"""Rows as bytes: JSON, NDJSON, CSV, Parquet and Arrow. Decimals are exact text, times RFC 3339 in UTC. Pure."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
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
ACCEPTED = {
    "*/*": tuple(Format),
    "application/*": tuple(name for name in Format if name is not Format.CSV),
    "text/*": (Format.CSV,),
    "application/ndjson": (Format.NDJSON,),
    **{media_type.partition(";")[0]: (name,) for name, media_type in MEDIA_TYPES.items()},
}
"""By media type of an `Accept` header, the most wanted format first."""

WHOLE_SECONDS = ("window_start", "open_time", "latest_minute", "first_minute", "last_minute")
"""Times that begin a minute: they are written without a fraction."""


SNAPSHOT_IDS = ("snapshot", "source_snapshot")
"""Columns of ids that JSON's readers would round: text, as `snapshot_id` is."""


def choose(wanted: Format | None, accept: str | None, offered: Collection[Format] = tuple(Format)) -> Format:
    """`format=` first, then the most wanted media type that is offered, JSON without either. Raises a problem (406)."""
    if wanted is not None:
        return wanted
    if not accept:
        return Format.JSON
    ranked = []
    for place, item in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            ranked.append((-float(quality), place, name))
        except ValueError:
            continue
    refused = {ACCEPTED[name] for negative, _, name in ranked if negative == 0 and name in ACCEPTED}
    for negative, _, name in sorted(ranked):
        for fmt in ACCEPTED.get(name, ()):
            if negative < 0 and (fmt,) not in refused and fmt in offered:
                return fmt
    names = ", ".join(MEDIA_TYPES[fmt].partition(";")[0] for fmt in offered)
    raise Problem(406, "not-acceptable", "Not acceptable", f"Answers can be had as {names}.")


def as_text(rows: pa.Table) -> pa.Table:
    """The same rows with decimals, times and dates as text."""
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
    """Rows as JSON has them."""
    found: list[dict[str, Any]] = as_text(rows).to_pylist()
    return found


def encode(
    rows: pa.Table, fmt: Format, name: str, envelope: Mapping[str, Any], trailer: Mapping[str, Any] | None = None
) -> bytes:
    """The answer's body. JSON is `envelope`, the rows under `name` and `trailer`; the others are the rows."""
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
