"""The answers' shapes for the OpenAPI document, from the tables' own columns. Answers are not validated by them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model

from cryptolake_assets.api.formats import MEDIA_TYPES, SNAPSHOT_IDS
from cryptolake_assets.api.params import Format
from cryptolake_assets.api.problems import MEDIA_TYPE
from cryptolake_assets.lake.columns import Column

_KINDS: dict[str, Any] = {
    "string": str,
    "long": int,
    "int": int,
    "double": float,
    "boolean": bool,
    "date": date,
    "timestamptz": datetime,
}
NextCursor = Annotated[str | None, Field(description="`cursor` of the next page; null at the end.")]
SnapshotId = Annotated[str | None, Field(description="The snapshot that was read; null while the table is empty.")]


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def row_model(name: str, columns: tuple[Column, ...], without: tuple[str, ...] = ()) -> type[BaseModel]:
    """A row as JSON: decimals are strings, times RFC 3339."""
    fields: dict[str, Any] = {
        column.name: (_kind(column) | None, Field(description=column.doc))
        for column in columns
        if column.name not in without
    }
    return create_model(name, **fields)


def _kind(column: Column) -> Any:
    if column.type.startswith("decimal"):
        return Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
    return str if column.name in SNAPSHOT_IDS else _KINDS[column.type]


def page_model(name: str, rows_name: str, row: Any, **envelope: Any) -> type[BaseModel]:
    """A page: what stands beside the rows, the snapshot, the rows and the next page's cursor."""
    fields: dict[str, Any] = {
        **{key: (kind, ...) for key, kind in envelope.items()},
        "snapshot_id": (SnapshotId, ...),
        rows_name: (list[row], ...),
        "next_cursor": (NextCursor, ...),
    }
    return create_model(name, **fields)


def problem(description: str) -> dict[str, Any]:
    """An error's entry in the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def responses(*, of_a_symbol: bool) -> dict[int | str, dict[str, Any]]:
    """What a table's route may answer."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {kind.partition(";")[0]: binary for name, kind in MEDIA_TYPES.items() if name is not Format.JSON}
    missing = "Unknown symbol, snapshot or cursor" if of_a_symbol else "Unknown snapshot or cursor"
    return {
        200: {"content": content, "description": "A page, or the whole range as CSV, Parquet or Arrow."},
        304: {"description": "The client has it already (`If-None-Match`)."},
        **common(),
        404: problem(missing),
        406: problem("None of the accepted formats is offered"),
        413: problem("Larger than the memory bound (CSV, Parquet, Arrow)"),
        422: problem("A parameter is missing or does not parse"),
        503: problem("The table does not exist (yet)"),
    }


def common() -> dict[int | str, dict[str, Any]]:
    """What every route may answer."""
    return {401: problem("Key needed"), 403: problem("The key lacks a scope"), 429: problem("Too many requests")}
