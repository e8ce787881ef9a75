"""Encoding of rows, exact in every format."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import csv, ipc, parquet

from cryptolake_assets.api.formats import choose, encode
from cryptolake_assets.api.params import Format
from cryptolake_assets.api.problems import Problem

NUMBERS = ("0.0000000000000001", "1234567890123456789012.1234567890123456", "-0.0000000000000001", None)
ROWS = pa.table(
    {
        "price": pa.array([Decimal(text) if text else None for text in NUMBERS], pa.decimal128(38, 16)),
        "at": pa.array([datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC")),
        "window_start": pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC")),
        "ratio": pa.array([0.1, 1e-300, 2.0, None]),
    }
)


def test_json_has_every_digit_and_utc() -> None:
    response = json.loads(encode(ROWS, Format.JSON, "rows", {"symbol": "A"}, {"next_cursor": None}))
    assert [row["price"] for row in response["rows"]] == list(NUMBERS)
    assert response["rows"][0]["at"] == "2025-01-01T00:00:00.000001Z"
    assert response["rows"][0]["window_start"] == "2025-01-01T00:00:00Z"
    assert [row["ratio"] for row in response["rows"]] == [0.1, 1e-300, 2.0, None]
    assert (response["symbol"], response["next_cursor"]) == ("A", None)


def test_ndjson_has_one_row_per_line() -> None:
    lines = encode(ROWS, Format.NDJSON, "rows", {}).decode().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(encode(ROWS, Format.JSON, "rows", {}))["rows"]


def test_csv_has_every_digit() -> None:
    text = csv.ConvertOptions(column_types={"price": pa.string()}, strings_can_be_null=True)
    read = csv.read_csv(io.BytesIO(encode(ROWS, Format.CSV, "rows", {})), convert_options=text)
    assert read["price"].to_pylist() == list(NUMBERS)


def test_parquet_and_arrow_keep_values_and_types() -> None:
    by_parquet = parquet.read_table(io.BytesIO(encode(ROWS, Format.PARQUET, "rows", {})))
    by_arrow = ipc.open_stream(encode(ROWS, Format.ARROW, "rows", {})).read_all()
    assert by_parquet.equals(ROWS)
    assert by_arrow.equals(ROWS)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.JSON),
        ("*/*", Format.JSON),
        ("text/csv", Format.CSV),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format.JSON),
        ("application/json;q=0.1, application/vnd.apache.arrow.stream", Format.ARROW),
        ("application/x-ndjson", Format.NDJSON),
        ("text/csv;q=0, application/vnd.apache.parquet;q=0.5", Format.PARQUET),
        ("application/json;q=0, */*", Format.NDJSON),
        ("application/json;q=0, application/x-ndjson;q=0, application/*", Format.PARQUET),
    ],
)
def test_preferred_format_is_chosen(accept: str | None, expected: Format) -> None:
    assert choose(None, accept) is expected
    assert choose(Format.CSV, accept) is Format.CSV


def test_unavailable_format_is_406() -> None:
    with pytest.raises(Problem) as rejection:
        choose(None, "image/png, text/csv;q=0, text/*")
    assert rejection.value.status == 406
